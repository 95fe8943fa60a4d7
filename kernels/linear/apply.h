// A linear layer over the rows of a step: panels x blocks of row tiles are the items that threads share.
#pragma once

namespace ISA {

constexpr int BLOCK_TILES = 8;  // row tiles of an item: a panel stays in the first cache while they pass

using TileFunction = void (*)(const catena::Linear&, int, const Rows&, int, float*);

template <template <int, int> class Kernel, int PARAMETER, int HEIGHT>
struct Heights {
    static TileFunction of(int height) {
        return height == HEIGHT ? Kernel<PARAMETER, HEIGHT>::run : Heights<Kernel, PARAMETER, HEIGHT - 1>::of(height);
    }
};
template <template <int, int> class Kernel, int PARAMETER>
struct Heights<Kernel, PARAMETER, 0> {
    static TileFunction of(int) { return nullptr; }
};
template <int BITS, int HEIGHT>
struct Integer {
    static constexpr TileFunction run = integer_tile<BITS, HEIGHT>;
};
template <int KIND, int HEIGHT>
struct Floating {
    static constexpr TileFunction run = floating_tile<KIND, HEIGHT>;
};

inline TileFunction tile_function(int kind, int height) {
    switch (kind) {
        case 4: return Heights<Integer, 4, MAX_ROWS>::of(height);
        case 8: return Heights<Integer, 8, MAX_ROWS>::of(height);
        case 16: return Heights<Floating, 16, MAX_ROWS>::of(height);
        case 17: return Heights<Floating, 17, MAX_ROWS>::of(height);
        default: return Heights<Floating, 32, MAX_ROWS>::of(height);
    }
}

// One row's sums of `panel` into out, `width` of which are the layer's.
inline void finish(const float* sums, catena::Epilogue epilogue, float* out, int width) {
    alignas(64) float result[catena::PANEL];
    if (epilogue == catena::GATE) {
        for (int i = 0; i < catena::PANEL / 2; i += WIDTH)
            store(result + i, swiglu(load(sums + i), load(sums + catena::PANEL / 2 + i)));
        sums = result;
    }
    if (epilogue == catena::ADD)
        for (int i = 0; i < width; i++) out[i] += sums[i];
    else
        for (int i = 0; i < width; i++) out[i] = sums[i];
}

// out[row * stride + output] of all rows; the layer's outputs count `outputs` (half of the sums where GATE).
// `add(row, panel, sums)` may add to a row's sums before the epilogue.
template <class Add>
void apply(catena::Pool& pool, const catena::Linear& w, const Rows& rows, catena::Epilogue epilogue,
           float* out, int64_t stride, int outputs, const Add& add) {
    const int many = tiles(rows.count), blocks = (many + BLOCK_TILES - 1) / BLOCK_TILES, columns = catena::panels(w);
    const int width = epilogue == catena::GATE ? catena::PANEL / 2 : catena::PANEL;
    pool.share((int64_t)blocks * columns, [&](int64_t item, int) {
        const int block = (int)(item / columns), panel = (int)(item % columns);
        const int left = outputs - panel * width, used = left < width ? left : width;
        alignas(64) float sums[MAX_ROWS * catena::PANEL];
        for (int i = many * block / blocks; i < many * (block + 1) / blocks; i++) {
            const Tile t = tile(rows.count, i);
            // what the sums go to is far apart in memory: fetched while they are made
            for (int r = 0; r < t.count; r++)
                for (int j = 0; j < used; j += 16) prefetch(out + (t.first + r) * stride + (int64_t)panel * width + j);
            tile_function(w.kind, t.count)(w, panel, rows, t.first, sums);
            for (int r = 0; r < t.count; r++) {
                add(t.first + r, panel, sums + r * catena::PANEL);
                finish(sums + r * catena::PANEL, epilogue, out + (t.first + r) * stride + (int64_t)panel * width,
                       used);
            }
        }
    });
}

}  // namespace ISA
