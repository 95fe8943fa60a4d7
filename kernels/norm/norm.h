// RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight.
#pragma once

#include <cmath>

namespace ISA {

// out = the norm of x[size]; both are readable and writable up to `padded`, a multiple of WIDTH, where x and weight
// hold zeros past `size`.
inline void rms_norm(const float* x, const float* weight, int size, int padded, float eps, float* out) {
    F squares = set(0);
    for (int i = 0; i < padded; i += WIDTH) squares = fma(load(x + i), load(x + i), squares);
    const F scale = set(1 / std::sqrt(total(squares) / size + eps));
    for (int i = 0; i < padded; i += WIDTH) store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
}

}  // namespace ISA
