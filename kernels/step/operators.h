// What each instruction set's translation unit offers to the C ABI.
#pragma once

#include "../threads.h"
#include "buffers.h"
#include "model.h"

namespace catena {

struct Operators {
    void (*step)(const Model&, Pool&, Reserved&, void* activations, const Step&);
    void (*linear)(Pool&, const Linear&, int epilogue, int rows, const float* x, float* out);
    float (*read_memory)(Pool&, const float* data, int64_t megabytes);
    float (*multiply)(Pool&, int64_t items, bool integers);
    int width;  // float lanes of a vector
    size_t (*page_bytes)(int kind, int head_dim);
    void* (*new_activations)();
    void (*delete_activations)(void*);
};

}  // namespace catena

namespace catena_avx512 { extern const catena::Operators operators; }
namespace catena_avx2 { extern const catena::Operators operators; }
namespace catena_scalar { extern const catena::Operators operators; }
