"""From one row of logits to one token: greedy, or temperature, top-k and top-p with a generator of the request's own.

The numbers depend on the row, the request and its seed alone, never on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How a request wants its tokens chosen; temperature 0 is greedy. top_k 0 and top_p 1 cut nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability under the model itself (before bias, temperature and grammar) and the best others."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 of logits float32, along the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def logprob(logits: np.ndarray, token: int, count: int) -> TokenLogprob:
    """Log-probability of `token` in the row `logits` [vocabulary], with the `count` most likely tokens."""
    row = log_softmax(logits)
    best = np.argsort(-row, kind="stable")[:count] if count else ()
    return TokenLogprob(token, float(row[token]), tuple((int(t), float(row[t])) for t in best))


def adjusted(logits: np.ndarray, sampling: Sampling, generated: list[int]) -> np.ndarray:
    """Logits with the request's bias and penalties (OpenAI's definitions) applied; a copy where anything changes."""
    if not (sampling.logit_bias or sampling.presence_penalty or sampling.frequency_penalty):
        return logits
    logits = logits.copy()
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias
    if generated:
        tokens, counts = np.unique(np.array(generated), return_counts=True)
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return logits


def choose(logits: np.ndarray, sampling: Sampling, generator: np.random.Generator,
           allowed: np.ndarray | None = None) -> int:
    """The next token of a row `logits` [vocabulary]; `allowed` bool [vocabulary] is the grammar's mask."""
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    scaled = (logits[order].astype(np.float64) - logits[order[0]]) / sampling.temperature
    weights = np.exp(scaled)
    if sampling.top_k:
        weights[sampling.top_k:] = 0
    weights /= weights.sum()
    # nucleus (Holtzman et al. 2020): the smallest set of likeliest tokens that reaches top_p, never empty
    cumulative = weights.cumsum()
    weights[1:][cumulative[:-1] >= sampling.top_p] = 0
    cumulative = weights.cumsum()
    drawn = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return int(order[min(drawn, int(np.flatnonzero(weights)[-1]))])
