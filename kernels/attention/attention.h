// Causal attention of query rows over paged keys and values, for decoding and prefill alike.
//
// A row's keys are taken in segments of 256 absolute positions. Within a segment: scores, their maximum,
// 2^(score - maximum), and the weighted sum of values, token after token; then the segment is folded into what the ones
// before it gave (Flash-Decoding, Dao et al. 2023). So a row's additions have one order, whatever tile, chunk or thread
// it is computed in: `attend` and `attend_segment` followed by `combine` give the same bits.
//
// A tile is up to TILE query vectors (rows times the heads of a group) that share every load of K and V.
#pragma once

#include "../rope/rope.h"
#include "pages.h"

namespace catena {
namespace CATENA_ISA {

constexpr int SEGMENT = 256;  // positions
constexpr float LOG2E = 1.44269504f, LARGEST = 3.4e38f;
constexpr float LARGEST_QUERY = 0x1p80f;  // a dot product of 256 such with keys of any kind does not overflow

#if defined(__AVX512F__)
// at_once: pages whose scores, mixed: vectors whose values are summed at once; as many as the registers hold
constexpr int TILE = 12;
constexpr int at_once(int vectors) { return vectors == 1 ? 8 : vectors <= 4 ? 4 : 2; }  
constexpr int mixed(int vectors) { return vectors; }
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
constexpr int TILE = 6;
constexpr int at_once(int vectors) { return vectors <= 2 ? 2 : 1; }
constexpr int mixed(int vectors) { return vectors > 3 ? vectors / 2 : vectors; }
#else
constexpr int TILE = 4;
constexpr int at_once(int) { return 1; }
constexpr int mixed(int) { return 1; }
#endif

// Floats of one query vector's result over one segment: the weighted values, then maximum and sum of its weights.
inline int attention_partial_floats(int head_dim) { return padded(head_dim) + LANES; }

// Floats of `scratch` that attend and attend_segment need.
inline size_t attention_scratch_floats(int head_dim) {
    return size_t(TILE) * (head_dim + SEGMENT + 2 * attention_partial_floats(head_dim)) + LANES;
}

// Into the second-level cache: memory is behind by a page's work, and the first level has no room for it.
inline void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }
constexpr int LINE = 64;                                             // bytes of a cache line
constexpr bool fetches(int vectors) { return vectors < TILE; }  // a full tile hides memory behind its work

struct Tile {  // query vectors that are computed together; vector i is row i / group, head i % group
    const uint8_t* pages[2 * SEGMENT / PAGE];  // of the segment at hand, and of the one after it to fetch from
    int head_dim, seen[TILE];                  // seen: how many positions of the segment a vector sees, ascending
    const float* q;                            // [head_dim][vectors]
    float* p;                                  // scores, then weights [vectors][SEGMENT]
    float* partial;                            // results [vectors][partial floats]
};

template <int KIND, int VECTORS, int COUNT> inline void score_pages(const Tile& tile, int from, Table levels) {
    Floats s[VECTORS][COUNT];
    for (auto& row : s)
        for (auto& x : row) x = fill(0.f);
    const uint8_t* pages[COUNT];
    for (int c = 0; c < COUNT; c++) pages[c] = tile.pages[from + c];
    const float* q = tile.q;
    for (int d = 0; d < tile.head_dim; d += 2, q += 2 * VECTORS) {
        if (const size_t line = size_t(d) * PAGE * KIND / 8; fetches(VECTORS) && line % LINE == 0)
            for (int c = 0; c < COUNT; c++) {
                fetch(pages[c] + key_bytes(KIND, tile.head_dim) + line);  // this page's values
                fetch(tile.pages[from + c + COUNT] + line);               // a later page's keys
            }
        Floats even[COUNT], odd[COUNT];
#pragma GCC unroll 16
        for (int c = 0; c < COUNT; c++) keys<KIND>(pages[c], d, levels, even[c], odd[c]);
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            const Floats x = fill(q[i]);
#pragma GCC unroll 16
            for (int c = 0; c < COUNT; c++) s[i][c] = fma(x, even[c], s[i][c]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            const Floats x = fill(q[VECTORS + i]);
#pragma GCC unroll 16
            for (int c = 0; c < COUNT; c++) s[i][c] = fma(x, odd[c], s[i][c]);
        }
    }
#pragma GCC unroll 16
    for (int c = 0; c < COUNT; c++) {
        Floats scale = fill(1.f);
        if constexpr (KIND < 16)
            scale = load_half((const uint16_t*)(pages[c] + key_bytes(KIND, tile.head_dim)
                                                + value_bytes(KIND, tile.head_dim)));
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            const Floats x = KIND >= 16 ? s[i][c] : mul(s[i][c], scale);
            store(tile.p + i * SEGMENT + (from + c) * PAGE, x);
        }
    }
}

// Scores of one vector become weights, scaled as the values are; maximum and sum go to its partial.
template <int KIND> inline void weigh(const Tile& tile, int vector) {
    float* const p = tile.p + vector * SEGMENT;
    const int seen = tile.seen[vector], full = seen / PAGE, rest = seen % PAGE, width = padded(tile.head_dim);
    const int count = full + (rest > 0);
    const Floats lowest = fill(-LARGEST), highest = fill(LARGEST);  // no overflow meets another one: inf - inf is NaN
    Floats most = lowest;
    for (int c = 0; c < count; c++) {
        Floats score = larger(lowest, smaller(highest, load(p + c * PAGE)));
        if (c == full) score = first(score, rest, -INFINITE);
        store(p + c * PAGE, score);
        most = larger(most, score);
    }
    most = fill(largest(most));
    Floats total = fill(0.f);
    for (int c = 0; c < count; c++) {
        const Floats weight = exp2(sub(load(p + c * PAGE), most));
        total = add(total, weight);
        Floats scaled = weight;
        if constexpr (KIND < 16)
            scaled = mul(weight, load_half((const uint16_t*)(tile.pages[c] + key_bytes(KIND, tile.head_dim)
                                                             + value_bytes(KIND, tile.head_dim)) + PAGE));
        store(p + c * PAGE, scaled);
    }
    float* const out = tile.partial + vector * attention_partial_floats(tile.head_dim);
    store(out + width, fill(0.f));
    out[width] = seen > 0 ? largest(most) : -INFINITE;
    out[width + 1] = sum(total);
}

// Adds positions from..to (of the segment) of values d..d + 32 * WIDE to the results of VECTORS vectors from `at` on.
template <int KIND, int VECTORS, int WIDE>
inline void add_values(const Tile& tile, int at, int d, int from, int to, Table levels) {
    const int stride = attention_partial_floats(tile.head_dim);
    const size_t row = value_bytes(KIND, tile.head_dim) / PAGE;
    float* const out = tile.partial + at * stride + d;
    const float* const p = tile.p + at * SEGMENT;
    Floats sums[VECTORS][2 * WIDE];
#pragma GCC unroll 16
    for (int i = 0; i < VECTORS; i++)
#pragma GCC unroll 16
        for (int w = 0; w < 2 * WIDE; w++) sums[i][w] = load(out + i * stride + w * LANES);
    while (from < to) {
        const int end = (from / PAGE + 1) * PAGE < to ? (from / PAGE + 1) * PAGE : to;
        const uint8_t* value = tile.pages[from / PAGE] + key_bytes(KIND, tile.head_dim) + from % PAGE * row;
        const uint8_t* later = tile.pages[SEGMENT / PAGE + from / PAGE] + from % PAGE * row + d * KIND / 8;
        for (; from < end; from++, value += row, later += row) {
            if (fetches(VECTORS) && d * KIND / 8 % LINE == 0)  // the next segment's keys
                for (int w = 0; w < 4 * WIDE * KIND; w += LINE) fetch(later + w);
            Floats v[2 * WIDE];
#pragma GCC unroll 4
            for (int w = 0; w < WIDE; w++) values<KIND>(value, d + 32 * w, levels, v[2 * w], v[2 * w + 1]);
#pragma GCC unroll 16
            for (int i = 0; i < VECTORS; i++) {
                const Floats x = fill(p[i * SEGMENT + from]);
#pragma GCC unroll 16
                for (int w = 0; w < 2 * WIDE; w++) sums[i][w] = fma(x, v[w], sums[i][w]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < VECTORS; i++)
#pragma GCC unroll 16
        for (int w = 0; w < 2 * WIDE; w++) store(out + i * stride + w * LANES, sums[i][w]);
}

template <int KIND, int VECTORS> void tile_segment(const Tile& tile, int vectors) {
    const Table levels = table(LEVELS);
    const int count = (tile.seen[vectors - 1] + PAGE - 1) / PAGE, width = padded(tile.head_dim);
    const int stride = attention_partial_floats(tile.head_dim), shared = tile.seen[0];
    constexpr int AT_ONCE = at_once(VECTORS), MIXED = mixed(VECTORS), WIDE = TILE >= 12 && VECTORS <= 6 ? 2 : 1;
    int c = 0;
    for (; c + AT_ONCE <= count; c += AT_ONCE) score_pages<KIND, VECTORS, AT_ONCE>(tile, c, levels);
    for (; c < count; c++) score_pages<KIND, VECTORS, 1>(tile, c, levels);
    for (int i = 0; i < vectors; i++) weigh<KIND>(tile, i);
    for (int i = 0; i < VECTORS; i++) std::memset(tile.partial + i * stride, 0, width * sizeof(float));
    for (int i = 0; i < VECTORS; i += MIXED) {
        int d = 0;
        for (; d + 32 * WIDE <= width; d += 32 * WIDE) add_values<KIND, MIXED, WIDE>(tile, i, d, 0, shared, levels);
        for (; d < width; d += 32) add_values<KIND, MIXED, 1>(tile, i, d, 0, shared, levels);
    }
    for (int i = 0; i < vectors; i++)  // positions that only the later rows of the tile see
        for (int d = 0; d < width && tile.seen[i] > shared; d += 32)
            add_values<KIND, 1, 1>(tile, i, d, shared, tile.seen[i], levels);
}

using SegmentKernel = void (*)(const Tile&, int);

// The kernel for a tile of `vectors`, and in `vectors` how many it computes (the surplus is thrown away).
template <int KIND> inline SegmentKernel kernel_of(int& vectors) {
    const int wanted = vectors;
    if (vectors = 1, wanted <= vectors) return tile_segment<KIND, 1>;
    if (vectors = 2, wanted <= vectors) return tile_segment<KIND, 2>;
    if (vectors = 3, wanted <= vectors) return tile_segment<KIND, 3>;
    if (vectors = 4, wanted <= vectors) return tile_segment<KIND, 4>;
    if constexpr (TILE >= 8)
        if (vectors = 8, wanted <= vectors) return tile_segment<KIND, 8>;
    vectors = TILE;
    return tile_segment<KIND, TILE>;
}

struct Queries {  // the rows of one call; see attend
    const Pages& pages;
    int kv_head;
    const int32_t* blocks;
    int first_position;
    const float* q;
    int rows, group;
    size_t q_row_stride;
    float scale;
};

inline float* aligned(float* scratch) { return (float*)((uintptr_t(scratch) + 63) / 64 * 64); }

// One tile at a time: `begin(vectors)` loads its queries, `run(segment)` leaves its partials.
struct TileRun {
    const Queries& given;
    Tile tile;
    SegmentKernel kernel;
    int at, vectors, computed;
    float* q;

    TileRun(const Queries& queries, float* scratch) : given(queries) {
        const int dim = given.pages.head_dim;
        tile.head_dim = dim;
        tile.p = aligned(scratch);
        tile.partial = tile.p + TILE * SEGMENT;
        q = tile.partial + TILE * attention_partial_floats(dim);
        tile.q = q;
    }

    // Scratch behind what a tile uses itself: [TILE][partial floats].
    float* state() const { return q + TILE * tile.head_dim; }

    int begin(int from) {
        const int dim = tile.head_dim, kind = given.pages.kind, left = given.rows * given.group - from;
        at = from, vectors = left < TILE ? left : TILE, computed = vectors;
        kernel = kind == 32 ? kernel_of<32>(computed) : kind == 16 ? kernel_of<16>(computed)
                 : kind == 8 ? kernel_of<8>(computed) : kernel_of<4>(computed);
        for (int i = 0; i < computed; i++) {
            const int vector = at + (i < vectors ? i : vectors - 1);
            const float* const from = given.q + vector / given.group * given.q_row_stride
                                      + size_t(vector % given.group) * dim;
            const Floats scale = fill(given.scale * LOG2E), bound = fill(LARGEST_QUERY), least = fill(-LARGEST_QUERY);
            float row[MOST_DIM];
            for (int d = 0; d < dim; d += LANES)
                store(row + d, larger(least, smaller(bound, mul(scale, load(from + d)))));
            if (kind == 4) hadamard(row, dim);
            for (int d = 0; d < dim; d++) q[d * computed + i] = row[d];
        }
        return vectors;
    }

    int positions(int i) const { return given.first_position + (at + i) / given.group + 1; }

    void run(int segment) {
        const int start = segment * SEGMENT;
        for (int i = 0; i < vectors; i++) {
            const int seen = positions(i) - start;
            tile.seen[i] = seen < 0 ? 0 : seen < SEGMENT ? seen : SEGMENT;
        }
        const int last = (positions(vectors - 1) - 1) / PAGE;
        for (int c = 0; c < 2 * SEGMENT / PAGE; c++) {
            const int at = start / PAGE + c;
            tile.pages[c] = page(given.pages, given.blocks[at < last ? at : last], given.kv_head);
        }
        kernel(tile, vectors);
    }
};

// Folds a later segment's partial into `state`, both [partial floats]. One of no positions changes nothing.
inline void fold(float* state, const float* partial, int head_dim) {
    const int width = padded(head_dim);
    if (partial[width] == -INFINITE) return;
    const float most = state[width] > partial[width] ? state[width] : partial[width];
    float powers[LANES];
    store(powers, exp2(first(fill(state[width] - most), 1, partial[width] - most)));
    const Floats old = fill(powers[0]), added = fill(powers[1]);
    for (int d = 0; d < width; d += LANES) store(state + d, fma(added, load(partial + d), mul(old, load(state + d))));
    state[width] = most;
    state[width + 1] = std::fma(powers[1], partial[width + 1], powers[0] * state[width + 1]);
}

inline void empty(float* state, int head_dim) {
    std::memset(state, 0, attention_partial_floats(head_dim) * sizeof(float));
    state[padded(head_dim)] = -INFINITE;
}

inline void finish(float* state, int head_dim, int kind, float* out) {
    if (kind == 4) hadamard(state, head_dim);
    const Floats inverse = fill(1.f / state[padded(head_dim) + 1]);
    for (int d = 0; d < head_dim; d += LANES) store(out + d, mul(load(state + d), inverse));
}

// `rows` consecutive query tokens of one sequence, at positions first_position.., and `group` heads that share kv_head:
// float q + row * q_row_stride + g * head_dim, out alike. Row r sees positions 0..first_position + r, which `blocks`
// (the sequence's block table) holds. `scale` is the softmax's, 1 / sqrt(head_dim) as a rule; `scratch` holds
// attention_scratch_floats(head_dim) floats of the calling thread.
inline void attend(const Pages& pages, int kv_head, const int32_t* blocks, int first_position, const float* q, int rows,
                   int group, size_t q_row_stride, float* out, size_t out_row_stride, float scale, float* scratch) {
    const int dim = pages.head_dim, stride = attention_partial_floats(dim);
    const Queries queries{pages, kv_head, blocks, first_position, q, rows, group, q_row_stride, scale};
    TileRun tile(queries, scratch);
    float* const states = tile.state();
    for (int from = 0; from < rows * group; from += TILE) {
        const int vectors = tile.begin(from);
        for (int i = 0; i < vectors; i++) empty(states + i * stride, dim);
        for (int segment = 0; segment * SEGMENT < tile.positions(vectors - 1); segment++) {
            tile.run(segment);
            for (int i = 0; i < vectors; i++) fold(states + i * stride, tile.tile.partial + i * stride, dim);
        }
        for (int i = 0; i < vectors; i++)
            finish(states + i * stride, dim, pages.kind,
                   out + (from + i) / group * out_row_stride + size_t((from + i) % group) * dim);
    }
}

// The part of `attend` over one segment (positions segment * SEGMENT on), so that threads can share a long context.
// What it finds goes to `partials` [rows * group][attention_partial_floats(head_dim)], for `combine`.
inline void attend_segment(const Pages& pages, int kv_head, const int32_t* blocks, int first_position, const float* q,
                           int rows, int group, size_t q_row_stride, int segment, float* partials, float scale,
                           float* scratch) {
    const int stride = attention_partial_floats(pages.head_dim);
    const Queries queries{pages, kv_head, blocks, first_position, q, rows, group, q_row_stride, scale};
    TileRun tile(queries, scratch);
    for (int from = 0; from < rows * group; from += TILE) {
        const int vectors = tile.begin(from);
        tile.run(segment);
        std::memcpy(partials + size_t(from) * stride, tile.tile.partial, size_t(vectors) * stride * sizeof(float));
    }
}

// The segments' `partials` [segments][rows * group][partial floats], in their order, to what `attend` writes to `out`.
inline void combine(const Pages& pages, const float* partials, int segments, int rows, int group, float* out,
                    size_t out_row_stride) {
    const int dim = pages.head_dim, stride = attention_partial_floats(dim);
    float state[MOST_DIM + LANES];
    for (int vector = 0; vector < rows * group; vector++) {
        empty(state, dim);
        for (int segment = 0; segment < segments; segment++)
            fold(state, partials + (size_t(segment) * rows * group + vector) * stride, dim);
        finish(state, dim, pages.kind, out + vector / group * out_row_stride + size_t(vector % group) * dim);
    }
}

}  // namespace CATENA_ISA
}  // namespace catena
