"""Norm, SwiGLU and rotary kernels in Triton against float64: dtypes, widths that fill no block, pages out of order."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

from kernels.norm import triton as norm  # noqa: E402
from kernels.rope import triton as rope  # noqa: E402
from kernels.swiglu import triton as swiglu  # noqa: E402

# the interpreter rounds bfloat16 towards zero: a whole unit in the last place, 2^-7
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 2 ** -7}
DTYPES = list(TOLERANCE)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found, expected, dtype):
    torch.testing.assert_close(found.cpu().double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, width", [(1, 576), (5, 33), (3, 1)])
def test_rms_norm(device, dtype, rows, width):
    x, weight = drawn(rows, width).to(dtype), drawn(width, seed=1).to(dtype)
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    near(norm.rms_norm(x.to(device), weight.to(device), 1e-5), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_residual_is_added_before_the_norm_and_kept(device, dtype):
    x, residual, weight = drawn(4, 70).to(dtype), drawn(4, 70, seed=2), drawn(70, seed=1).to(dtype)
    held = residual.clone().to(device)
    found = norm.add_rms_norm(x.to(device), held, weight.to(device), 1e-6)
    total = residual.double() + x.double()
    near(held, total, torch.float32)
    near(found, total / (total.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double(), dtype)


def test_a_norm_of_other_shapes_is_refused(device):
    with pytest.raises(ValueError, match=r"weight \(8,\)"):
        norm.rms_norm(torch.zeros(2, 9, device=device), torch.ones(8, device=device), 1e-5)
    with pytest.raises(ValueError, match="contiguous"):
        norm.rms_norm(torch.zeros(9, 2, device=device).T, torch.ones(9, device=device), 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, inner", [(1, 1536), (3, 17)])
def test_swiglu(device, dtype, rows, inner):
    both = (drawn(rows, 2 * inner) * 4).to(dtype)
    gate, up = both.double().split(inner, 1)
    near(swiglu.swiglu(both.to(device)), gate * gate.sigmoid() * up, dtype)


def test_swiglu_of_a_gate_whose_exponential_overflows(device):
    found = swiglu.swiglu(torch.tensor([[-200.0, 200.0, 3.0, 3.0]], device=device))
    assert found.tolist() == [[0.0, 600.0]]


def test_swiglu_of_an_odd_width_is_refused(device):
    with pytest.raises(ValueError, match="gate and up"):
        swiglu.swiglu(torch.zeros(1, 3, device=device))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads, kv_heads, dim", [(3, 1, 64), (2, 2, 24)])
def test_rope_writes_rotated_keys_to_their_pages(device, dtype, heads, kv_heads, dim):
    positions, sequences = torch.tensor([0, 15, 16, 3]), torch.tensor([0, 0, 0, 1])
    table = torch.tensor([[4, 1], [2, 0]], dtype=torch.int32)
    packed = drawn(4, (heads + 2 * kv_heads) * dim).to(dtype)
    angle = torch.arange(32)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    keys, values = (torch.full((5, kv_heads, 16, dim), 7.0, dtype=dtype, device=device) for _ in range(2))
    query = rope.rope_and_store(packed.to(device), angle.cos().to(device), angle.sin().to(device),
                                positions.to(device), sequences.to(device), table.to(device), keys, values)
    # as complex numbers: the pair (x_i, x_{i + dim/2}) times e^{i angle}
    parts = packed.double().view(4, -1, dim)
    turned = torch.complex(*parts.split(dim // 2, -1)) * torch.exp(1j * angle.double()[positions])[:, None]
    turned = torch.cat((turned.real, turned.imag), -1)
    near(query, turned[:, :heads], dtype)
    written = torch.zeros(5, 16, dtype=torch.bool)
    for row, (block, slot) in enumerate([(4, 0), (4, 15), (1, 0), (2, 3)]):
        near(keys[block, :, slot], turned[row, heads:heads + kv_heads], dtype)
        near(values[block, :, slot], parts[row, heads + kv_heads:], dtype)
        written[block, slot] = True
    assert (keys.cpu().permute(0, 2, 1, 3)[~written] == 7).all() and (
        values.cpu().permute(0, 2, 1, 3)[~written] == 7).all()


def test_rope_of_other_pages_is_refused(device):
    pages = torch.zeros(1, 1, 8, 16, device=device)
    angle = torch.zeros(4, 8, device=device)
    numbers = torch.zeros(1, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="pages of 8"):
        rope.rope_and_store(torch.zeros(1, 48, device=device), angle, angle, numbers, numbers,
                            torch.zeros(1, 1, dtype=torch.int32, device=device), pages, pages)
