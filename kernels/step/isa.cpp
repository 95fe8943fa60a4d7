// The step and the linear layer for one instruction set: compiled once for each, with that set's flags.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../simd/simd.h"
#include "../threads.h"
#include "../simd/probe.h"
#include "../linear/linear.h"
#include "../linear/rows.h"
#include "../linear/integer.h"
#include "../linear/floating.h"
#include "../norm/norm.h"
#include "../swiglu/swiglu.h"
#include "../linear/apply.h"
#include "../rope/rope.h"
#include "../attention/attention.h"
#include "../linear/lowrank.h"
#include "step.h"
#include "operators.h"

namespace ISA {

static void step(const catena::Model& model, catena::Pool& pool, catena::Reserved& pages, void* activations,
                 const catena::Step& given) {
    Running running(model, pool, pages, *(Activations*)activations, given);
    running.run();
}

// One layer by itself, as tests and benchmarks call it: x [rows, inputs] to out [rows, outputs (half where GATE)].
static void linear(catena::Pool& pool, const catena::Linear& w, int epilogue, int count, const float* x, float* out) {
    Growing<int8_t> levels;
    Growing<float> scales, values;
    Growing<int32_t> sums;
    const int64_t size = (int64_t)count * w.inputs;
    const Rows rows{levels.get(size), scales.get(size / 16 + 1), sums.get(size / 16 + 1),
                    values.get(quantized(w) ? 1 : size), count, w.inputs, w.group};
    pool.share(tiles(count), [&](int64_t index, int) {
        const Tile t = tile(count, (int)index);
        for (int r = 0; r < t.count; r++) put(rows, quantized(w), t, r, x + (int64_t)(t.first + r) * w.inputs);
    });
    const int outputs = epilogue == catena::GATE ? w.outputs / 2 : w.outputs;
    apply(pool, w, rows, (catena::Epilogue)epilogue, out, outputs, outputs, [](int, int, float*) {});
}

static size_t page_bytes(int kind, int head_dim) { return attention::attention_page_bytes(kind, head_dim); }
static void* new_activations() { return new Activations; }
static void delete_activations(void* activations) { delete (Activations*)activations; }

extern const catena::Operators operators = {step, linear, read_memory, multiply, WIDTH, page_bytes, new_activations, delete_activations};

}  // namespace ISA
