"""The sampling operator's reference: sort, cut, normalize in float64; draw by Philox (Salmon et al. 2011)."""

from __future__ import annotations

import numpy as np

ROUNDS = 10
MASK = 0xFFFFFFFF


def kept(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities float64 [vocabulary] after top-k, then top-p of what is left; 0 for a token cut away."""
    order = np.argsort(-logits, kind="stable")
    weights = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / temperature)
    if top_k:
        weights[top_k:] = 0
    weights /= weights.sum()
    before = np.r_[0, weights.cumsum()[:-1]]
    if top_p < 1:
        weights[1:][before[1:] >= top_p] = 0
    found = np.zeros(len(logits))
    found[order] = weights / weights.sum()
    return found


def draw(probabilities: np.ndarray, point: float) -> int:
    """The first token in the order of the vocabulary whose cumulative probability passes `point` in [0, 1)."""
    return int(np.searchsorted(probabilities.cumsum(), point, side="right"))


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) of Philox-4x32-10: key `seed` (64 bits), counter (step, 0, 0, 0), its first word.

    A negative word counts as its complement and 31 bits are kept, as Triton's `rand` does.
    """
    counter = [step & MASK, 0, 0, 0]
    key = [seed & MASK, seed >> 32 & MASK]
    for _ in range(ROUNDS):
        high_a, low_a = divmod(0xD2511F53 * counter[0], 1 << 32)
        high_b, low_b = divmod(0xCD9E8D57 * counter[2], 1 << 32)
        counter = [high_b ^ counter[1] ^ key[0], low_b, high_a ^ counter[3] ^ key[1], low_a]
        key = [(key[0] + 0x9E3779B9) & MASK, (key[1] + 0xBB67AE85) & MASK]
    word = counter[0]
    return (MASK - word if word >> 31 else word) * 4.6566127342e-10
