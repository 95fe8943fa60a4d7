// Any processor: four lanes in the compiler's own vectors, plain integers for the products.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ISA {

constexpr int WIDTH = 4;
constexpr int MAX_ROWS = 1;

typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint8_t B __attribute__((vector_size(16)));

inline F load(const float* p) { F x; std::memcpy(&x, p, 16); return x; }
inline void store(float* p, F x) { std::memcpy(p, &x, 16); }
inline F set(float x) { return F{x, x, x, x}; }
inline F add(F a, F b) { return a + b; }
inline F sub(F a, F b) { return a - b; }
inline F mul(F a, F b) { return a * b; }
inline F div(F a, F b) { return a / b; }
inline F fma(F a, F b, F c) { return a * b + c; }  // -ffp-contract=off: a product rounded, then a sum, on every build
inline F max(F a, F b) { I m = a > b; return (F)(((I)a & m) | ((I)b & ~m)); }
inline F min(F a, F b) { I m = a < b; return (F)(((I)a & m) | ((I)b & ~m)); }
inline F magnitude(F a) { return (F)((I)a & 0x7fffffff); }
inline float total(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
inline float largest(F a) { return std::fmax(std::fmax(a[0], a[2]), std::fmax(a[1], a[3])); }
inline F round(F a) {
    return F{std::nearbyint(a[0]), std::nearbyint(a[1]), std::nearbyint(a[2]), std::nearbyint(a[3])};
}
inline I nearest(F a) { a = round(a); return I{(int)a[0], (int)a[1], (int)a[2], (int)a[3]}; }
inline F times_power(F a, F n) { return a * (F)((nearest(n) + 127) << 23); }

inline float half(uint16_t h) {  // IEEE half: exponent moved by a product, so that subnormals come out right
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float x;
    std::memcpy(&x, &bits, 4);
    x *= 5.192296858534828e33f;  // 2^112
    return h & 0x8000 ? -x : x;
}
inline float bfloat(uint16_t h) { uint32_t bits = (uint32_t)h << 16; float x; std::memcpy(&x, &bits, 4); return x; }
inline F from_half(const uint16_t* p) { return F{half(p[0]), half(p[1]), half(p[2]), half(p[3])}; }
inline F from_bfloat(const uint16_t* p) { return F{bfloat(p[0]), bfloat(p[1]), bfloat(p[2]), bfloat(p[3])}; }

inline I zero() { return I{0, 0, 0, 0}; }
inline I add(I a, I b) { return a + b; }
inline int total(I a) { return a[0] + a[1] + a[2] + a[3]; }
inline F to_float(I a) { return F{(float)a[0], (float)a[1], (float)a[2], (float)a[3]}; }
inline void store_bytes(int8_t* p, I a) { for (int i = 0; i < 4; i++) p[i] = (int8_t)a[i]; }
inline I from_bytes(const uint8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
inline I from_int(int x) { return I{x, x, x, x}; }

inline B load_weights(const uint8_t* p) { B x; std::memcpy(&x, p, 16); return x; }
inline B low_nibbles(B w) { return w & 15; }
inline B high_nibbles(B w) { return w >> 4; }
struct Quad { int x[4]; };
inline Quad quad(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline I dot8(I sum, B w, Quad q) {
    for (int i = 0; i < 4; i++)
        sum[i] += w[4 * i] * q.x[0] + w[4 * i + 1] * q.x[1] + w[4 * i + 2] * q.x[2] + w[4 * i + 3] * q.x[3];
    return sum;
}
inline I dot4(I sum, B w, Quad q) { return dot8(sum, w, q); }
inline I times(I level, I count) { return level * count; }
inline void prefetch(const void*) {}

}  // namespace ISA
