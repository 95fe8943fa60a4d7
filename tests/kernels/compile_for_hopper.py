"""Compile the Triton kernels for compute capability 9.0 as a 7B Llama calls them; one JSON object on stdout.

Run by test_triton_compile.py in a process of its own: the interpreter, once chosen, stays for a process's life.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kernels.attention import triton as attention  # noqa: E402
from kernels.interpreter import TYPES  # noqa: E402
from kernels.linear import triton as linear  # noqa: E402
from kernels.norm.triton import norm_kernel  # noqa: E402
from kernels.rope.triton import rope_kernel  # noqa: E402
from kernels.sampling import triton as sampling  # noqa: E402
from kernels.swiglu.triton import swiglu_kernel  # noqa: E402

HALVES = {"fp16": next(d for d, t in TYPES.items() if str(t) == "fp16"),
          "bf16": next(d for d, t in TYPES.items() if str(t) == "bf16")}


def compiled(kernel, types: str, constants: dict, warps: int, stages: int = 3, aligned: tuple[str, ...] = ()) -> dict:
    """Compile `kernel` whose arguments, constants apart, have the space-separated `types`; `aligned` ones and all
    pointers are multiples of 16."""
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, types.split(), strict=True)) | dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in kernel.arg_names}
    hints = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(signature)
             if signature[name].startswith("*") or name in aligned}
    code = triton.compile(ASTSource(kernel, signature=signature, constexprs=constants, attrs=hints),
                          target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages})
    ptx = code.asm["ptx"]
    return {"shared": code.metadata.shared, "spills": spilled(code.asm["cubin"]),
            "wgmma": ptx.count("wgmma.mma_async"), "mma_sync": ptx.count("mma.sync"),
            "through_shared": code.asm["ttgir"].count("ttg.local_alloc %")}


def spilled(cubin: bytes) -> int:
    """Bytes of local memory a thread of the (only) function needs, by the cubin's own table of stack frames."""
    # ELF64: section headers at e_shoff; .nv.info holds attribute 0x1204.. EIATTR_FRAME_SIZE (format 4, code 0x11)
    offset, = struct.unpack_from("<Q", cubin, 0x28)
    size, count, strings = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, offset + size * i) for i in range(count)]
    names = sections[strings][4]
    frames = 0
    for name, _, _, _, start, length in sections:
        if cubin[names + name:cubin.index(b"\0", names + name)] != b".nv.info":
            continue
        place = start
        while place < start + length:
            form, code, value = struct.unpack_from("<BBH", cubin, place)
            if form == 4 and code == 0x11:
                frames += struct.unpack_from("<II", cubin, place + 4)[1]
            place += 4 + (value if form == 4 else 0)
    return frames


def main() -> None:
    found = {}
    for half, dtype in HALVES.items():
        exponent, kind = linear.EXPONENTS[dtype]
        for tile in linear.TILES.values() if half == "bf16" else (linear.TILES[16],):
            serial = tile.rows > 64
            blocks = {"SERIAL": serial, "MATH": kind, "BLOCK_M": tile.rows, "BLOCK_N": tile.outputs}
            out, numbers = f"*{half}" if serial else "*fp32", "i32 i32 i32 i32 i32"
            found[f"int4 {half} {tile.rows}"] = compiled(
                linear.int4_kernel, f"*{half} *i32 *fp16 *i32 {out} {numbers}",
                blocks | {"GROUP": 128, "EXPONENT": exponent, "TYPE": kind, "BLOCK_K": linear.block_of(128)},
                tile.warps, tile.stages, ("outputs", "inputs", "span"))
            found[f"dense {half} {tile.rows}"] = compiled(
                linear.dense_kernel, f"*{half} *{half} {out} {numbers}", blocks | {"BLOCK_K": 64}, tile.warps,
                tile.stages, ("outputs", "inputs", "span"))
        for split in (False, True) if half == "bf16" else (True,):
            found[f"attention {half} split={split}"] = compiled(
                attention.attention_kernel,
                f"*{half} *{half} *{half} *i32 *i32 *i64 {'*fp32' if split else '*' + half} *fp32 *fp32 i32 i32 fp32",
                {"SPLIT": split, "HEADS": 32, "KV_HEADS": 8, "DIM": 128, "LANES": 128, "ROWS": attention.ROWS,
                 "KEYS": attention.KEYS, "SPAN": attention.SPAN, "PAGE": attention.PAGE, "MATH": kind},
                attention.WARPS, attention.STAGES)
        found[f"merge {half}"] = compiled(
            attention.merge_kernel, f"*fp32 *fp32 *fp32 *i64 *{half} i32",
            {"HEADS": 32, "WIDE": 32, "DIM": 128, "LANES": 128, "SPAN": attention.SPAN, "NONE": -1e30}, 4)
        found[f"norm {half}"] = compiled(norm_kernel, f"*{half} *fp32 *{half} *{half} i32 fp32",
                                         {"ADD": True, "BLOCK": 4096}, 8)
        found[f"swiglu {half}"] = compiled(swiglu_kernel, f"*{half} *{half} i32", {"BLOCK": 1024}, 4)
        found[f"rope {half}"] = compiled(
            rope_kernel, f"*{half} *fp32 *fp32 *i64 *i64 *i32 i32 *{half} *{half} *{half}",
            {"HEADS": 32, "KV_HEADS": 8, "DIM": 128, "HALF": 64, "PAGE": 16}, 1)
    found["sum"] = compiled(linear.sum_kernel, "*fp32 *bf16 i32 i32", {"BLOCK": 1024}, 4)
    found["greedy"] = compiled(sampling.greedy_kernel, "*fp32 *i32 i32", {"BLOCK": sampling.BLOCK}, 4)
    found["sample"] = compiled(sampling.sample_kernel, "*fp32 *i32 *fp32 *i32 *fp32 *i64 *i32 i32",
                               {"BLOCK": sampling.BLOCK}, 8)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
