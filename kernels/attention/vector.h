// Sixteen floats as one value on each instruction set.
//
// kernels/simd has vectors too, as wide as a register: the linear layers cut their panels and tiles by that width. Here
// a value is always the 16 tokens of a page, on AVX2 two registers and on a plain processor an array, so that sums fold
// in one order on every path. With these the linear layers' tiles would not fit AVX2's registers; with those attention
// would have an order of sums for each instruction set.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../simd/isa.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace catena {
namespace CATENA_ISA {

constexpr int LANES = 16;
constexpr float INFINITE = std::numeric_limits<float>::infinity();
// (2^r - 1) / r on [-0.5, 0.5], minimax in the relative error of 2^r: 2e-9, 8e-8 after rounding
constexpr float EXP2[6] = {0.693147203f, 0.240226479f, 0.0555033247f, 0.00961843736f, 0.00133988744f, 0.000153533619f};
constexpr float EXP2_LOWEST = -200.f;  // 2^-200 is 0 in single precision, and minus infinity has no fraction

// IEEE half from float and back by integers alone, rounding to nearest even, as the vector instructions do.
inline uint16_t half_bits(float value) {
    uint32_t x;
    std::memcpy(&x, &value, 4);
    const uint32_t sign = x >> 16 & 0x8000;
    x &= 0x7fffffff;
    if (x > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (x >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (x < 0x38800000) {  // subnormal: the float adder rounds at 2^-24
        float magnitude;
        std::memcpy(&magnitude, &x, 4);
        magnitude += 0.5f;
        std::memcpy(&x, &magnitude, 4);
        return uint16_t(sign | (x - 0x3f000000));
    }
    return uint16_t(sign | ((x - 0x38000000 + 0xfff + (x >> 13 & 1)) >> 13));
}

inline float half_value(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t x;
    float value;
    if (rest >= 0x7c00) {
        x = sign | 0x7f800000 | (rest & 0x3ff) << 13;
        std::memcpy(&value, &x, 4);
    } else if (rest >= 0x400) {
        x = sign | ((rest << 13) + 0x38000000);
        std::memcpy(&value, &x, 4);
    } else {
        value = float(rest) * 0x1p-24f;
        if (sign) value = -value;
    }
    return value;
}

#if defined(__AVX512F__)

struct Floats { __m512 v; };
struct Table { __m512 v; };

inline Floats fill(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x.v); }
inline Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats sub(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is NaN
inline Floats smaller(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline Floats load_bytes(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline Table table(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void load_levels(const uint8_t* p, Table levels, Floats& low, Floats& high) {
    const __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
    low.v = _mm512_permutexvar_ps(pairs, levels.v);  // reads the low four bits of an index
    high.v = _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), levels.v);
}
inline Floats first(Floats x, int count, float otherwise) {
    return {_mm512_mask_mov_ps(_mm512_set1_ps(otherwise), __mmask16((1u << count) - 1), x.v)};
}
inline Floats exp2(Floats x) {
    x = larger(fill(EXP2_LOWEST), x);
    const __m512 whole = _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Floats r = {_mm512_sub_ps(x.v, whole)};
    Floats y = fill(EXP2[5]);
    for (int i = 4; i >= 0; i--) y = fma(y, r, fill(EXP2[i]));
    return {_mm512_scalef_ps(fma(y, r, fill(1.f)).v, whole)};
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct Floats { __m256 a, b; };
struct Table { __m256 a, b; };

inline Floats fill(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Floats x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
inline Floats add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Floats sub(Floats x, Floats y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Floats mul(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Floats fma(Floats x, Floats y, Floats z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Floats larger(Floats x, Floats y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Floats smaller(Floats x, Floats y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Floats load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline Floats load_bytes(const int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
inline Table table(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256 look_up(__m256i index, Table levels) {
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 becomes the sign
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(levels.a, index), _mm256_permutevar8x32_ps(levels.b, index),
                            upper);
}
inline void load_levels(const uint8_t* p, Table levels, Floats& low, Floats& high) {
    const __m256i a = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
    const __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)));
    low = {look_up(a, levels), look_up(b, levels)};
    high = {look_up(_mm256_srli_epi32(a, 4), levels), look_up(_mm256_srli_epi32(b, 4), levels)};
}
inline Floats first(Floats x, int count, float otherwise) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), end = _mm256_set1_epi32(count);
    const __m256 rest = _mm256_set1_ps(otherwise);
    return {_mm256_blendv_ps(rest, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(end, lane))),
            _mm256_blendv_ps(rest, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(
                _mm256_sub_epi32(end, _mm256_set1_epi32(8)), lane)))};
}
inline __m256 exp2(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(EXP2_LOWEST), x);
    const __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm256_sub_ps(x, whole);
    __m256 y = _mm256_set1_ps(EXP2[5]);
    for (int i = 4; i >= 0; i--) y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(EXP2[i]));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.f));
    const __m256i power = _mm256_max_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)),
                                           _mm256_setzero_si256());  // below the normal numbers: zero
    return _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
}
inline Floats exp2(Floats x) { return {exp2(x.a), exp2(x.b)}; }

#else

struct Floats { float v[LANES]; };
struct Table { const float* v; };

template <class Lane> inline Floats each(Lane lane) {
    Floats y;
    for (int i = 0; i < LANES; i++) y.v[i] = lane(i);
    return y;
}
inline Floats fill(float x) { return each([&](int) { return x; }); }
inline Floats load(const float* p) { return each([&](int i) { return p[i]; }); }
inline void store(float* p, const Floats& x) { std::memcpy(p, x.v, sizeof x.v); }
inline Floats add(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Floats sub(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Floats mul(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Floats larger(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats smaller(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats load_half(const uint16_t* p) { return each([&](int i) { return half_value(p[i]); }); }
inline Floats load_bytes(const int8_t* p) { return each([&](int i) { return float(p[i]); }); }
inline Table table(const float* p) { return {p}; }
inline void load_levels(const uint8_t* p, Table levels, Floats& low, Floats& high) {
    low = each([&](int i) { return levels.v[p[i] & 15]; });
    high = each([&](int i) { return levels.v[p[i] >> 4]; });
}
inline Floats first(const Floats& x, int count, float otherwise) {
    return each([&](int i) { return i < count ? x.v[i] : otherwise; });
}
inline Floats exp2(const Floats& x) {
    return each([&](int i) {
        const float bounded = EXP2_LOWEST > x.v[i] ? EXP2_LOWEST : x.v[i];
        const float whole = (bounded + 12582912.f) - 12582912.f, r = bounded - whole;  // 1.5 * 2^23 rounds to nearest
        float y = EXP2[5];
        for (int k = 4; k >= 0; k--) y = y * r + EXP2[k];
        const int32_t power = whole > -127.f ? (int32_t(whole) + 127) << 23 : 0;
        float scale;
        std::memcpy(&scale, &power, 4);
        return (y * r + 1.f) * scale;
    });
}

#endif

// Lanes folded in halves: one order of additions on every path.
inline float sum(Floats x) {
    float v[LANES];
    store(v, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

inline float largest(Floats x) {
    float v[LANES];
    store(v, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
    return v[0];
}

}  // namespace CATENA_ISA
}  // namespace catena
