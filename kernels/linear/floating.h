// A register tile of a linear layer with bf16, fp16 or fp32 weights and fp32 activations: PANEL outputs of HEIGHT
// rows, one fma an input, in the inputs' order; SUMMED inputs at a time, so that few additions follow the huge products
// of a document mark's row (pairwise summation's idea: Higham 1993).
#pragma once

namespace ISA {

constexpr int SUMMED = 48;

template <int HEIGHT, int VECTORS>
inline void clear(F (&sums)[HEIGHT][VECTORS]) {
#pragma GCC unroll 16
    for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) sums[r][v] = set(0);
}

template <int KIND>
inline F widen(const void* weights, int64_t at) {
    if (KIND == 16) return from_bfloat((const uint16_t*)weights + at);
    if (KIND == 17) return from_half((const uint16_t*)weights + at);
    return load((const float*)weights + at);
}

template <int KIND, int HEIGHT>
void floating_tile(const catena::Linear& w, int panel, const Rows& rows, int first, float* sums) {
    constexpr int VECTORS = catena::PANEL / WIDTH;
    int64_t at = (int64_t)panel * catena::PANEL * w.inputs;
    const float* x = rows.values + (int64_t)first * rows.inputs;
    F total[HEIGHT][VECTORS];
    clear(total);
    for (int from = 0; from < w.inputs; from += SUMMED) {
        const int end = from + SUMMED < w.inputs ? from + SUMMED : w.inputs;
        F part[HEIGHT][VECTORS];
        clear(part);
        for (int i = from; i < end; i++, at += catena::PANEL, x += HEIGHT) {
            F w1[VECTORS];
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; v++) w1[v] = widen<KIND>(w.weights, at + v * WIDTH);
#pragma GCC unroll 16
            for (int r = 0; r < HEIGHT; r++) {
                F input = set(x[r]);
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++) part[r][v] = fma(w1[v], input, part[r][v]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; v++) total[r][v] = add(total[r][v], part[r][v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) store(sums + r * catena::PANEL + v * WIDTH, total[r][v]);
}

}  // namespace ISA
