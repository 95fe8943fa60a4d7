// The vectors of the instruction set that this file is compiled for. What is compiled with other flags lies in another
// namespace, so that the linker never hands one path's inline function to another.
#pragma once

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define CATENA_ISA avx512
#define ISA catena_avx512
#include "avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define CATENA_ISA avx2
#define ISA catena_avx2
#include "avx2.h"
#else
#define CATENA_ISA scalar
#define ISA catena_scalar
#include "portable.h"
#endif
