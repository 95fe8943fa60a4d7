// AVX2 with FMA and F16C: eight lanes; vpmaddubsw where its 16-bit sums cannot saturate.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace ISA {

constexpr int WIDTH = 8;
constexpr int MAX_ROWS = 2;

using F = __m256;
using I = __m256i;
using B = __m256i;

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline F set(float x) { return _mm256_set1_ps(x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F magnitude(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline float total(F a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float largest(F a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F times_power(F a, F n) {
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(power));
}

inline F from_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline F from_bfloat(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}

inline I zero() { return _mm256_setzero_si256(); }
inline I add(I a, I b) { return _mm256_add_epi32(a, b); }
inline int total(I a) {
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
inline I nearest(F a) { return _mm256_cvtps_epi32(a); }
inline F to_float(I a) { return _mm256_cvtepi32_ps(a); }
inline void store_bytes(int8_t* p, I a) {
    __m128i x = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(x, x));
}
inline I from_bytes(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
inline I from_int(int x) { return _mm256_set1_epi32(x); }

inline B load_weights(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline B low_nibbles(B w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
inline B high_nibbles(B w) { return _mm256_and_si256(_mm256_srli_epi16(w, 4), _mm256_set1_epi8(15)); }
inline B quad(const int8_t* p) {
    int x;
    std::memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}
inline I dot4(I sum, B weights, B inputs) {  // 2 x 15 x 127 fits 16 bits
    __m256i pairs = _mm256_maddubs_epi16(weights, inputs);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline I dot8(I sum, B weights, B inputs) {  // 2 x 255 x 127 does not: nibble by nibble
    __m256i high = _mm256_maddubs_epi16(high_nibbles(weights), inputs);
    high = _mm256_madd_epi16(high, _mm256_set1_epi16(16));
    return dot4(_mm256_add_epi32(sum, high), low_nibbles(weights), inputs);
}
inline I times(I level, I count) { return _mm256_madd_epi16(level, count); }
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace ISA
