// A register tile of a linear layer with integer weights: PANEL outputs of HEIGHT rows.
//
// For each group the products of unsigned levels and int8 activations are summed exactly in 32 bits, beginning at
// minus zero times the activations' sum; then one fma a group in float. So a row's bits depend on neither the other
// rows of its tile nor how many there are.
#pragma once

namespace ISA {

template <int BITS, int HEIGHT>
void integer_tile(const catena::Linear& w, int panel, const Rows& rows, int first, float* sums) {
    constexpr int VECTORS = catena::PANEL / WIDTH, STRIP = catena::PANEL * 4;
    constexpr bool LOW = HEIGHT <= 3;  // few products to hide one another's latency: the planes get chains of their own
    const int number = catena::groups(w), strips = w.group * BITS / 32;
    const uint8_t* weights = (const uint8_t*)w.weights + (int64_t)panel * catena::PANEL * w.inputs * BITS / 8;
    const uint16_t* scales = w.scales + (int64_t)panel * catena::PANEL * number;
    const uint8_t* zeros = w.zeros + (int64_t)panel * catena::PANEL * number;
    const int8_t* x = rows.levels + (int64_t)first * rows.inputs;
    const float* row_scales = rows.scales + (int64_t)first * number;
    const int32_t* row_sums = rows.sums + (int64_t)first * number;
    F totals[HEIGHT][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) totals[r][v] = set(0);
    for (int g = 0; g < number; g++) {
        if (LOW) {  // the next panel's
            prefetch(scales + catena::PANEL * number);
            prefetch(zeros + catena::PANEL * number);
        }
        I dots[HEIGHT][VECTORS];
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) {
            I level = from_bytes(zeros + v * WIDTH);
#pragma GCC unroll 16
            for (int r = 0; r < HEIGHT; r++) dots[r][v] = times(level, from_int(row_sums[r]));
        }
        I others[LOW ? HEIGHT : 1][VECTORS];
        if (LOW)
#pragma GCC unroll 16
            for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++) others[LOW ? r : 0][v] = zero();
#pragma GCC unroll 2
        for (int s = 0; s < strips; s++, weights += STRIP) {
            if (LOW) {
#pragma GCC unroll 4
                for (int i = 0; i < STRIP; i += 64) prefetch(weights + 4096 + i);
            }
            B w4[VECTORS];
            if (BITS == 4) {
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++) w4[v] = low_nibbles(load_weights(weights + v * WIDTH * 4));
#pragma GCC unroll 16
                for (int r = 0; r < HEIGHT; r++) {
                    auto inputs = quad(x + 4 * r);
#pragma GCC unroll 16
                    for (int v = 0; v < VECTORS; v++) {
                        I& dot = LOW ? others[LOW ? r : 0][v] : dots[r][v];
                        dot = dot4(dot, w4[v], inputs);
                    }
                }
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++) w4[v] = high_nibbles(load_weights(weights + v * WIDTH * 4));
                x += 4 * HEIGHT;
            } else {
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++) w4[v] = load_weights(weights + v * WIDTH * 4);
            }
#pragma GCC unroll 16
            for (int r = 0; r < HEIGHT; r++) {
                auto inputs = quad(x + 4 * r);
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++)
                    dots[r][v] = BITS == 4 ? dot4(dots[r][v], w4[v], inputs) : dot8(dots[r][v], w4[v], inputs);
            }
            x += 4 * HEIGHT;
        }
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) {
            F scale = from_half(scales + v * WIDTH);
#pragma GCC unroll 16
            for (int r = 0; r < HEIGHT; r++) {
                if (LOW) dots[r][v] = add(dots[r][v], others[LOW ? r : 0][v]);
                totals[r][v] = fma(to_float(dots[r][v]), mul(scale, set(row_scales[r])), totals[r][v]);
            }
        }
        scales += catena::PANEL;
        zeros += catena::PANEL;
        row_scales += HEIGHT;
        row_sums += HEIGHT;
    }
#pragma GCC unroll 16
    for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) store(sums + r * catena::PANEL + v * WIDTH, totals[r][v]);
}

}  // namespace ISA
