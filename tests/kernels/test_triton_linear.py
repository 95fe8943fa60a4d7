"""Int4 and dense linear kernels in Triton against float64 on the weights the layout stores."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

from kernels.int4 import reference as rounding  # noqa: E402
from kernels.linear import triton as linear  # noqa: E402
from tasks.quantize import formats  # noqa: E402

# of the whole result's norm: float32 sums, then one rounding to the output's dtype (towards zero in the interpreter)
TOLERANCE = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 6e-3}
DTYPES = list(TOLERANCE)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(outputs, inputs, group, device):
    """(float64 weight, qweight, scales, qzeros) of a layer rounded to nearest, columns of unlike zero points."""
    weight = drawn(outputs, inputs, seed=outputs) * 0.05 + drawn(outputs, 1, seed=3) * 0.04
    q, scale, zero = rounding.round_nearest(weight, group)
    packed = (formats.pack(q.T.contiguous()), scale.T.contiguous(), formats.pack(zero.T.contiguous()))
    return rounding.dequantize(q, scale, zero).double(), *(tensor.to(device) for tensor in packed)


def error(found, expected):
    return float((found.cpu().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, outputs, inputs, group", [
    (1, 88, 96, 32), (1, 136, 576, 64), (2, 8, 32, 32), (17, 136, 576, 64), (70, 136, 256, 128)])
def test_int4_linear(device, dtype, rows, outputs, inputs, group):
    weight, *packed = layer(outputs, inputs, group, device)
    x = drawn(rows, inputs).to(dtype)
    found = linear.int4_linear(x.to(device), *packed)
    assert found.dtype == dtype and found.shape == (rows, outputs)
    assert error(found, x.double() @ weight.T) < TOLERANCE[dtype]


@pytest.mark.parametrize("column", range(8))
def test_every_nibble_is_its_own_column(device, column):
    # one weight of 15 - 4 in one column of a word: only that output may answer, and exactly
    q = torch.full((32, 16), 4, dtype=torch.uint8)
    q[5, 8 + column] = 15
    zeros = torch.full((1, 16), 4, dtype=torch.uint8)
    x = torch.zeros(1, 32)
    x[0, 5] = 2
    found = linear.int4_linear(x.to(device), formats.pack(q).to(device),
                               torch.full((1, 16), 0.5, dtype=torch.float16, device=device),
                               formats.pack(zeros).to(device))
    assert found.nonzero().tolist() == [[0, 8 + column]] and found[0, 8 + column] == 11


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, outputs, inputs", [(1, 100, 576), (33, 129, 72), (65, 7, 3)])
def test_dense_linear(device, dtype, rows, outputs, inputs):
    x, weight = drawn(rows, inputs).to(dtype), drawn(outputs, inputs, seed=1).to(dtype)
    found = linear.dense_linear(x.to(device), weight.to(device))
    assert error(found, x.double() @ weight.double().T) < TOLERANCE[dtype]


def test_a_row_has_the_same_bits_in_every_batch(device):
    weight, *packed = layer(72, 768, 64, device)
    dense = drawn(72, 768).to(torch.float16).to(device)
    x = drawn(70, 768).to(torch.float16).to(device)
    assert linear.plan(1, 768, 72, 64).spans == 3
    for run in (lambda rows: linear.int4_linear(rows, *packed), lambda rows: linear.dense_linear(rows, dense)):
        whole = run(x)
        for part in (x[:1], x[:16], x[:17], x[:65]):
            assert torch.equal(run(part.contiguous()), whole[:len(part)])


def test_spans_in_one_program_or_side_by_side_give_the_same_bits(device, monkeypatch):
    _, *packed = layer(72, 768, 64, device)
    x = drawn(3, 768).to(torch.bfloat16).to(device)
    apart = linear.int4_linear(x, *packed)
    cut = linear.plan(3, 768, 72, 64)
    assert not cut.serial
    monkeypatch.setattr(linear, "plan", lambda *shape: cut._replace(serial=True))
    assert torch.equal(linear.int4_linear(x, *packed), apart)


def test_spans_follow_from_the_layer_alone():
    for inputs, outputs in ((576, 960), (4096, 4096), (11008, 4096), (4096, 22016), (2048, 256)):
        cuts = [linear.plan(rows, inputs, outputs, 64) for rows in (1, 16, 17, 64, 65, 4096)]
        assert len({(cut.span, cut.spans) for cut in cuts}) == 1
        assert cuts[0].span % 64 == 0 and (cuts[0].spans - 1) * cuts[0].span < inputs <= cuts[0].spans * cuts[0].span


def test_no_rows_is_no_work(device):
    _, *packed = layer(8, 32, 32, device)
    assert linear.int4_linear(torch.zeros(0, 32, device=device), *packed).shape == (0, 8)


def test_layers_that_do_not_fit_are_refused(device):
    _, qweight, scales, qzeros = layer(16, 64, 32, device)
    with pytest.raises(ValueError, match="does not fit qweight"):
        linear.int4_linear(torch.zeros(1, 96, device=device), qweight, scales, qzeros)
    with pytest.raises(ValueError, match="groups of 64"):
        linear.int4_linear(torch.zeros(1, 64, device=device), qweight, scales[:1].contiguous(), qzeros)
    with pytest.raises(ValueError, match="contiguous"):
        linear.int4_linear(torch.zeros(64, 2, device=device).T, qweight, scales, qzeros)
    with pytest.raises(ValueError, match="float64"):
        linear.dense_linear(torch.zeros(1, 4, dtype=torch.float64, device=device),
                            torch.zeros(2, 4, dtype=torch.float64, device=device))
