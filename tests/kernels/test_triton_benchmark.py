"""The GPU benchmark compares like with like: both sides of each of its cases give the same numbers at a small size."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

from benchmarks import kernels_gpu  # noqa: E402

SMALL = kernels_gpu.Shape(hidden=128, inner=128, heads=4, kv_heads=2, dim=32, vocabulary=40, context=40, group=64,
                          prefill=20, batches=(1, 2))


def test_both_sides_of_every_case_agree(device):
    names = []
    for case in kernels_gpu.cases(SMALL, device):
        ours, theirs = (call().double() for call in case.make(0))
        assert ours.shape == theirs.shape and (ours - theirs).norm() <= 0.02 * theirs.norm(), case.name
        assert case.bytes > 0
        names.append(case.name)
    assert len(names) == len(set(names)) >= 20


def test_least_bytes_and_operations_of_a_decode():
    case = kernels_gpu.int4_case("x", 1, 4096, 4096, 128, torch.device("cpu"))
    # 8 MiB of nibbles; 32 groups a column, each a two-byte scale and half a byte of zero point; one row in and out
    assert case.bytes == 8 * 2 ** 20 + 32 * 4096 * 2.5 + 2 * 2 * 4096
    assert case.flops == 2 * 4096 ** 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the benchmark would run")
def test_without_a_gpu_it_ends_with_one_line():
    found = subprocess.run([sys.executable, "-m", "benchmarks.kernels_gpu"], capture_output=True, text=True,
                           cwd=Path(__file__).resolve().parents[2])
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr.startswith("error: no CUDA device") and found.stderr.count("\n") == 1
