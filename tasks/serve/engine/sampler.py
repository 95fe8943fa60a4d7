"""From one row of logits to one token: greedy, or temperature, top-k, top-p and min-p with the request's own generator.

The numbers depend on the row, the request and its seed alone, never on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

HEAD = 1024  # likeliest tokens sorted before all of the vocabulary is


@dataclass(frozen=True)
class Sampling:
    """How a request wants its tokens chosen; temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 cut nothing,
    repetition_penalty 1 changes nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


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
    return TokenLogprob(token, float(row[token]), tuple((int(t), float(row[t])) for t in likeliest(row, count)))


def likeliest(row: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest of `row` in falling order, equal ones by index; all of it where count is more."""
    if count == 0:
        return np.empty(0, np.int64)
    if count < len(row):
        least = np.partition(row, len(row) - count)[len(row) - count]
        candidates = np.flatnonzero(row >= least)
    else:
        candidates = np.arange(len(row))
    return candidates[np.argsort(-row[candidates], kind="stable")][:count]


def adjusted(logits: np.ndarray, sampling: Sampling, generated: Sequence[int],
             prompt: Sequence[int] = ()) -> np.ndarray:
    """Logits with the request's bias and penalties applied; a copy where anything changes.

    Presence and frequency penalties are OpenAI's and count generated tokens; the repetition penalty is CTRL's (Keskar
    et al. 2019, eq. 1) as transformers and vLLM apply it, over the prompt too.
    """
    repeated = sampling.repetition_penalty != 1
    if not (sampling.logit_bias or sampling.presence_penalty or sampling.frequency_penalty or repeated):
        return logits
    logits = logits.copy()
    if repeated:
        seen = np.unique(np.array([*prompt, *generated], np.int64))
        found = logits[seen]
        logits[seen] = np.where(found > 0, found / sampling.repetition_penalty, found * sampling.repetition_penalty)
    if generated:
        tokens, counts = np.unique(np.array(generated), return_counts=True)
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias
    return logits


def choose(logits: np.ndarray, sampling: Sampling, generator: np.random.Generator,
           allowed: np.ndarray | None = None) -> int:
    """The next token of a row `logits` [vocabulary]; `allowed` bool [vocabulary] is the grammar's mask."""
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if sampling.temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / np.float32(sampling.temperature))
    if sampling.top_k or sampling.top_p < 1:
        tokens = nucleus(weights, sampling)
        weights = weights[tokens]
    else:
        tokens = None
    if sampling.min_p:  # Nguyen et al. 2024: a share of the likeliest token's weight, which is 1 here
        weights = np.where(weights >= sampling.min_p, weights, 0)
    cumulative = weights.cumsum(dtype=np.float64)
    drawn = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    drawn = min(drawn, int(np.flatnonzero(weights)[-1]))
    return drawn if tokens is None else int(tokens[drawn])


def nucleus(weights: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Tokens that top-k, then top-p keep, likeliest first; all are sorted only where HEAD of them do not reach top_p.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest tokens that reaches top_p, never empty.
    """
    if sampling.top_k:
        tokens = likeliest(weights, sampling.top_k)
        whole = weights[tokens].sum(dtype=np.float64)
    else:
        tokens, whole = likeliest(weights, HEAD), weights.sum(dtype=np.float64)
        if weights[tokens].sum(dtype=np.float64) < sampling.top_p * whole:
            tokens = likeliest(weights, len(weights))
    if sampling.top_p == 1:
        return tokens
    cumulative = weights[tokens].cumsum(dtype=np.float64)
    return tokens[:int((cumulative[:-1] < sampling.top_p * whole).sum()) + 1]
