"""The next token of every row of logits, on the device: greedy, or temperature, top-k and top-p with a seed a row.

One program a row and no sort: logits become integers of the same order, and the smallest one kept is found by
bisection over its 32 bits, by count for top-k (Fan et al. 2018), by probability mass for top-p (Holtzman et al.
2020). Of equal logits the lower token stands first, as in a stable sort. The draw is Philox (Salmon et al. 2011) of
the row's seed and step, so it depends on nothing beside the row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096


@triton.jit
def greedy_kernel(logits, out, vocabulary, BLOCK: tl.constexpr):
    row = logits + tl.program_id(0).to(tl.int64) * vocabulary
    best, chosen = -float("inf"), 0
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(row + token, mask=token < vocabulary, other=-float("inf")).to(tl.float32)
        top = tl.max(value, 0)
        first = tl.min(tl.where(value == top, token, vocabulary), 0)
        chosen = tl.where(top > best, first, chosen)   # an equal one later on loses to the first
        best = tl.maximum(top, best)
    tl.store(out + tl.program_id(0), chosen)


@triton.jit
def ordered(row, start, vocabulary, best, temperature, BLOCK: tl.constexpr):
    """(token, int32 key of the logit's order, weight exp((logit - best) / temperature)) of a block of tokens."""
    token = start + tl.arange(0, BLOCK)
    value = tl.load(row + token, mask=token < vocabulary, other=-float("inf")).to(tl.float32) + 0.0
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return token, key, tl.exp((value - best) / temperature)


@triton.jit
def count_from(row, vocabulary, threshold, BLOCK: tl.constexpr):
    """How many tokens have a key of at least `threshold`."""
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token, key, weight = ordered(row, start, vocabulary, 0.0, 1.0, BLOCK)
        count += ((token < vocabulary) & (key >= threshold)).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def mass_from(row, vocabulary, best, temperature, threshold, BLOCK: tl.constexpr):
    """The mass of the tokens whose key is at least `threshold`; it never falls when the threshold does."""
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token, key, weight = ordered(row, start, vocabulary, best, temperature, BLOCK)
        mass += tl.where(key >= threshold, weight, 0.0)
    return tl.sum(mass, 0)


@triton.jit
def above(row, vocabulary, best, temperature, threshold, BLOCK: tl.constexpr):
    """(count, mass) of the tokens whose key is at least `threshold`, and of those above it."""
    count = tl.zeros([BLOCK], tl.int32)
    more = tl.zeros([BLOCK], tl.int32)
    mass = tl.zeros([BLOCK], tl.float32)
    beyond = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        token, key, weight = ordered(row, start, vocabulary, best, temperature, BLOCK)
        real = token < vocabulary
        count += (real & (key >= threshold)).to(tl.int32)
        more += (real & (key > threshold)).to(tl.int32)
        mass += tl.where(key >= threshold, weight, 0.0)
        beyond += tl.where(key > threshold, weight, 0.0)
    return tl.sum(count, 0), tl.sum(more, 0), tl.sum(mass, 0), tl.sum(beyond, 0)


@triton.jit
def middle(low, high):
    """The mean of two int32 rounded up, without overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def sample_kernel(logits, out, temperatures, top_ks, top_ps, seeds, steps, vocabulary, BLOCK: tl.constexpr):
    index = tl.program_id(0)
    row = logits + index.to(tl.int64) * vocabulary
    temperature = tl.load(temperatures + index)
    kept = tl.load(top_ks + index)
    kept = tl.where((kept <= 0) | (kept > vocabulary), vocabulary, kept)
    best = -float("inf")
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(row + token, mask=token < vocabulary, other=-float("inf")).to(tl.float32)
        best = tl.maximum(best, tl.max(value, 0))
    peak = (best + 0.0).to(tl.int32, bitcast=True)
    peak = tl.where(peak < 0, peak ^ 0x7FFFFFFF, peak)
    # top-k: the largest threshold that leaves at least `kept` tokens
    low, high = tl.full([], -2147483648, tl.int32), peak
    high = tl.where(kept == vocabulary, low, high)               # nothing to cut, nothing to search
    while low < high:
        center = middle(low, high)
        enough = count_from(row, vocabulary, center, BLOCK) >= kept
        low, high = tl.where(enough, center, low), tl.where(enough, high, center - 1)
    least = low
    count, more, mass, beyond = above(row, vocabulary, best, temperature, least, BLOCK)
    each = (mass - beyond) / tl.maximum(count - more, 1)
    equals = kept - more                                        # how many at the threshold itself stay
    total = beyond + equals * each
    # top-p: the largest threshold whose tokens reach the share of what top-k left
    share = tl.load(top_ps + index)
    wanted = share * total
    high = tl.where(share >= 1, low, peak)
    while low < high:
        center = middle(low, high)
        enough = mass_from(row, vocabulary, best, temperature, center, BLOCK) >= wanted
        low, high = tl.where(enough, center, low), tl.where(enough, high, center - 1)
    count, more, mass, beyond = above(row, vocabulary, best, temperature, low, BLOCK)
    each = (mass - beyond) / tl.maximum(count - more, 1)
    needed = tl.maximum(tl.ceil((wanted - beyond) / tl.maximum(each, 1e-38)), 1.0)
    limit = tl.where(low == least, equals, count - more)
    equals = tl.where((share >= 1) | (needed >= limit.to(tl.float32)), limit, needed.to(tl.int32))
    # the draw: the first kept token, in the order of the vocabulary, whose cumulative mass passes the point
    point = tl.rand(tl.load(seeds + index), tl.load(steps + index)) * (beyond + equals * each)
    passed, seen = tl.full([], 0.0, tl.float32), tl.full([], 0, tl.int32)
    chosen, last = tl.full([], -1, tl.int32), tl.full([], 0, tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token, key, weight = ordered(row, start, vocabulary, best, temperature, BLOCK)
        equal = (key == low).to(tl.int32)
        stays = (token < vocabulary) & ((key > low) | ((equal > 0) & (seen + tl.cumsum(equal, 0) <= equals)))
        mass_here = tl.where(stays, weight, 0.0)
        reached = passed + tl.cumsum(mass_here, 0)
        first = tl.min(tl.where(stays & (reached > point), token, vocabulary), 0)
        chosen = tl.where((chosen < 0) & (first < vocabulary), first, chosen)
        last = tl.maximum(last, tl.max(tl.where(stays, token, 0), 0))
        passed += tl.sum(mass_here, 0)
        seen += tl.sum(equal, 0)
    tl.store(out + index, tl.where(chosen < 0, last, chosen))   # rounding may leave the point past the last


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The largest of each row of logits [n, vocabulary], the first of equals: int32 [n]."""
    check(logits)
    out = logits.new_empty(len(logits), dtype=torch.int32)
    if len(logits):
        greedy_kernel[(len(logits),)](logits, out, logits.shape[1], BLOCK=BLOCK)
    return out


def sample(logits: torch.Tensor, temperatures: torch.Tensor, top_ks: torch.Tensor, top_ps: torch.Tensor,
           seeds: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """A token for each row of logits [n, vocabulary]: int32 [n].

    Each of the others is [n] on the same device: temperatures float32 > 0, top_ks int32 (0 keeps all), top_ps float32
    in (0, 1], seeds int64, steps int32 (how many tokens the row has drawn). top-k is cut first, then top-p of what it
    left. Raises ValueError where a shape or dtype is another.
    """
    check(logits)
    for name, value, dtype in (("temperatures", temperatures, torch.float32), ("top_ks", top_ks, torch.int32),
                               ("top_ps", top_ps, torch.float32), ("seeds", seeds, torch.int64),
                               ("steps", steps, torch.int32)):
        if value.shape != logits.shape[:1] or value.dtype != dtype:
            raise ValueError(f"sample: {name} must be {dtype} [{len(logits)}], not {value.dtype} {tuple(value.shape)}")
    out = logits.new_empty(len(logits), dtype=torch.int32)
    if len(logits):
        sample_kernel[(len(logits),)](logits, out, temperatures, top_ks, top_ps, seeds, steps, logits.shape[1],
                                      BLOCK=BLOCK, num_warps=8)
    return out


def check(logits: torch.Tensor) -> None:
    """Raise ValueError where `logits` are no contiguous rows of at least one token."""
    if logits.dim() != 2 or not logits.shape[1] or not logits.is_contiguous():
        raise ValueError(f"sampling wants contiguous logits [rows, vocabulary], not {tuple(logits.shape)}")
