// CATENA_ISA: the instruction set that this translation unit's flags allow, as a namespace. What is compiled with other
// flags lies in another one, so that the linker never hands one path's inline function to another.
#pragma once

#ifndef CATENA_ISA
#if defined(__AVX512F__)
#define CATENA_ISA avx512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define CATENA_ISA avx2
#else
#define CATENA_ISA scalar
#endif
#endif
