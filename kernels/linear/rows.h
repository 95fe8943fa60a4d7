// The activations of a step as a linear layer reads them: tiles of at most MAX_ROWS rows, the rows of a tile
// interleaved so that a tile is one contiguous stream. For integer weights each (row, group) is int8 with one scale
// (largest magnitude = 127), and the negative sum of its levels stands beside it to take the weights' zero out.
#pragma once

#include <cstdint>

namespace ISA {

// Rows [first, first + count) of tile `index` when `rows` rows are split evenly.
struct Tile {
    int first, count;
};
inline int tiles(int rows) { return (rows + MAX_ROWS - 1) / MAX_ROWS; }
inline Tile tile(int rows, int index) {
    int many = tiles(rows), first = (int)((int64_t)rows * index / many);
    return {first, (int)((int64_t)rows * (index + 1) / many) - first};
}

// One layer's input. `levels` int8 [rows * inputs], `scales` and `sums` [rows * groups] for integer weights; `values`
// float [rows * inputs] for floating ones.
struct Rows {
    int8_t* levels;
    float* scales;
    int32_t* sums;
    float* values;
    int count, inputs, group;
};

// Row `row` of a tile whose first row is `first` and which has `height` rows, from x float[inputs]: quantized.
inline void quantize(const Rows& rows, Tile tile, int row, const float* x) {
    const int height = tile.count, number = rows.inputs / rows.group;
    int8_t* levels = rows.levels + (int64_t)tile.first * rows.inputs + row * 4;
    float* scales = rows.scales + (int64_t)tile.first * number + row;
    int32_t* sums = rows.sums + (int64_t)tile.first * number + row;
    for (int g = 0; g < number; g++, x += rows.group) {
        F high = magnitude(load(x));
        for (int i = WIDTH; i < rows.group; i += WIDTH) high = max(high, magnitude(load(x + i)));
        const float peak = largest(high);
        const F inverse = set(peak > 0 ? 127 / peak : 0);
        I sum = zero();
        for (int i = 0; i < rows.group; i += WIDTH) {
            alignas(64) int8_t bytes[WIDTH];
            I level = nearest(mul(load(x + i), inverse));
            sum = add(sum, level);
            store_bytes(bytes, level);
            for (int j = 0; j < WIDTH; j += 4, levels += 4 * height) std::memcpy(levels, bytes + j, 4);
        }
        scales[(int64_t)g * height] = peak / 127;
        sums[(int64_t)g * height] = -total(sum);
    }
}

// The same for floating weights: copied between the rows of its tile.
inline void interleave(const Rows& rows, Tile tile, int row, const float* x) {
    float* values = rows.values + (int64_t)tile.first * rows.inputs + row;
    for (int i = 0; i < rows.inputs; i++) values[(int64_t)i * tile.count] = x[i];
}

inline void put(const Rows& rows, bool quantized, Tile tile, int row, const float* x) {
    if (quantized)
        quantize(rows, tile, row, x);
    else
        interleave(rows, tile, row, x);
}

}  // namespace ISA
