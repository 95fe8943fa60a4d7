// AVX-512 with VNNI: sixteen lanes, one vpdpbusd for each sixteen outputs and four inputs.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace ISA {

constexpr int WIDTH = 16;     // float lanes of a vector
constexpr int MAX_ROWS = 6;  // rows of a register tile: 2 x 6 products, as many sums, 2 weights, an input and a mask

using F = __m512;
using I = __m512i;
using B = __m512i;  // WIDTH x 4 bytes of weights

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F set(float x) { return _mm512_set1_ps(x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F magnitude(F a) { return _mm512_abs_ps(a); }
inline float total(F a) { return _mm512_reduce_add_ps(a); }
inline float largest(F a) { return _mm512_reduce_max_ps(a); }
inline F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F times_power(F a, F n) { return _mm512_scalef_ps(a, n); }  // a * 2^n

inline F from_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline F from_bfloat(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

inline I zero() { return _mm512_setzero_si512(); }
inline I add(I a, I b) { return _mm512_add_epi32(a, b); }
inline int total(I a) { return _mm512_reduce_add_epi32(a); }
inline I nearest(F a) { return _mm512_cvtps_epi32(a); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline void store_bytes(int8_t* p, I a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(a)); }
inline I from_bytes(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
inline I from_int(int x) { return _mm512_set1_epi32(x); }

inline B load_weights(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline B low_nibbles(B w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
inline B high_nibbles(B w) { return _mm512_and_si512(_mm512_srli_epi16(w, 4), _mm512_set1_epi8(15)); }
inline B quad(const int8_t* p) {  // four neighbouring inputs of one row, in every lane
    int x;
    std::memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
// sum + weights . inputs, weights unsigned: 0..15 in dot4, 0..255 in dot8
inline I dot4(I sum, B weights, B inputs) {
    // not the intrinsic: GCC 12 reorders a tile's products until its accumulators no longer fit the registers
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(inputs));
    return sum;
}
inline I dot8(I sum, B weights, B inputs) { return dot4(sum, weights, inputs); }
// level * count for levels 0..255 and a count that fits 16 bits
inline I times(I level, I count) { return _mm512_dpwssd_epi32(_mm512_setzero_si512(), level, count); }
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace ISA
