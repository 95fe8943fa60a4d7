"""The C++ linear layer against float64, every kind of weight on every instruction set this machine has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels import build
from kernels.linear import pack, reference
from kernels.step.session import ADD, GATE, Threads, isa
from kernels.swiglu import reference as swiglu

try:
    build.library()
    BEST = isa()
except build.CompilerMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)

ISAS = {"avx512": ["avx512", "avx2", "scalar"], "avx2": ["avx2", "scalar"], "scalar": ["scalar"]}[BEST]
ROWS = (1, 2, 3, 7, 17, 33)
SHAPES = ((1, 64), (16, 32), (33, 128), (100, 192))  # outputs: below, at and past a panel of 32


@pytest.fixture(params=ISAS)
def forced(request, monkeypatch):
    monkeypatch.setenv("CATENA_ISA", request.param)
    assert isa() == request.param
    return request.param


def integers(bits: int, outputs: int, inputs: int, group: int, *, symmetric: bool = False) -> pack.Levels:
    rng = np.random.default_rng(outputs * inputs + bits)
    shape = (outputs, inputs // group)
    zero = np.full(shape, 8) if symmetric else rng.integers(0, 2 ** bits, shape)
    return pack.Levels(bits, rng.integers(0, 2 ** bits, (outputs, inputs)).astype(np.uint8),
                       (rng.random(shape) * 0.02 + 0.001).astype(np.float16), zero.astype(np.uint8))


def exact(weight: pack.Levels) -> torch.Tensor:
    return reference.dequantize(*map(torch.from_numpy, (weight.levels, weight.scale, weight.zero)))


def inputs_of(rows: int, inputs: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, inputs)).astype(np.float32)


def run(weight: pack.Weight, x: np.ndarray, epilogue: int = 0, out: np.ndarray | None = None,
        threads: int = 2) -> np.ndarray:
    packed = pack.pack(weight)
    outputs = packed.outputs // 2 if epilogue == GATE else packed.outputs
    out = np.full((len(x), outputs), np.nan, np.float32) if out is None else out
    pool = Threads(threads)
    pool.linear(packed, x, out, epilogue)
    pool.close()
    return out


def close(found: np.ndarray, wanted: torch.Tensor, tolerance: float = 2e-6) -> None:
    scale = max(wanted.abs().max().item(), 1e-6)
    assert np.abs(found - wanted.numpy()).max() / scale < tolerance


@pytest.mark.parametrize("bits, group, symmetric", [(4, 32, False), (4, 64, False), (4, 64, True), (4, 128, False),
                                                    (8, 32, False), (8, 64, False)])
def test_integer_weights(forced, bits, group, symmetric):
    for outputs, inputs in SHAPES:
        inputs = max(inputs, group) // group * group
        weight = integers(bits, outputs, inputs, group, symmetric=symmetric)
        for rows in ROWS:
            x = inputs_of(rows, inputs)
            wanted = reference.linear(reference.rounded(torch.from_numpy(x), group), exact(weight))
            found = run(weight, x)
            # a value half between two levels may go either way: in float32 the quotient is not float64's
            step = torch.from_numpy(np.abs(x).max() / 127 * exact(weight).abs().amax(1).numpy())
            assert (np.abs(found - wanted.numpy()) <= 1e-5 * wanted.abs().max().item() + 1e-3 * step.numpy()).mean() \
                > 0.98
            assert (np.abs(found - wanted.numpy()) <= 1e-5 * wanted.abs().max().item() + 1.01 * step.numpy()).all()


def test_extreme_levels_do_not_saturate(forced):
    for bits in (4, 8):
        top = 2 ** bits - 1
        weight = pack.Levels(bits, np.full((32, 128), top, np.uint8), np.ones((32, 1), np.float16),
                             np.zeros((32, 1), np.uint8))
        x = np.tile(np.float32([[127.0], [-127.0]]), (1, 128))
        close(run(weight, x), torch.from_numpy(x).double() @ exact(weight).T)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
def test_floating_weights(forced, dtype):
    for outputs, inputs in (*SHAPES, (50, 45)):
        values = np.random.default_rng(1).standard_normal((outputs, inputs)).astype(np.float32)
        weight = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else values.astype(dtype)
        for rows in ROWS:
            x = inputs_of(rows, inputs)
            close(run(weight, x), reference.linear(torch.from_numpy(x), torch.from_numpy(pack.as_float(weight))))


def test_adds_to_what_is_there(forced):
    weight, x = np.random.default_rng(2).standard_normal((40, 48)).astype(np.float32), inputs_of(5, 48)
    before = np.random.default_rng(3).standard_normal((5, 40)).astype(np.float32)
    wanted = torch.from_numpy(before) + reference.linear(torch.from_numpy(x), torch.from_numpy(weight))
    close(run(weight, x, ADD, before.copy()), wanted)


def test_gate(forced):
    gate, up = np.random.default_rng(4).standard_normal((2, 48, 64)).astype(np.float32)
    x = 3 * inputs_of(7, 64)
    x[0] *= 20  # e^-x over- and underflows
    values = (reference.linear(torch.from_numpy(x), torch.from_numpy(part)) for part in (gate, up))
    close(run(pack.interleave(gate, up), x, GATE), swiglu.swiglu(*values))


@pytest.mark.parametrize("weight", [integers(4, 100, 192, 64), integers(8, 100, 192, 32),
                                    np.random.default_rng(5).standard_normal((100, 192)).astype(np.float32)],
                         ids=["int4", "int8", "fp32"])
def test_rows_do_not_depend_on_each_other_or_on_threads(forced, weight):
    x = inputs_of(33, 192)
    whole = run(weight, x, threads=1)
    for threads in (2, 3):
        assert np.array_equal(run(weight, x, threads=threads), whole)
    for rows in (1, 2, 5, 13):
        assert np.array_equal(run(weight, x[:rows]), whole[:rows])


def test_zero_and_tiny_activations_are_finite(forced):
    weight = integers(4, 32, 64, 64)
    x = np.zeros((2, 64), np.float32)
    x[1] = 1e-30
    found = run(weight, x)
    assert np.array_equal(found[0], np.zeros(32)) and np.isfinite(found).all()


def test_bad_input_is_refused_by_name():
    weight = pack.pack(integers(4, 32, 64, 64))
    pool = Threads(1)
    out = np.zeros((2, 32), np.float32)
    with pytest.raises(ValueError, match=r"x must be contiguous float32 \[2, 64\], not float64"):
        pool.linear(weight, np.zeros((2, 64)), out)
    with pytest.raises(ValueError, match=r"x must be .*\(2, 60\)"):
        pool.linear(weight, np.zeros((2, 60), np.float32), out)
    with pytest.raises(ValueError, match=r"out must be contiguous float32 \[2, 32\]"):
        pool.linear(weight, np.zeros((2, 64), np.float32), np.zeros((3, 32), np.float32))
    with pytest.raises(ValueError, match="dtype int64"):
        pack.pack(np.zeros((4, 4), np.int64))
    with pytest.raises(ValueError, match="groups of 16"):
        pack.pack(integers(4, 32, 64, 16))
    with pytest.raises(ValueError, match="different kinds"):
        pack.stack([integers(4, 32, 64, 64), np.zeros((4, 64), np.float32)])


def test_packed_bytes_by_hand():
    """Eight inputs of an output are four bytes: input j below input 4 + j."""
    levels = np.zeros((32, 32), np.uint8)
    levels[1, :8] = (1, 2, 3, 4, 5, 6, 7, 8)
    packed = pack.pack(pack.Levels(4, levels, np.ones((32, 1), np.float16), np.zeros((32, 1), np.uint8)))
    assert packed.weights.reshape(4, 32, 4)[0, 1].tolist() == [0x51, 0x62, 0x73, 0x84]
