// What the machine can do at most, measured with the vectors that the kernels use: the yardsticks of their benchmark.
#pragma once

namespace ISA {

constexpr int64_t READ_ITEM = 1 << 20;  // bytes

// Reads `items` megabytes once; the sum keeps the compiler from leaving it out.
static float read_memory(catena::Pool& pool, const float* data, int64_t items) {
    std::atomic<int64_t> signs{0};
    pool.share(items, [&](int64_t item, int) {
        const float* from = data + item * (READ_ITEM / 4);
        F sums[8];
        for (F& sum : sums) sum = set(0);
        for (int64_t i = 0; i < READ_ITEM / 4; i += 8 * WIDTH)
            for (int j = 0; j < 8; j++) {
                prefetch(from + i + j * WIDTH + 1024);
                sums[j] = add(sums[j], load(from + i + j * WIDTH));
            }
        for (const F& sum : sums) signs.fetch_add(total(sum) > 0);
    });
    return (float)signs.load();
}

// `items` times 2^20 products of weights and activations from registers: dot4 (WIDTH x 4 multiply-adds each), or fma.
static float multiply(catena::Pool& pool, int64_t items, bool integers) {
    std::atomic<int64_t> signs{0};
    alignas(64) uint8_t bytes[WIDTH * 4] = {3};
    alignas(64) int8_t four[4] = {1, 2, 3, 4};
    pool.share(items, [&](int64_t, int) {
        if (integers) {
            I sums[16];
            const B weights = load_weights(bytes);
            const auto inputs = quad(four);
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++) sums[j] = zero();
            for (int i = 0; i < (1 << 16); i++)
#pragma GCC unroll 16
                for (int j = 0; j < 16; j++) sums[j] = dot4(sums[j], weights, inputs);
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++) signs.fetch_add(total(sums[j]) > 0);
        } else {
            F sums[16];
            F half = set((float)bytes[0] / 6);
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++) sums[j] = set((float)j);
            for (int i = 0; i < (1 << 16); i++)
#pragma GCC unroll 16
                for (int j = 0; j < 16; j++) sums[j] = fma(sums[j], half, half);
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++) signs.fetch_add(total(sums[j]) > 0);
        }
    });
    return (float)signs.load();
}

}  // namespace ISA
