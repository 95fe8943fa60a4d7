// What lies between a training step's matrix products, forward and backward: RMSNorm, rotary embedding with the split
// into heads, SwiGLU, cross entropy. One pass over memory each, in bf16 or fp32, sums in fp32.
//
// A call shares its rows among the pool's threads; each row, and each block of rows that sums a weight's gradient, is
// computed by one thread in one order, so that the number of threads changes no bit.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../threads.h"

#if defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define PRAGMA(text) _Pragma(#text)
#define SUMS(name) PRAGMA(omp simd reduction(+ : name))  // the one place where the order of a sum is the compiler's
#define FREE PRAGMA(omp simd)  // no two of a loop's arrays overlap, which GCC else asks at run time, and often denies
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t BLOCK = 32;  // rows of an item, and of one partial sum
constexpr int64_t LANES = 32;
constexpr int IGNORED = -100;

struct Half {
    uint16_t bits;
};

INLINE float wide(float x) { return x; }
INLINE float wide(Half x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
INLINE void put(float& to, float x) { to = x; }
INLINE void put(Half& to, float x) {  // to the nearest, ties to even; not-a-number stays one
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    to.bits = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// e^x to about one unit in the last place for x <= 88: x = n ln2 + r, a polynomial in r, times 2^n.
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float turns = x * 1.44269504088896341f;
    const int32_t whole = (int32_t)(turns + (turns < 0 ? -0.5f : 0.5f));
    const float n = (float)whole;
    float r = x - n * 0.693359375f;
    r += n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (whole + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

struct Norm {
    const float *x, *weight;
    void* y;             // forward's result; backward: its gradient, only read
    float *scale, *dx, *dweight;  // dweight [blocks, size]
    int64_t rows, size;
    float eps;
};

template <class T>
INLINE void norm_forward(const Norm& a, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) {
        const float* x = a.x + row * a.size;
        T* y = (T*)a.y + row * a.size;
        float squares = 0;
        SUMS(squares)
        for (int64_t i = 0; i < a.size; i++) squares += x[i] * x[i];
        const float scale = 1 / std::sqrt(squares / (float)a.size + a.eps);
        a.scale[row] = scale;
        FREE
        for (int64_t i = 0; i < a.size; i++) put(y[i], x[i] * scale * a.weight[i]);
    }
}

template <class T>
INLINE void norm_backward(const Norm& a, int64_t from, int64_t to) {
    float* sums = a.dweight + from / BLOCK * a.size;
    for (int64_t i = 0; i < a.size; i++) sums[i] = 0;
    for (int64_t row = from; row < to; row++) {
        const float *x = a.x + row * a.size, scale = a.scale[row];
        const T* dy = (const T*)a.y + row * a.size;
        float* dx = a.dx + row * a.size;
        float dot = 0;
        SUMS(dot)
        for (int64_t i = 0; i < a.size; i++) dot += wide(dy[i]) * a.weight[i] * x[i];
        const float along = dot * scale * scale / (float)a.size;
        FREE
        for (int64_t i = 0; i < a.size; i++) {
            const float g = wide(dy[i]);
            sums[i] += g * (x[i] * scale);
            dx[i] = scale * (g * a.weight[i] - x[i] * along);
        }
    }
}

struct Swiglu {
    const void *joined, *dy;  // joined [rows, 2 size]: gates, then values
    void* out;                // forward [rows, size]; backward [rows, 2 size]
    int64_t rows, size;
};

template <class T>
INLINE void swiglu_forward(const Swiglu& a, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) {
        const T *gate = (const T*)a.joined + row * 2 * a.size, *value = gate + a.size;
        T* out = (T*)a.out + row * a.size;
        FREE
        for (int64_t i = 0; i < a.size; i++) {
            const float g = wide(gate[i]);
            put(out[i], g / (1 + exponential(-g)) * wide(value[i]));
        }
    }
}

template <class T>
INLINE void swiglu_backward(const Swiglu& a, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) {
        const T *gate = (const T*)a.joined + row * 2 * a.size, *value = gate + a.size;
        const T* dy = (const T*)a.dy + row * a.size;
        T *dgate = (T*)a.out + row * 2 * a.size, *dvalue = dgate + a.size;
        FREE
        for (int64_t i = 0; i < a.size; i++) {
            const float g = wide(gate[i]), d = wide(dy[i]), sigmoid = 1 / (1 + exponential(-g));
            put(dvalue[i], d * g * sigmoid);
            put(dgate[i], d * wide(value[i]) * sigmoid * (1 + g * (1 - sigmoid)));
        }
    }
}

struct Rope {
    void *joined, *q, *k, *v;   // joined [batch * length, heads + 2 shared, size]; q, k, v [batch, heads, length, size]
    const float *cosines, *sines;  // [batches of angles, length, size]
    int64_t rows, length, heads, shared, size, angles;
};

template <class T, bool BACK>
INLINE void rope(const Rope& a, int64_t from, int64_t to) {
    const int64_t half = a.size / 2, all = a.heads + 2 * a.shared;
    for (int64_t row = from; row < to; row++) {
        const int64_t sequence = row / a.length, place = row % a.length;
        const float* c = a.cosines + ((a.angles == 1 ? 0 : sequence) * a.length + place) * a.size;
        const float* s = a.sines + (c - a.cosines);
        for (int64_t head = 0; head < all; head++) {
            T* joined = (T*)a.joined + (row * all + head) * a.size;
            const bool query = head < a.heads, key = !query && head < a.heads + a.shared;
            T* apart = query ? (T*)a.q + ((sequence * a.heads + head) * a.length + place) * a.size
                             : (T*)(key ? a.k : a.v) + ((sequence * a.shared + (head - a.heads) % a.shared) * a.length +
                                                        place) * a.size;
            if (!query && !key) {
                std::memcpy(BACK ? joined : apart, BACK ? apart : joined, a.size * sizeof(T));
            } else if (!BACK) {
                FREE
                for (int64_t i = 0; i < half; i++) {
                    const float x = wide(joined[i]), y = wide(joined[i + half]);
                    put(apart[i], x * c[i] - y * s[i]);
                    put(apart[i + half], y * c[i + half] + x * s[i + half]);
                }
            } else {
                FREE
                for (int64_t i = 0; i < half; i++) {
                    const float x = wide(apart[i]), y = wide(apart[i + half]);
                    put(joined[i], x * c[i] + y * s[i + half]);
                    put(joined[i + half], y * c[i + half] - x * s[i]);
                }
            }
        }
    }
}
template <class T>
INLINE void rope_forward(const Rope& a, int64_t from, int64_t to) { rope<T, false>(a, from, to); }
template <class T>
INLINE void rope_backward(const Rope& a, int64_t from, int64_t to) { rope<T, true>(a, from, to); }

struct Entropy {
    void* logits;            // [rows, size]; afterwards the gradient of the mean loss
    const int64_t* targets;  // [rows]; IGNORED: no loss, no gradient
    float* nats;             // [rows]
    int64_t rows, size;
    float share;             // of one row in the mean
};

template <class T>
INLINE void entropy(const Entropy& a, int64_t from, int64_t to) {
    static thread_local std::vector<float> kept;
    if ((int64_t)kept.size() < a.size) kept.resize(a.size);
    float* powers = kept.data();
    for (int64_t row = from; row < to; row++) {
        T* logits = (T*)a.logits + row * a.size;
        const int64_t target = a.targets[row];
        if (target == IGNORED) {
            std::memset(logits, 0, a.size * sizeof(T));
            a.nats[row] = 0;
            continue;
        }
        float lanes[LANES];  // a compiler may not reorder a maximum, since not-a-number has no place in an order
        for (int64_t j = 0; j < LANES; j++) lanes[j] = wide(logits[0]);
        int64_t i = 0;
        for (; i + LANES <= a.size; i += LANES)
            for (int64_t j = 0; j < LANES; j++) {
                const float one = wide(logits[i + j]);
                lanes[j] = one > lanes[j] ? one : lanes[j];
            }
        for (; i < a.size; i++) lanes[0] = wide(logits[i]) > lanes[0] ? wide(logits[i]) : lanes[0];
        float most = lanes[0];
        for (int64_t j = 1; j < LANES; j++) most = lanes[j] > most ? lanes[j] : most;
        float sum = 0;
        SUMS(sum)
        for (int64_t i = 0; i < a.size; i++) {
            powers[i] = exponential(wide(logits[i]) - most);
            sum += powers[i];
        }
        a.nats[row] = most + std::log(sum) - wide(logits[target]);
        const float scale = a.share / sum, right = powers[target] * scale - a.share;
        FREE
        for (int64_t i = 0; i < a.size; i++) put(logits[i], powers[i] * scale);
        put(logits[target], right);
    }
}

}  // namespace

#define EACH(name, Args)                                                                                    \
    CLONES void name##_half(const Args& a, int64_t from, int64_t to) { name<Half>(a, from, to); }           \
    CLONES void name##_float(const Args& a, int64_t from, int64_t to) { name<float>(a, from, to); }         \
    extern "C" void catena_##name(catena::Pool* pool, int half, const Args* a) {                            \
        const auto call = half ? name##_half : name##_float;                                                \
        pool->share((a->rows + BLOCK - 1) / BLOCK, [&](int64_t item, int) {                                 \
            const int64_t from = item * BLOCK, to = from + BLOCK < a->rows ? from + BLOCK : a->rows;        \
            call(*a, from, to);                                                                             \
        });                                                                                                 \
    }

EACH(norm_forward, Norm)
EACH(norm_backward, Norm)
EACH(swiglu_forward, Swiglu)
EACH(swiglu_backward, Swiglu)
EACH(rope_forward, Rope)
EACH(rope_backward, Rope)
EACH(entropy, Entropy)

extern "C" catena::Pool* catena_pool(int threads) { return new catena::Pool(threads); }
