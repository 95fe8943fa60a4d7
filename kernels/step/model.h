// A Llama as the step reads it, and what one step is given. Plain data that Python fills through ctypes.
#pragma once

#include <cstdint>

#include "../linear/linear.h"

namespace catena {

// All float vectors of `hidden` values are padded with zeros to a multiple of 16.
extern "C" struct Model {
    int32_t vocabulary, hidden, inner, layers, heads, kv_heads, head_dim, context;
    int32_t blocks, kv_kind, embedding_kind;  // kinds: kernels/attention; 16 bf16, 17 fp16, 32 fp32
    float eps;
    const void* embedding;   // [vocabulary, hidden]; or null: rows are read from the file at the end
    const float* norms;      // [2 * layers + 1, hidden padded]: before attention, before the MLP, ..., last
    const float* cosines;    // [context, head_dim / 2]
    const float* sines;
    const Linear* linears;   // [4 * layers + 1]: q k v, o, gate and up interleaved by 16, down, ..., head
    int64_t embedding_at;    // bytes before the first row
    int32_t embedding_file;  // its descriptor
};

struct Unread {};  // thrown where a row of the embedding cannot be read from its file

// `rows` tokens; a sequence's stand together at consecutive positions. `spans` [sequences + 1] are the first rows.
extern "C" struct Step {
    int32_t rows, spans, blocks_a_sequence, wanted;
    const int64_t* tokens;
    const int64_t* positions;
    const int32_t* span_starts;   // [spans + 1]
    const int32_t* span_tables;   // [spans], row of block_table
    const int32_t* block_table;
    const int64_t* wanted_rows;   // [wanted]
    const int32_t* row_adapters;  // [rows], -1 for none; or null
    const LowRank* low_ranks;     // [adapters][4 * layers]
    int64_t most_rank;            // the largest rank of all
    float* logits;                // [wanted, vocabulary], or null
    float* states;                // [wanted, hidden]: final states after the last norm, or null
};

}  // namespace catena
