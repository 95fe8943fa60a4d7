"""The training kernels against the plain formulas in float64, in value and gradient, whatever the number of threads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kernels.training import library

KINDS = [(torch.float32, 2e-6), (torch.bfloat16, 5e-3)]  # bf16: one rounding, 2^-9 of a value


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(found: torch.Tensor, wanted: torch.Tensor, error: float) -> None:
    """Each element within `error` of the tensor's largest, relative to its own size where that is larger."""
    torch.testing.assert_close(found.double(), wanted, rtol=error, atol=error * float(wanted.abs().max()) / 4 + 1e-30)


def gradients(function, inputs: list[torch.Tensor], dy: torch.Tensor) -> list[torch.Tensor]:
    """float64: the function's value, then its gradients by autograd."""
    exact = [x.double().requires_grad_() for x in inputs]
    value = function(*exact)
    value.backward(dy.double())
    return [value.detach(), *(x.grad for x in exact)]


@pytest.mark.parametrize("dtype, error", KINDS)
@pytest.mark.parametrize("rows, size", [(1, 1), (7, 24), (33, 65), (64, 192)])
def test_norm(rows, size, dtype, error):
    x, weight, dy = drawn(rows, size), drawn(size, seed=1), drawn(rows, size, seed=2, dtype=dtype)
    x[0] = 0
    wanted = gradients(lambda x, w: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w, [x, weight], dy)
    y, scale = library.norm_forward(x, weight, 1e-6, dtype)
    near(y, wanted[0], error)
    for found, exact in zip(library.norm_backward(x, weight, scale, dy), wanted[1:]):
        near(found, exact, 5e-6)


@pytest.mark.parametrize("dtype, error", KINDS)
@pytest.mark.parametrize("rows, size", [(1, 1), (5, 40), (40, 129)])
def test_swiglu(rows, size, dtype, error):
    joined, dy = drawn(rows, 2 * size, dtype=dtype) * 4, drawn(rows, size, seed=1, dtype=dtype)
    joined[0, 0] = -120.0  # where a power overflows
    wanted = gradients(lambda x: nn.functional.silu(x[:, :size]) * x[:, size:], [joined], dy)
    near(library.swiglu_forward(joined), wanted[0], error)
    near(library.swiglu_backward(joined, dy), wanted[1], error)


@pytest.mark.parametrize("dtype, error", KINDS)
@pytest.mark.parametrize("batch, n, heads, shared, size, angles", [(1, 1, 1, 1, 2, 1), (3, 11, 4, 2, 16, 1),
                                                                   (2, 37, 3, 1, 64, 2)])
def test_rope(batch, n, heads, shared, size, angles, dtype, error):
    joined = drawn(batch, n, heads + 2 * shared, size, dtype=dtype)
    turns = drawn(angles, n, size // 2, seed=1).repeat(1, 1, 2)
    cosines, sines = turns.cos(), turns.sin()

    def plain(x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        turned = torch.cat([-x[..., size // 2:], x[..., :size // 2]], -1)
        moved = x * cosines.double()[:, None] + turned * sines.double()[:, None]
        return torch.cat([moved[:, :heads + shared], x[:, heads + shared:]], 1)

    dy = drawn(batch, heads + 2 * shared, n, size, seed=2, dtype=dtype)
    wanted = gradients(plain, [joined], dy)
    near(torch.cat(library.rope_forward(joined, cosines, sines, heads, shared), 1), wanted[0], error)
    parts = [part.contiguous() for part in dy.split([heads, shared, shared], 1)]
    near(library.rope_backward(*parts, cosines, sines), wanted[1], error)


@pytest.mark.parametrize("dtype, error", KINDS)
@pytest.mark.parametrize("rows, size", [(1, 1), (3, 31), (40, 300)])
def test_entropy(rows, size, dtype, error):
    logits = drawn(rows, size, dtype=dtype) * 6
    targets = torch.randint(size, (rows,), generator=torch.Generator().manual_seed(1))
    targets[rows // 2:rows // 2 + 1] = -100 if rows > 1 else 0
    counted = int((targets >= 0).sum())
    nats, slope = gradients(lambda x: nn.functional.cross_entropy(x, targets, reduction="sum") / counted, [logits],
                            torch.tensor(1.0))
    found = library.entropy(logits, targets, 1 / counted)  # logits are the gradient now
    torch.testing.assert_close(found.double().sum() / counted, nats, rtol=2e-6, atol=1e-6)
    near(logits, slope, error)


def test_a_loss_that_is_no_number_stays_one():
    logits = torch.zeros(2, 40)
    logits[0, 7], logits[1, 3] = float("nan"), float("inf")
    assert not torch.isfinite(library.entropy(logits, torch.tensor([1, 1]), 0.5)).any()
    y, _ = library.norm_forward(torch.full((1, 8), float("nan")), torch.ones(8), 1e-6, torch.bfloat16)
    assert y.isnan().all()


def test_threads_change_no_bit():
    x, weight, dy, targets = drawn(1000, 48), drawn(48, seed=1), drawn(1000, 48, seed=2), torch.arange(1000) % 48
    kept, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            logits = x.clone()
            y, scale = library.norm_forward(x, weight, 1e-6, torch.float32)
            found.append([y, *library.norm_backward(x, weight, scale, dy), library.swiglu_forward(x),
                          library.entropy(logits, targets, 1e-3), logits])
    finally:
        torch.set_num_threads(kept)
    assert all(torch.equal(one, other) for several in found[1:] for one, other in zip(found[0], several))


def test_wrong_tensors_are_refused():
    x, weight = drawn(4, 8), torch.ones(8)
    with pytest.raises(ValueError, match=r"weight: .* shape \(8,\) .* not \(7,\)"):
        library.norm_forward(x, torch.ones(7), 1e-6, torch.float32)
    with pytest.raises(ValueError, match="x: .*torch.float32 expected, not .*torch.float64"):
        library.norm_forward(x.double(), weight, 1e-6, torch.float32)
    with pytest.raises(ValueError, match="joined: contiguous"):
        library.swiglu_forward(drawn(8, 4).T)
    with pytest.raises(ValueError, match="targets in 0..7, or -100"):
        library.entropy(x, torch.tensor([0, 1, 8, 2]), 1.0)
    with pytest.raises(ValueError, match="angles for 1 or 2 sequences"):
        library.rope_forward(drawn(2, 3, 3, 4), drawn(3, 3, 4), drawn(3, 3, 4), 1, 1)
