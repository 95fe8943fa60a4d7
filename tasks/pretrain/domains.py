"""Held-out bits per byte apart: by the language, the domain and the source of the document."""

from __future__ import annotations

import numpy as np

from tasks.pretrain import scoring
from tasks.tokenizer.shards import KINDS


class Points:
    """Bits per byte of a sample of the held-out windows: of all of them, and of each language's domains.

    A sample's bits a token are scaled by the tokens a byte of all held-out documents of the same kind, so that a point
    of the curve estimates what the last score measures.
    """

    def __init__(self, windows: scoring.Windows, sample: scoring.Windows, sizes: np.ndarray,
                 kinds: list[dict[str, str]]):
        """`sizes` int64 [documents]: UTF-8 bytes; `kinds` [documents], as shards.kinds has them."""
        names = np.array([f"bpb_{kind['language']}_{kind['domain']}" for kind in kinds])
        masks = {"held_out_bpb": np.ones(len(names), dtype=bool)}
        masks |= {str(name): names == name for name in np.unique(names)}
        predicted, scored = ((part.targets != scoring.IGNORED).sum(1) for part in (windows, sample))
        self.parts: dict[str, tuple[np.ndarray, float]] = {}
        for name, mask in masks.items():
            mine = mask[sample.owner]
            if seen := int(scored[mine].sum()):
                scale = predicted[mask[windows.owner]].sum() / sizes[mask].sum() / seen
                self.parts[name] = (mine, float(scale))

    def bits(self, nats: np.ndarray) -> dict[str, float]:
        """Bits per byte by column of the curve, from nats float64 [sample windows]; a kind without one has none."""
        return {name: round(float(nats[mine].sum() / scoring.LN2 * scale), 5)
                for name, (mine, scale) in self.parts.items()}


def table(models: dict[str, np.ndarray], sizes: np.ndarray, kinds: list[dict[str, str]]) -> list[dict[str, object]]:
    """A row a language, a domain and a source: documents, bytes, and bits per byte of each of `models`, whose values
    are nats float64 [documents]; the first one's with its standard error."""
    rows = []
    for kind in KINDS:
        names = np.array([one[kind] for one in kinds])
        for name in np.unique(names):
            mask = names == name
            found = {model: scoring.bits_per_byte(nats[mask], sizes[mask]) for model, nats in models.items()}
            first = next(iter(models))
            rows.append({"by": kind, "name": str(name), "documents": int(mask.sum()), "bytes": int(sizes[mask].sum()),
                         f"{first}_stderr": round(found[first][1], 5)}
                        | {model: round(value, 5) for model, (value, _) in found.items()})
    return rows
