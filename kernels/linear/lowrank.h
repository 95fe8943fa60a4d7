// LoRA (Hu et al. 2021): a layer's outputs for a row with an adapter gain B (A x), in fp32 whatever the weights are.
#pragma once

namespace ISA {

// inner[rank] = A x.
inline void project(const catena::LowRank& adapter, const float* x, int inputs, float* inner) {
    for (int j = 0; j < adapter.rank; j++) {
        const float* a = adapter.a + (int64_t)j * inputs;
        F sums = set(0);
        int i = 0;
        for (; i + WIDTH <= inputs; i += WIDTH) sums = fma(load(a + i), load(x + i), sums);
        float sum = total(sums);
        for (; i < inputs; i++) sum += a[i] * x[i];
        inner[j] = sum;
    }
}

// sums[PANEL] += rows panel * PANEL... of B times inner.
inline void expand(const catena::LowRank& adapter, int panel, const float* inner, float* sums) {
    const float* b = adapter.b + (int64_t)panel * adapter.rank * catena::PANEL;
    for (int j = 0; j < adapter.rank; j++, b += catena::PANEL)
        for (int i = 0; i < catena::PANEL; i += WIDTH)
            store(sums + i, fma(load(b + i), set(inner[j]), load(sums + i)));
}

}  // namespace ISA
