// One step of a Llama over a flat ragged list of tokens.
//
// A layer is ten phases; the items of each are shared between the threads:
//   norm and quantize; q k v; rotate and write to the pages; attend; quantize; o into the residual;
//   norm and quantize; gate, up and SwiGLU; quantize; down into the residual.
#pragma once

#include <atomic>
#include <exception>

#include <unistd.h>

#include "buffers.h"
#include "model.h"

namespace ISA {

namespace attention = catena::CATENA_ISA;
using catena::Growing;

constexpr int QUERY_ROWS = 16;  // rows of a sequence that one item of attention takes

constexpr int SHARES = 4;  // items of attention a thread; with fewer, long ones are split so that all threads have some

constexpr int FETCHED_PAGES = 96;  // of a layer's keys and values: what the second-level caches hold beside weights

inline int64_t padded(int64_t size) { return (size + 15) / 16 * 16; }

// What a step computes with; grown to the largest step seen.
struct Activations {
    Growing<float> residual, projected, attended, gated, row_scales, values, scratch, inner_ranks;
    Growing<int8_t> levels;
    Growing<int32_t> sums;
    Growing<float> partials;
};

struct Attention {  // an item: `rows` rows of span `span` from row `row`, their positions in `segments` parts
    int span, row, rows, segments;
    int64_t partials;  // where its first head's results of each segment lie, floats
};

struct Part {  // segment `segment` of item `item`
    int item, segment;
};

class Running {
  public:
    Running(const catena::Model& model, catena::Pool& pool, catena::Reserved& pages, Activations& memory,
            const catena::Step& step)
        : m(model), pool(pool), s(step), hidden(padded(m.hidden)), inner(padded(m.inner)),
          qkv((int64_t)(m.heads + 2 * m.kv_heads) * m.head_dim), width((int64_t)m.heads * m.head_dim), pages(pages) {
        const int64_t rows = step.rows > step.wanted ? step.rows : step.wanted;
        int64_t widest = hidden > inner ? hidden : inner;
        if (width > widest) widest = width;
        x = memory.residual.get(rows * hidden);
        projected = memory.projected.get(rows * qkv);
        attended = memory.attended.get(rows * padded(width));
        gated = memory.gated.get(rows * inner);
        if (s.row_adapters) ranks = memory.inner_ranks.get(rows * s.most_rank);
        scratch_floats = padded((int64_t)attention::attention_scratch_floats(m.head_dim));
        scratch = memory.scratch.get((size_t)pool.threads() * (scratch_floats + hidden));
        levels = {memory.levels.get(rows * widest), memory.row_scales.get(rows * widest / 16),
                  memory.sums.get(rows * widest / 16), memory.values.get(quantized(m.linears[0]) && quantized(
                      m.linears[4 * m.layers]) ? 1 : rows * widest), 0, 0, 0};
        for (int span = 0; span < s.spans; span++)
            for (int row = s.span_starts[span]; row < s.span_starts[span + 1]; row += QUERY_ROWS) items_++;
        items = attention_items.get(items_);
        items_ = 0;
        for (int span = 0; span < s.spans; span++) {
            const int end = s.span_starts[span + 1];
            for (int row = s.span_starts[span]; row < end; row += QUERY_ROWS)
                items[items_++] = {span, row, end - row < QUERY_ROWS ? end - row : QUERY_ROWS, 1, 0};
        }
        if (pool.threads() > 1 && (int64_t)items_ * m.kv_heads < (int64_t)SHARES * pool.threads()) split(memory);
    }

    void run() {
        embed();
        for (int layer = 0; layer < m.layers; layer++) {
            const catena::Linear* w = m.linears + 4 * layer;
            normed(w, 0, m.norms + 2 * layer * hidden);
            apply_to_all(w, 0, catena::WRITE, projected, qkv, (int)qkv);
            rotate_and_store(layer);
            attend(layer);
            taken(w, 1, attended, padded(width));
            apply_to_all(w, 1, catena::ADD, x, hidden, m.hidden);
            normed(w, 2, m.norms + (2 * layer + 1) * hidden);
            apply_to_all(w, 2, catena::GATE, gated, inner, m.inner);
            taken(w, 3, gated, inner);
            apply_to_all(w, 3, catena::ADD, x, hidden, m.hidden);
        }
        finish_rows();
    }

  private:
    // Cut the items into segments of the positions they see. Bits do not change: attend takes the same segments.
    void split(Activations& memory) {
        int64_t floats = 0;
        for (int item = 0; item < items_; item++) {
            Attention& a = items[item];
            a.segments = (int)(s.positions[a.row] + a.rows - 1) / attention::SEGMENT + 1;
            a.partials = floats;
            floats += m.kv_heads * a.segments * part_floats(a);
            parts_ += a.segments;
        }
        if (parts_ == items_) return;
        partials = memory.partials.get(floats);
        parts = attention_parts.get(parts_);
        left = segments_left.get((size_t)items_ * m.kv_heads);
        for (int item = 0, part = 0; item < items_; item++)
            for (int segment = 0; segment < items[item].segments; segment++) parts[part++] = {item, segment};
    }

    int64_t part_floats(const Attention& a) const {
        return (int64_t)a.rows * (m.heads / m.kv_heads) * attention::attention_partial_floats(m.head_dim);
    }

    Rows rows_of(const catena::Linear& w, int count) const {
        Rows rows = levels;
        rows.count = count;
        rows.inputs = w.inputs;
        rows.group = w.group;
        return rows;
    }

    // Items of about a 64th of the rows: few enough for the counters, enough to share.
    template <class Function>
    void each_row(int rows, const Function& function) {
        const int chunk = rows > 64 ? (rows + 63) / 64 : 1;  // a step may want no row at all
        pool.share((rows + chunk - 1) / chunk, [&](int64_t item, int thread) {
            const int begin = (int)item * chunk, end = begin + chunk < rows ? begin + chunk : rows;
            for (int row = begin; row < end; row++) function(row, thread);
        });
    }

    void embed() {
        each_row(s.rows, [&](int row, int thread) {
            float* to = x + row * hidden;
            const char* from = stored_row(s.tokens[row], norm_scratch(thread));
            if (m.embedding_kind == 32) {
                std::memcpy(to, from, m.hidden * sizeof(float));
            } else {
                for (int i = 0; i < m.hidden; i += WIDTH) {
                    uint16_t lanes[WIDTH] = {};
                    const int left = m.hidden - i < WIDTH ? m.hidden - i : WIDTH;
                    std::memcpy(lanes, from + i * sizeof(uint16_t), left * sizeof(uint16_t));
                    store(to + i, m.embedding_kind == 16 ? from_bfloat(lanes) : from_half(lanes));
                }
            }
            for (int64_t i = m.hidden; i < hidden; i++) to[i] = 0;
        });
        if (unread) throw catena::Unread();
    }

    // A token's row of the embedding as it is stored; `room`, of `hidden` floats, takes it where it lies in a file.
    const char* stored_row(int64_t token, float* room) {
        const int64_t bytes = (int64_t)m.hidden * (m.embedding_kind == 32 ? sizeof(float) : sizeof(uint16_t));
        if (m.embedding) return (const char*)m.embedding + token * bytes;
        if (pread(m.embedding_file, room, bytes, m.embedding_at + token * bytes) != bytes) unread = true;
        return (const char*)room;
    }

    static Tile tile_of(int rows, int row) {
        int index = (int)((int64_t)row * tiles(rows) / rows);
        while (tile(rows, index).first + tile(rows, index).count <= row) index++;
        return tile(rows, index);
    }

    void put_row(const catena::Linear& w, int count, int row, const float* from) {
        const Tile t = tile_of(count, row);
        put(rows_of(w, count), quantized(w), t, row - t.first, from);
    }

    const catena::LowRank* adapter_of(const catena::Linear* w, int part, int row) const {
        if (!s.row_adapters || s.row_adapters[row] < 0) return nullptr;
        return s.low_ranks + (int64_t)s.row_adapters[row] * 4 * m.layers + (w - m.linears) + part;
    }

    // Layer w[part]'s input of a row: put among the rows, and through A where the row has an adapter.
    void put_input(const catena::Linear* w, int part, int row, const float* from) {
        put_row(w[part], s.rows, row, from);
        if (const catena::LowRank* adapter = adapter_of(w, part, row))
            project(*adapter, from, w[part].inputs, ranks + row * s.most_rank);
    }

    void apply_to_all(const catena::Linear* w, int part, catena::Epilogue epilogue, float* out,
                      int64_t stride, int outputs) {
        fetch_next(w[part + 1]);
        apply(pool, w[part], rows_of(w[part], s.rows), epilogue, out, stride, outputs,
              [&](int row, int panel, float* sums) {
                  if (part == 0) fetch_pages((int)((w - m.linears) / 4), row, panel, catena::panels(w[0]));
                  if (const catena::LowRank* adapter = adapter_of(w, part, row))
                      expand(*adapter, panel, ranks + row * s.most_rank, sums);
              });
    }

    void fetch_next(const catena::Linear& w) { pool.next(w.weights, catena::panel_bytes(w), catena::panels(w)); }

    // The `part`th of `parts` of what a row attends to first: memory fetches it while q, k and v are made.
    void fetch_pages(int layer, int row, int part, int parts) const {
        const attention::Pages from = pages_of(layer);
        const int64_t held = s.positions[row] / 16 + 1, room = FETCHED_PAGES / ((int64_t)s.rows * m.kv_heads);
        const int64_t count = held < room ? held : room, units = count * m.kv_heads;
        for (int64_t i = units * part / parts; i < units * (part + 1) / parts; i++) {
            const int64_t page = table(span_of(row))[i % count] * (int64_t)m.kv_heads + i / count;
            const char* at = (const char*)from.base + page * from.page_bytes;
            for (size_t line = 0; line < from.page_bytes; line += 64) __builtin_prefetch(at + line, 0, 2);
        }
    }

    void normed(const catena::Linear* w, int part, const float* weight) {
        each_row(s.rows, [&](int row, int thread) {
            float* out = norm_scratch(thread);
            rms_norm(x + row * hidden, weight, m.hidden, (int)hidden, m.eps, out);
            put_input(w, part, row, out);
        });
    }

    void taken(const catena::Linear* w, int part, const float* from, int64_t stride) {
        each_row(s.rows, [&](int row, int thread) { put_input(w, part, row, from + row * stride); });
    }

    attention::Pages pages_of(int layer) const {
        const size_t page = attention::attention_page_bytes(m.kv_kind, m.head_dim);
        return {pages.at((size_t)layer * m.blocks * m.kv_heads * page), m.kv_heads, m.head_dim, m.kv_kind, page};
    }

    int span_of(int row) const {
        int low = 0, high = s.spans;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (s.span_starts[middle] <= row ? low : high) = middle;
        }
        return low;
    }

    void rotate_and_store(int layer) {
        const attention::Pages to = pages_of(layer);
        const int half = m.head_dim / 2;
        each_row(s.rows, [&](int row, int thread) {
            float* q = projected + row * qkv;
            float* k = q + width;
            const float* v = k + (int64_t)m.kv_heads * m.head_dim;
            const int64_t position = s.positions[row];
            attention::rope(q, m.heads + m.kv_heads, m.head_dim, m.cosines + position * half,
                            m.sines + position * half);
            const int block = table(span_of(row))[position / 16];
            for (int h = 0; h < m.kv_heads; h++)
                attention::kv_store(to, block, (int)(position % 16), h, k + h * m.head_dim, v + h * m.head_dim);
        });
    }

    const int32_t* table(int span) const {
        return s.block_table + (int64_t)s.span_tables[span] * s.blocks_a_sequence;
    }

    void attend(int layer) {
        const attention::Pages from = pages_of(layer);
        const int group = m.heads / m.kv_heads;
        const float scale = 1 / std::sqrt((float)m.head_dim);
        const int64_t stride = padded(width);
        if (parts) return attend_parts(from, group, scale, stride);
        pool.share((int64_t)items_ * m.kv_heads, [&](int64_t item, int thread) {
            const Attention& a = items[item / m.kv_heads];
            const int head = (int)(item % m.kv_heads);
            const int64_t column = (int64_t)head * group * m.head_dim;
            attention::attend(from, head, table(a.span), (int)s.positions[a.row], projected + a.row * qkv + column,
                              a.rows, group, qkv, attended + a.row * stride + column, stride, scale,
                              scratch + thread * (scratch_floats + hidden));
        });
    }

    // A segment an item; whoever ends an item's last one combines them, in their order.
    void attend_parts(const attention::Pages& from, int group, float scale, int64_t stride) {
        for (int i = 0; i < items_ * m.kv_heads; i++)
            std::atomic_init(left + i, items[i / m.kv_heads].segments);
        pool.share((int64_t)parts_ * m.kv_heads, [&](int64_t unit, int thread) {
            const Part& part = parts[unit / m.kv_heads];
            const Attention& a = items[part.item];
            const int head = (int)(unit % m.kv_heads);
            const int64_t column = (int64_t)head * group * m.head_dim, floats = part_floats(a);
            float* const results = partials + a.partials + head * a.segments * floats;
            attention::attend_segment(from, head, table(a.span), (int)s.positions[a.row],
                                      projected + a.row * qkv + column, a.rows, group, qkv, part.segment,
                                      results + part.segment * floats, scale,
                                      scratch + thread * (scratch_floats + hidden));
            if (left[part.item * m.kv_heads + head].fetch_sub(1, std::memory_order_acq_rel) == 1)
                attention::combine(from, results, a.segments, a.rows, group, attended + a.row * stride + column,
                                   stride);
        });
    }

    void finish_rows() {
        const catena::Linear& head = m.linears[4 * m.layers];
        each_row(s.wanted, [&](int i, int thread) {
            float* out = norm_scratch(thread);
            rms_norm(x + s.wanted_rows[i] * hidden, m.norms + 2 * (int64_t)m.layers * hidden, m.hidden, (int)hidden,
                     m.eps, out);
            if (s.states) std::memcpy(s.states + (int64_t)i * m.hidden, out, m.hidden * sizeof(float));
            if (s.logits) put_row(head, s.wanted, i, out);
        });
        fetch_next(m.linears[0]);  // the next step begins with it
        if (s.logits)
            apply(pool, head, rows_of(head, s.wanted), catena::WRITE, s.logits, m.vocabulary, m.vocabulary,
                  [](int, int, float*) {});
    }

    float* norm_scratch(int thread) const { return scratch + thread * (scratch_floats + hidden) + scratch_floats; }

    const catena::Model& m;
    catena::Pool& pool;
    const catena::Step& s;
    const int64_t hidden, inner, qkv, width;
    catena::Reserved& pages;
    float *x, *projected, *attended, *gated, *scratch, *ranks = nullptr;
    int64_t scratch_floats;
    Rows levels;
    Growing<Attention> attention_items;
    Attention* items;
    int items_ = 0;
    Growing<Part> attention_parts;
    Growing<std::atomic<int>> segments_left;
    Part* parts = nullptr;        // null: no item is split
    std::atomic<int>* left;       // segments that an (item, head) still lacks
    float* partials;
    int parts_ = 0;
    std::atomic<bool> unread{false};
};

}  // namespace ISA
