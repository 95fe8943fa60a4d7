"""One dial: `model.size`, a depth, sets a Llama's whole shape; any value that is given stands, the rest follow it.

Width grows with depth (Kaplan et al. 2020, arXiv:2001.08361: at equal weights shape hardly matters between wide
bounds). Rates, batch and tokens follow from the weights: tasks/pretrain/scaling.py.
"""

from __future__ import annotations

from typing import Any

HEAD = 64       # channels of a head
DEEPEST = 128   # layers; 4096 wide


def shape(depth: int, given: dict[str, int] | None = None) -> dict[str, int]:
    """The values of a Llama of `depth` layers, but for those `given`, which the others follow.

    A head of 64 channels for every two layers, an inner width of 8/3 of the width in steps of 64 (SwiGLU at the
    weights of a plain block: Shazeer 2020, arXiv:2002.05202), three query heads or more on a key head where they
    divide.
    """
    made = {"layers": depth, "head_dim": HEAD, "hidden": (depth + 1) // 2 * HEAD} | (given or {})
    made.setdefault("intermediate", max(1, round(made["hidden"] * 8 / 3 / 64)) * 64)
    made.setdefault("heads", max(1, made["hidden"] // made["head_dim"]))
    made.setdefault("kv_heads", max(n for n in range(1, made["heads"] + 1)
                                    if made["heads"] % n == 0 and (n == 1 or made["heads"] >= 3 * n)))
    return made


def settle(values: dict[str, Any]) -> dict[str, Any]:
    """The `model` section as written, its absent or null shape set by its `size`, or null where there is none.

    Faulty values stay, for the section to name them alone.
    """
    size = values.get("size")
    if size is None:
        return dict.fromkeys(shape(1)) | values
    sound = type(size) is int and 1 <= size <= DEEPEST
    given = {name: values[name] for name in shape(1) if values.get(name) is not None}
    whole = {name: value for name, value in given.items() if type(value) is int and value > 0}
    return values | shape(size if sound else 1, whole) | given
