// The C ABI: a session is a model, its threads, its keys and values. Functions return 0, 1 where memory ran out,
// or 2 where the embedding's file is cut short.

#include <cstdlib>
#include <cstring>
#include <new>

#include "operators.h"

namespace {

const catena::Operators* best() {
#if defined(CATENA_X86)
    const char* forced = std::getenv("CATENA_ISA");
    const bool scalar = forced && !std::strcmp(forced, "scalar"), avx2 = forced && !std::strcmp(forced, "avx2");
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!scalar && !avx2 && has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        return &catena_avx512::operators;
    if (!scalar && has_avx2) return &catena_avx2::operators;
#endif
    return &catena_scalar::operators;
}

struct Session {
    Session(const catena::Model& m, int threads, const catena::Operators& o)
        : model(m), operators(o), pool(threads),
          pages((size_t)m.layers * m.blocks * m.kv_heads * o.page_bytes(m.kv_kind, m.head_dim)),
          activations(o.new_activations()) {}
    ~Session() { operators.delete_activations(activations); }

    const catena::Model model;
    const catena::Operators& operators;
    catena::Pool pool;
    catena::Reserved pages;
    void* activations;
};

}  // namespace

extern "C" {

const char* catena_isa() {
#if defined(CATENA_X86)
    if (best() == &catena_avx512::operators) return "avx512";
    if (best() == &catena_avx2::operators) return "avx2";
#endif
    return "scalar";
}

Session* catena_open(const catena::Model* model, int threads) {
    try {
        return new Session(*model, threads, *best());
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void catena_close(Session* session) { delete session; }

int catena_step(Session* session, const catena::Step* step) {
    try {
        session->operators.step(session->model, session->pool, session->pages, session->activations, *step);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    } catch (const catena::Unread&) {
        return 2;
    }
}

// Block targets[i] of every layer becomes what block sources[i] holds.
void catena_copy(Session* session, int count, const int32_t* sources, const int32_t* targets) {
    const catena::Model& m = session->model;
    const size_t block = m.kv_heads * session->operators.page_bytes(m.kv_kind, m.head_dim);
    session->pool.share((int64_t)m.layers * count, [&](int64_t item, int) {
        const size_t layer = item / count * m.blocks, i = item % count;
        std::memcpy(session->pages.at((layer + targets[i]) * block), session->pages.at((layer + sources[i]) * block),
                    block);
    });
}

catena::Pool* catena_threads(int threads) { return new catena::Pool(threads); }
void catena_join(catena::Pool* pool) { delete pool; }

int catena_linear(catena::Pool* pool, const catena::Linear* w, int epilogue, int rows, const float* x, float* out) {
    try {
        best()->linear(*pool, *w, epilogue, rows, x, out);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

float catena_read_memory(catena::Pool* pool, const float* data, int64_t megabytes) {
    return best()->read_memory(*pool, data, megabytes);
}

float catena_multiply(catena::Pool* pool, int64_t items, int integers) {
    return best()->multiply(*pool, items, integers != 0);
}

int catena_width() { return best()->width; }
}
