"""Paged attention in C++ against float64 over what its pages hold, on every path this processor runs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from kernels.attention import operators, reference

pytestmark = pytest.mark.skipif(not operators.compiler(), reason="no C++ compiler: set CXX or install g++")
HEAD = 1  # of three: the one that is used
KINDS = sorted(reference.KINDS.values())
each_isa = pytest.mark.parametrize("isa", operators.isas())
each_kind = pytest.mark.parametrize("kind", KINDS)


def rotation(head_dim: int) -> np.ndarray:
    """Hadamard matrices of the largest power of two in head_dim along the diagonal, orthonormal."""
    block = head_dim & -head_dim
    return np.kron(np.eye(head_dim // block), scipy.linalg.hadamard(block) / np.sqrt(block))


def stored(cache: operators.Cache, table: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values [tokens, head_dim] float64 of HEAD, read from the pages' bytes by the layout's description."""
    dim, kind = cache.pages.head_dim, cache.pages.kind
    width, count = -(-dim // 32) * 32, -(-tokens // 16)
    raw = cache.memory[table[:count], HEAD]
    if kind == 32:
        keys, values = np.split(np.ascontiguousarray(raw).view(np.float32).astype(np.float64), [16 * dim], axis=1)
        keys = keys.reshape(count, dim, 16).swapaxes(1, 2).reshape(-1, dim)
        return keys[:tokens], values.reshape(count * 16, width)[:tokens, :dim]
    keys, rest = raw[:, :2 * dim * kind], raw[:, 2 * dim * kind:]
    values, scales = rest[:, :2 * width * kind], rest[:, 2 * width * kind:].copy().view(np.float16)
    if kind == 4:
        keys = np.stack([keys & 15, keys >> 4], 2).reshape(count, dim // 2, 16, 2).swapaxes(2, 3)
        values = values.reshape(count, 16, width // 32, 16)
        values = np.stack([values & 15, values >> 4], 3)
        levels = np.float64([-2.7326, -2.0690, -1.6181, -1.2562, -0.9423, -0.6568, -0.3880, -0.1284])
        keys, values = (np.append(levels, -levels[::-1])[part] for part in (keys, values))
    else:
        kept = np.float16 if kind == 16 else np.int8
        keys, values = (np.ascontiguousarray(part).view(kept).astype(np.float64) for part in (keys, values))
    keys, values = keys.reshape(count, dim, 16).swapaxes(1, 2), values.reshape(count, 16, width)[..., :dim]
    if kind != 16:
        keys, values = keys * scales[:, :16, None].astype(float), values * scales[:, 16:, None].astype(float)
    turn = rotation(dim) if kind == 4 else np.eye(dim)
    return keys.reshape(-1, dim)[:tokens] @ turn, values.reshape(-1, dim)[:tokens] @ turn


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, first: int, scale: float) -> np.ndarray:
    """Float64 attention of q [rows, group, head_dim] over k, v [positions, head_dim], row by row."""
    out = np.empty(q.shape)
    for row, queries in enumerate(q.astype(np.float64)):
        scores = queries @ k[:first + row + 1].T * scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[row] = weights / weights.sum(-1, keepdims=True) @ v[:first + row + 1]
    return out


def filled(isa: str, kind: int, dim: int, tokens: int, seed: int = 0
           ) -> tuple[operators.Cache, np.ndarray, np.ndarray, np.ndarray]:
    """(cache of 3 heads whose head 1 holds `tokens`, block table of scattered blocks, k, v)."""
    draw = np.random.default_rng(seed)
    blocks = -(-tokens // 16)
    cache = operators.Cache(isa, kind, dim, 3, blocks + 2)
    table = draw.permutation(blocks + 2)[:blocks].astype(np.int32)
    k, v = (draw.standard_normal((tokens, dim)).astype(np.float32) for _ in range(2))
    cache.store(table, HEAD, k, v)
    return cache, table, k, v


@each_isa
@each_kind
@pytest.mark.parametrize("dim", [16, 64, 80, 128, 256])
def test_attention_equals_float64_over_the_stored_values(isa, kind, dim):
    for group, first, rows in ((1, 0, 1), (3, 0, 40), (7, 15, 1), (1, 16, 1), (3, 255, 5), (7, 250, 9), (1, 511, 2),
                               (3, 700, 1), (16, 30, 2)):
        cache, table, _, _ = filled(isa, kind, dim, first + rows, seed=first + group)
        q = np.random.default_rng(7).standard_normal((rows, group, dim)).astype(np.float32)
        wanted = exact(q, *stored(cache, table, first + rows), first, dim ** -0.5)
        got = cache.attend(table, HEAD, first, q, dim ** -0.5)
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max(), (group, first, rows)


@each_isa
@each_kind
@pytest.mark.parametrize("dim", [16, 80, 128])
def test_pages_hold_what_the_reference_says(isa, kind, dim):
    draw = np.random.default_rng(3)
    cache, table, _, _ = filled(isa, kind, dim, 1)
    k, v = (draw.standard_normal((16, dim)).astype(np.float32) * 10.0 ** draw.integers(-7, 5, (16, 1)) for _ in "kv")
    k[3], v[5] = 0, 0
    cache.store(table, HEAD, k, v)
    for held, given in zip(stored(cache, table, 16), (k, v), strict=True):
        wanted = reference.read_back(torch.from_numpy(given), kind).numpy()
        size = np.abs(given).max(-1, keepdims=True)
        step = {32: 2.0 ** -24, 16: 2.0 ** -11, 8: 0.5 / 127, 4: 0.5}[kind]
        assert (np.abs(held - given) <= step * size * 1.001 + 2.0 ** -25 * 127).all()
        # a value halfway between two levels may fall to either side in the rotation's rounding
        assert (np.abs(held - wanted) > 1e-5 * size + 1e-12).mean() <= (0 if kind >= 16 else 0.003)


@each_isa
def test_rotation_spreads_an_outlier_channel(isa):
    k = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    k[:, 5] += 12
    cache = operators.Cache(isa, 4, 64, 2, 4)
    cache.store(np.arange(4, dtype=np.int32), HEAD, k, k)
    low, high = k.min(-1, keepdims=True), k.max(-1, keepdims=True)
    uniform = np.square(np.round((k - low) / (high - low) * 15) / 15 * (high - low) + low - k).mean()
    for held in stored(cache, np.arange(4), 64):
        assert np.square(held - k).mean() < uniform / 2


@each_isa
@each_kind
def test_a_row_has_the_same_bits_in_every_tile_chunk_and_split(isa, kind):
    dim, group, tokens = 80, 3, 560
    cache, table, _, _ = filled(isa, kind, dim, tokens)
    q = np.random.default_rng(1).standard_normal((tokens, group, dim)).astype(np.float32)
    whole = cache.attend(table, HEAD, 0, q, 0.1)
    for first, rows in ((0, 1), (1, 1), (17, 2), (100, 5), (255, 1), (254, 4), (300, 37), (559, 1)):
        chunk = q[first:first + rows]
        assert (cache.attend(table, HEAD, first, chunk, 0.1) == whole[first:first + rows]).all(), (first, rows)
        segments = (first + rows - 1) // 256 + 1
        for order in (list(range(segments)), list(range(segments))[::-1]):
            split = cache.attend_split(table, HEAD, first, chunk, 0.1, order)
            assert (split == whole[first:first + rows]).all(), (first, rows, order)
    alone = cache.attend(table, HEAD, 559, q[559:, 1:2], 0.1)
    assert (alone == whole[559:, 1:2]).all(), "a head's bits depend on the heads beside it"


@each_isa
def test_threads_share_layers_and_give_the_same_bits(isa):
    caches, tables = [], []
    for seed in (0, 1):
        cache, table, k, v = filled(isa, 16, 32, 40, seed)
        for head in (0, 2):
            cache.store(table, head, k + head, v - head)
        caches.append(cache), tables.append(table)
    layers = (operators.Pages * 2)(*(cache.pages for cache in caches))
    q = np.random.default_rng(6).standard_normal((2, 3, 3, 2, 32)).astype(np.float32)  # both layers read the last table
    out = np.full_like(q, np.nan)
    both = np.stack([tables[1]] * 2)
    for thread in range(4):
        caches[0].native.attend_layers(layers, 2, both.ctypes.data, 2, both.shape[1], 30, q.ctypes.data, 3, 2,
                                       out.ctypes.data, 0.2, caches[0].scratch.ctypes.data, thread, 4)
    for sequence in range(2):
        for head in range(3):
            wanted = caches[1].attend(tables[1], head, 30, q[sequence, :, head], 0.2)
            assert (out[sequence, :, head] == wanted).all()


@each_isa
def test_rows_may_lie_apart_and_nothing_between_them_is_touched(isa):
    cache, table, _, _ = filled(isa, 16, 32, 30)
    q = np.random.default_rng(4).standard_normal((5, 2, 32)).astype(np.float32)
    apart, out = np.full((5, 96), np.nan, np.float32), np.full((5, 80), np.nan, np.float32)
    apart[:, :64] = q.reshape(5, 64)
    cache.native.attend(cache.pages, HEAD, table.ctypes.data, 25, apart.ctypes.data, 5, 2, 96, out.ctypes.data, 80, 0.2,
                        cache.scratch.ctypes.data)
    assert (out[:, :64].reshape(q.shape) == cache.attend(table, HEAD, 25, q, 0.2)).all()
    assert np.isnan(out[:, 64:]).all()


@each_isa
@each_kind
def test_storing_a_token_leaves_every_other_byte(isa, kind):
    cache, table, _, _ = filled(isa, kind, 48, 20)
    before = cache.memory.copy()
    k = np.random.default_rng(9).standard_normal((2, 48)).astype(np.float32)
    cache.store(table, HEAD, k[:1], k[1:], first=20)
    keys, values = stored(cache, table, 21)
    assert np.square(keys[20] - k[0]).mean() < 0.05 and np.square(values[20] - k[1]).mean() < 0.05
    changed = np.argwhere(cache.memory != before)
    assert set(map(tuple, changed[:, :2])) == {(table[1], HEAD)}
    bytes_of_a_token = {32: 48 + 64, 16: 48 + 64, 8: 48 + 64 + 4, 4: 24 + 32 + 4}[kind] * {32: 4, 16: 2}.get(kind, 1)
    assert len(changed) <= bytes_of_a_token


@each_isa
@each_kind
def test_unwritten_slots_and_later_tokens_do_not_count(isa, kind):
    cache, table, k, v = filled(isa, kind, 64, 35)  # 13 slots of the last page are NaN
    q = np.random.default_rng(2).standard_normal((1, 3, 64)).astype(np.float32)
    short = cache.attend(table, HEAD, 30, q, 0.125)
    assert np.isfinite(short).all()
    cache.store(table, HEAD, np.full((4, 64), 9e4, np.float32), np.full((4, 64), -9e4, np.float32), first=31)
    assert (cache.attend(table, HEAD, 30, q, 0.125) == short).all()
    rows = np.repeat(q, 2, axis=0)  # the tile's second row sees what the first must not
    assert (cache.attend(table, HEAD, 30, rows, 0.125)[0] == short[0]).all()


@each_isa
@each_kind
def test_huge_values_and_scores_stay_finite(isa, kind):
    cache, table, k, v = filled(isa, kind, 64, 40)
    cache.store(table, HEAD, np.full((1, 64), 1e30, np.float32), np.full((1, 64), -1e30, np.float32), first=7)
    cache.store(table, HEAD, np.full((1, 64), -1e30, np.float32), np.full((1, 64), 3, np.float32), first=8)
    for size in (1.0, 1e3, 1e20, 3e37):
        q = np.full((3, 1, 64), size, np.float32)
        assert np.isfinite(cache.attend(table, HEAD, 37, q, 0.125)).all(), size
        assert np.isfinite(cache.attend(table, HEAD, 37, -q, 0.125)).all(), size
    cache.store(table, HEAD, np.full((1, 64), 6e4, np.float32), v[:1])
    only = cache.attend(table, HEAD, 0, np.full((1, 1, 64), -3e38, np.float32), 1.0)
    held = stored(cache, table, 1)[1]
    assert np.abs(only[0] - held).max() < 1e-6 * np.abs(held).max(), "one token is its own average, whatever its score"


@each_isa
def test_not_a_number_is_not_hidden(isa):
    cache, table, _, _ = filled(isa, 16, 64, 20)
    q = np.zeros((1, 1, 64), np.float32)
    q[0, 0, 3] = np.nan
    assert np.isnan(cache.attend(table, HEAD, 19, q, 0.125)).all()


@each_isa
def test_exp2_is_exact_to_1e_7_and_vanishes_below(isa):
    x = np.concatenate([np.linspace(-125, 0, 200_000), [0, -1, -0.5, -126] * 4]).astype(np.float32)
    got = np.append(x, [-np.inf] * 16).astype(np.float32)
    operators.library(isa).exp2_all(got.ctypes.data, len(got))
    assert np.abs(got[:-16] / np.exp2(x.astype(np.float64)) - 1).max() < 1.5e-7
    assert (got[200_000:-16:4] == 1).all() and (got[-16:] == 0).all()


@each_isa
def test_half_conversion_rounds_as_numpy_does(isa):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 16)).astype(np.float32) * 2.0 ** draw.integers(-28, 17, (400, 1))
    x[:3] = [[0, -0.0, 65504, 65519.9, -65504, 6e-8, 2.9e-8, 2.0 ** -24, 1 + 2.0 ** -11, 1 + 3 * 2.0 ** -11,
              2.0 ** -14, 2.0 ** -14 * 0.99999, 6.1e-5, -1e-7, 3e4, 1e-3]] * 3
    table = np.arange(25, dtype=np.int32)
    cache = operators.Cache(isa, 16, 16, 2, 25)
    cache.store(table, HEAD, x, x)
    wanted = np.clip(x, -65504, 65504).astype(np.float16).astype(np.float64)
    for held in stored(cache, table, 400):
        assert (held == wanted).all()


@pytest.mark.parametrize("kind", KINDS)
def test_reference_attends_as_float64_does(kind):
    draw = np.random.default_rng(5)
    q, k, v = (draw.standard_normal(shape) for shape in ((4, 2, 32), (20, 32), (20, 32)))
    got = reference.attend(*map(torch.from_numpy, (q, k, v)), 16, 0.2)
    assert np.abs(got.numpy() - exact(q, k, v, 16, 0.2)).max() < 1e-12
    again = reference.read_back(torch.from_numpy(k).float(), kind)
    assert np.abs(again.numpy() - k).max() < {32: 1e-6, 16: 2e-3, 8: 0.02, 4: 0.8}[kind]


def test_reference_refuses_what_no_page_holds():
    with pytest.raises(ValueError, match="head_dim 24"):
        reference.read_back(torch.zeros(2, 24), 8)
    with pytest.raises(ValueError, match=r"5 bits.*\[4, 8, 16, 32\]"):
        reference.read_back(torch.zeros(2, 32), 5)
