// Keys and values in pages: 16 tokens of K and V of one key/value head, in fp32, fp16, int8 or int4.
//
//   K    [head_dim][16]        transposed, so that one load is one dimension of 16 tokens
//   V    [16][padded head_dim] a row a token, padded to a multiple of 32 values
//   K's 16 scales, V's 16      fp16, int8 and int4 only: one a token
//
// int8: value = scale * q, q in -127..127. int4: K and V are turned by an orthonormal Hadamard matrix first (QuaRot,
// arXiv 2404.00456: an outlier channel is spread over all of them), what is then near a Gaussian is rounded to the 16
// levels of Lloyd (1957) and Max (1960), value = scale * LEVELS[q]. Byte i of an int4 run of 32 values holds
// value i below value i + 16; K's runs are two dimensions of 16 tokens, V's 32 dimensions of a token.
#pragma once

#include "vector.h"

namespace catena {
namespace CATENA_ISA {

struct Pages {  // one layer; the page of (block b, key/value head h) lies at base + (b * kv_heads + h) * page_bytes
    void* base;
    int kv_heads, head_dim, kind;  // kind: 32 fp32, 16 fp16, 8 int8, 4 int4; head_dim a multiple of 16 up to 256
    size_t page_bytes;
};

constexpr int PAGE = 16, MOST_DIM = 256;
constexpr float LARGEST_HALF = 65504.f, SMALLEST_HALF = 0x1p-24f;
// optimal levels of a unit Gaussian: Max, IRE Trans. Inform. Theory 6 (1960), table I, N = 16
constexpr float LEVELS[16] = {-2.7326f, -2.0690f, -1.6181f, -1.2562f, -0.9423f, -0.6568f, -0.3880f, -0.1284f,
                              0.1284f,  0.3880f,  0.6568f,  0.9423f,  1.2562f,  1.6181f,  2.0690f,  2.7326f};

inline int padded(int head_dim) { return (head_dim + 31) / 32 * 32; }

inline size_t key_bytes(int kind, int head_dim) { return size_t(PAGE) * head_dim * kind / 8; }
inline size_t value_bytes(int kind, int head_dim) { return size_t(PAGE) * padded(head_dim) * kind / 8; }

inline size_t attention_page_bytes(int kind, int head_dim) {
    return key_bytes(kind, head_dim) + value_bytes(kind, head_dim) + (kind >= 16 ? 0 : 2 * PAGE * sizeof(uint16_t));
}

inline uint8_t* page(const Pages& pages, int block, int kv_head) {
    return (uint8_t*)pages.base + (size_t(block) * pages.kv_heads + kv_head) * pages.page_bytes;
}

// Dimensions d and d + 1 of a page's 16 keys, without their scales; d is even.
template <int KIND> inline void keys(const uint8_t* page, int d, Table levels, Floats& even, Floats& odd) {
    if constexpr (KIND == 32) {
        even = load((const float*)page + d * PAGE);
        odd = load((const float*)page + d * PAGE + PAGE);
    } else if constexpr (KIND == 16) {
        even = load_half((const uint16_t*)page + d * PAGE);
        odd = load_half((const uint16_t*)page + d * PAGE + PAGE);
    } else if constexpr (KIND == 8) {
        even = load_bytes((const int8_t*)page + d * PAGE);
        odd = load_bytes((const int8_t*)page + d * PAGE + PAGE);
    } else {
        load_levels(page + d / 2 * PAGE, levels, even, odd);
    }
}

// 32 values, from dimension d on, of a row of V, without their scale; d is a multiple of 32.
template <int KIND> inline void values(const uint8_t* row, int d, Table levels, Floats& low, Floats& high) {
    if constexpr (KIND == 32) {
        low = load((const float*)row + d);
        high = load((const float*)row + d + LANES);
    } else if constexpr (KIND == 16) {
        low = load_half((const uint16_t*)row + d);
        high = load_half((const uint16_t*)row + d + LANES);
    } else if constexpr (KIND == 8) {
        low = load_bytes((const int8_t*)row + d);
        high = load_bytes((const int8_t*)row + d + LANES);
    } else {
        load_levels(row + d / 2, levels, low, high);
    }
}

struct Signs {  // Sylvester's Hadamard matrix of order 16
    float rows[LANES][LANES];
    constexpr Signs() : rows() {
        for (int i = 0; i < LANES; i++)
            for (int j = 0; j < LANES; j++) {
                const int both = i & j;
                rows[i][j] = ((both >> 3) + (both >> 2) + (both >> 1) + both) % 2 ? -1.f : 1.f;
            }
    }
};
constexpr Signs SIGNS;

// In place: x times the orthonormal Hadamard matrix of the largest power of two that divides head_dim, block by block.
// The matrix is its own inverse.
inline void hadamard(float* x, int head_dim) {
    const int block = head_dim & -head_dim;
    const Floats norm = fill(1.f / std::sqrt(float(block)));
    for (int at = 0; at < head_dim; at += LANES) {
        Floats y = fill(0.f);
        for (int i = 0; i < LANES; i++) y = fma(fill(x[at + i]), load(SIGNS.rows[i]), y);
        store(x + at, mul(y, norm));
    }
    for (int step = LANES; step < block; step *= 2)
        for (int i = 0; i < head_dim; i += LANES)
            if (i / step % 2 == 0) {
                const Floats a = load(x + i), b = load(x + i + step);
                store(x + i, add(a, b));
                store(x + i + step, sub(a, b));
            }
}

// The least fp16 number that is at least x: a scale rounded up never clips.
inline uint16_t half_above(float x) {
    x = x < LARGEST_HALF ? x : LARGEST_HALF;
    const uint16_t half = half_bits(x > SMALLEST_HALF ? x : SMALLEST_HALF);
    return half_value(half) < x ? half + 1 : half;
}

inline uint16_t round_int8(const float* x, int count, int8_t* q) {
    Floats most = fill(0.f);
    for (int i = 0; i < count; i += LANES) most = larger(most, larger(load(x + i), sub(fill(0.f), load(x + i))));
    const uint16_t half = half_above(largest(most) / 127.f);
    const float scale = half_value(half);
    for (int i = 0; i < count; i++) {
        float level = x[i] / scale;
        level = level < 127.f ? level : 127.f;
        level = level > -127.f ? level : -127.f;
        q[i] = int8_t(int((level + 12582912.f) - 12582912.f));  // adding 1.5 * 2^23 rounds to nearest even
    }
    return half;
}

// The scale is the one of least squares for the levels chosen.
inline uint16_t round_int4(const float* given, int count, uint8_t* q) {
    float x[MOST_DIM];
    for (int i = 0; i < count; i += LANES)
        store(x + i, larger(fill(-LARGEST_HALF), smaller(fill(LARGEST_HALF), load(given + i))));
    hadamard(x, count);
    Floats squares = fill(0.f);
    for (int i = 0; i < count; i += LANES) squares = fma(load(x + i), load(x + i), squares);
    const float rms = std::sqrt(sum(squares) / float(count)), inverse = rms > 0 ? 1.f / rms : 0.f;
    float chosen[MOST_DIM];
    for (int i = 0; i < count; i++) {
        int level = 0;
        for (int k = 0; k < 15; k++) level += x[i] * inverse > 0.5f * (LEVELS[k] + LEVELS[k + 1]);
        q[i] = uint8_t(level);
    }
    for (int i = 0; i < count; i++) chosen[i] = LEVELS[q[i]];
    Floats across = fill(0.f), own = fill(0.f);
    for (int i = 0; i < count; i += LANES) {
        across = fma(load(x + i), load(chosen + i), across);
        own = fma(load(chosen + i), load(chosen + i), own);
    }
    const float scale = sum(across) / sum(own);
    return half_bits(scale < LARGEST_HALF ? (scale > SMALLEST_HALF ? scale : SMALLEST_HALF) : LARGEST_HALF);
}

inline uint16_t bounded_half(float x) {
    x = x > LARGEST_HALF ? LARGEST_HALF : x;
    return half_bits(x < -LARGEST_HALF ? -LARGEST_HALF : x);
}

// Writes the key (already rotated by RoPE) and value, float [head_dim] each, of the token at `slot` of a block. Other
// slots stay as they are, to the byte: tokens of one page may be stored by several threads.
inline void kv_store(const Pages& pages, int block, int slot, int kv_head, const float* k, const float* v) {
    const int dim = pages.head_dim, width = padded(dim);
    uint8_t* const ks = page(pages, block, kv_head);
    uint8_t* const vs = ks + key_bytes(pages.kind, dim);
    uint16_t* const scales = (uint16_t*)(vs + value_bytes(pages.kind, dim));
    if (pages.kind == 32) {
        for (int d = 0; d < dim; d++) ((float*)ks)[d * PAGE + slot] = k[d];
        std::memcpy((float*)vs + slot * width, v, dim * sizeof(float));
    } else if (pages.kind == 16) {
        for (int d = 0; d < dim; d++) ((uint16_t*)ks)[d * PAGE + slot] = bounded_half(k[d]);
        for (int d = 0; d < dim; d++) ((uint16_t*)vs)[slot * width + d] = bounded_half(v[d]);
    } else if (pages.kind == 8) {
        int8_t q[MOST_DIM];
        scales[slot] = round_int8(k, dim, q);
        for (int d = 0; d < dim; d++) ((int8_t*)ks)[d * PAGE + slot] = q[d];
        scales[PAGE + slot] = round_int8(v, dim, (int8_t*)vs + slot * width);
    } else {
        uint8_t q[MOST_DIM] = {};
        scales[slot] = round_int4(k, dim, q);
        for (int d = 0; d < dim; d += 2) ks[d / 2 * PAGE + slot] = uint8_t(q[d] | q[d + 1] << 4);
        std::memset(q, 0, sizeof q);
        scales[PAGE + slot] = round_int4(v, dim, q);
        for (int d = 0; d < width; d += 32)
            for (int i = 0; i < 16; i++) vs[slot * width / 2 + d / 2 + i] = uint8_t(q[d + i] | q[d + 16 + i] << 4);
    }
}

}  // namespace CATENA_ISA
}  // namespace catena
