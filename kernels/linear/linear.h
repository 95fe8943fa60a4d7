// A linear layer's weights as they lie in memory, the same on every processor.
//
// Outputs stand in panels of PANEL; the last one is filled up with zeros.
//   kinds 4 and 8: a panel is a run of groups of `group` inputs. Within a group, kind 4 holds for each eight inputs
//     PANEL x 4 bytes, byte j of an output holding input j in its low and input 4 + j in its high nibble; kind 8
//     holds for each four inputs PANEL x 4 bytes, one an input. Beside them scales (fp16) and zeros (bytes), each
//     [panel][group][PANEL]: weight = (level - zero) * scale.
//   kinds 16 (bf16), 17 (fp16) and 32 (fp32): [panel][input][PANEL], no groups.
#pragma once

#include <cstddef>
#include <cstdint>

namespace catena {

constexpr int PANEL = 32;

extern "C" struct Linear {
    const void* weights;
    const uint16_t* scales;
    const uint8_t* zeros;
    int32_t outputs, inputs, group, kind;
};

// An adapter of one layer: A [rank, inputs], and B in panels [panel][rank][PANEL], its scaling in it. Rank 0: none.
extern "C" struct LowRank {
    const float* a;
    const float* b;
    int64_t rank;
};

inline bool quantized(const Linear& w) { return w.kind <= 8; }
inline int panels(const Linear& w) { return (w.outputs + PANEL - 1) / PANEL; }
inline size_t panel_bytes(const Linear& w) { return (size_t)PANEL * w.inputs * (w.kind == 17 ? 16 : w.kind) / 8; }
inline int groups(const Linear& w) { return w.inputs / w.group; }

// What becomes of a row's PANEL sums: written, added to what is there, or taken as PANEL/2 gates and PANEL/2 values
// of which silu(gate) * value is written.
enum Epilogue { WRITE, ADD, GATE };

}  // namespace catena
