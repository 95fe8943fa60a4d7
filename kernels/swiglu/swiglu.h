// SwiGLU (Shazeer 2020): silu(gate) * value, silu(x) = x / (1 + e^-x).
#pragma once

namespace ISA {

// e^x to about one unit in the last place: x = n ln2 + r, a polynomial of degree 6 in r, then times 2^n.
inline F exponential(F x) {
    x = min(max(x, set(-87.0f)), set(88.0f));
    const F n = round(mul(x, set(1.44269504088896341f)));
    F r = fma(n, set(-0.693359375f), x);
    r = fma(n, set(2.12194440e-4f), r);
    F p = set(1.9875691500e-4f);
    p = fma(p, r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), set(1));
    return times_power(p, n);
}

inline F swiglu(F gate, F value) { return mul(div(gate, add(set(1), exponential(sub(set(0), gate)))), value); }

}  // namespace ISA
