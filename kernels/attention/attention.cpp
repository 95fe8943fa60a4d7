// The attention and RoPE operators by themselves, for tests and benchmarks; built once an instruction set.
#include "attention.h"

namespace isa = catena::CATENA_ISA;

extern "C" {

size_t attention_page_bytes(int kind, int head_dim) { return isa::attention_page_bytes(kind, head_dim); }

size_t attention_scratch_floats(int head_dim) { return isa::attention_scratch_floats(head_dim); }

int attention_partial_floats(int head_dim) { return isa::attention_partial_floats(head_dim); }

void kv_store(const isa::Pages* pages, int block, int slot, int kv_head, const float* k, const float* v) {
    isa::kv_store(*pages, block, slot, kv_head, k, v);
}

void attend(const isa::Pages* pages, int kv_head, const int32_t* blocks, int first_position, const float* q, int rows,
            int group, size_t q_row_stride, float* out, size_t out_row_stride, float scale, float* scratch) {
    isa::attend(*pages, kv_head, blocks, first_position, q, rows, group, q_row_stride, out, out_row_stride, scale,
                scratch);
}

void attend_segment(const isa::Pages* pages, int kv_head, const int32_t* blocks, int first_position, const float* q,
                    int rows, int group, size_t q_row_stride, int segment, float* partials, float scale,
                    float* scratch) {
    isa::attend_segment(*pages, kv_head, blocks, first_position, q, rows, group, q_row_stride, segment, partials,
                        scale, scratch);
}

void combine(const isa::Pages* pages, const float* partials, int segments, int rows, int group, float* out,
             size_t out_row_stride) {
    isa::combine(*pages, partials, segments, rows, group, out, out_row_stride);
}

// A decoding step's or a prompt's attention over `layers`, as a server's threads share it: `rows` query tokens at
// first_position.. of each sequence, one layer after another, this thread's items of (sequence, key/value head).
// tables [sequences][blocks_a_sequence], q and out [sequences][rows][kv_heads][group][head_dim].
void attend_layers(const isa::Pages* layers, int count, const int32_t* tables, int sequences, int blocks_a_sequence,
                   int first_position, const float* q, int rows, int group, float* out, float scale, float* scratch,
                   int thread, int threads) {
    for (const isa::Pages* pages = layers; pages < layers + count; pages++)
        for (int item = thread; item < sequences * pages->kv_heads; item += threads) {
            const int sequence = item / pages->kv_heads, head = item % pages->kv_heads;
            const size_t stride = size_t(pages->kv_heads) * group * pages->head_dim;
            const size_t at = sequence * rows * stride + size_t(head) * group * pages->head_dim;
            isa::attend(*pages, head, tables + sequence * blocks_a_sequence, first_position, q + at, rows, group,
                        stride, out + at, stride, scale, scratch);
        }
}

// The machine's peak: 12 * 16 independent multiply-adds a round, in registers.
float multiply_add(int rounds) {
    isa::Floats x[12];
    for (isa::Floats& y : x) y = isa::fill(1.f);
    const isa::Floats factor = isa::fill(0.999f);
    for (int i = 0; i < rounds; i++)
        for (isa::Floats& y : x) y = isa::fma(y, factor, factor);
    for (int i = 1; i < 12; i++) x[0] = isa::add(x[0], x[i]);
    return isa::sum(x[0]);
}

void exp2_all(float* x, int count) {  // count: a multiple of 16
    for (int i = 0; i < count; i += isa::LANES) isa::store(x + i, isa::exp2(isa::load(x + i)));
}

void rope(float* x, int heads, int head_dim, const float* cos, const float* sin) {
    isa::rope(x, heads, head_dim, cos, sin);
}

}  // extern "C"
