// Rotary position embedding in the Llama (rotate-half) convention: dimensions i and i + head_dim / 2 are one plane.
#pragma once

#include "../simd/isa.h"

namespace catena {
namespace CATENA_ISA {

// In place: every head of one token, x [heads][head_dim], turned by the angles of its position, whose cosines and sines
// are cos, sin [head_dim / 2].
inline void rope(float* x, int heads, int head_dim, const float* cos, const float* sin) {
    const int half = head_dim / 2;
    for (float* head = x; head < x + heads * head_dim; head += head_dim)
        for (int i = 0; i < half; i++) {
            const float a = head[i], b = head[i + half];
            head[i] = a * cos[i] - b * sin[i];
            head[i + half] = b * cos[i] + a * sin[i];
        }
}

}  // namespace CATENA_ISA
}  // namespace catena
