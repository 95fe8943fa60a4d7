"""Figures of a training run: the gradient norm, which its curve holds, and speed and memory, which nothing hashes.

Operations are the model's own count (model.flops_per_token); their share of the device's ceiling is MFU, model FLOPs
utilization (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B): recomputed activations do not count.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tasks.pretrain import ceiling


def gradient_norm(engine: Any) -> float:
    """Euclidean norm of the gradients over all ranks and parameters, before clipping. Under ZeRO it is that of the step
    last taken, so ask after the step, and where ZeRO's own Muon has offloaded gradients or stage 3, of those it has
    orthogonalized; without, ask between backward and step, which drops the gradients."""
    if engine.zero_optimization():
        return float(engine.get_global_grad_norm())
    if engine.autotp_size() > 1:  # DeepSpeed's clipping knows which parameters are cut; at no limit it changes nothing
        from deepspeed.runtime.utils import clip_grad_norm_

        return float(clip_grad_norm_(engine.module.parameters(), float("inf"), mpu=engine.mpu))
    return float(torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters() if p.grad is not None]))


class Speed:
    """The seconds of a run by what they went into: waiting for batches, steps, and what is no training."""

    def __init__(self) -> None:
        self.batch, self.step, self.aside = 0.0, 0.0, 0.0
        self.began, self.cpu = time.monotonic(), time.process_time()

    def sample(self, seconds: np.ndarray) -> None:
        """Add a timed step: float [ranks, 3] seconds of batch, forward pass and whole step."""
        self.batch += float(seconds[:, 0].mean())
        self.step += float(seconds[:, 2].mean())

    @contextmanager
    def apart(self) -> Iterator[None]:
        """The seconds inside are scoring or saving."""
        began = time.monotonic()
        yield
        self.aside += time.monotonic() - began

    def table(self, tokens: int, flops: int, world: int, device: str, precision: str) -> dict[str, Any]:
        """Figures of the whole run so far: `tokens` trained over all ranks, `flops` a token. Every rank must call it.

        Speed, operations and MFU are a rank's, over the seconds of training alone; memory is the largest rank's.
        """
        wall, cpu = time.monotonic() - self.began, time.process_time() - self.cpu
        peaks = memory_peaks(device, world)
        rate = tokens / max(wall - self.aside, 1e-9) / world
        most, source = ceiling.of(device, precision)
        return {
            "tokens_trained_here": tokens, "wall_seconds": wall, "cpu_seconds": cpu,
            "score_and_save_seconds": self.aside, "tokens_per_second": tokens / wall,
            "tokens_per_cpu_second": tokens / cpu if cpu else 0.0,
            "tokens_per_second_per_rank": rate, "tflops_per_rank": rate * flops / 1e12, "mfu": rate * flops / most,
            "ceiling_tflops": most / 1e12, "ceiling": source,
            "data_wait": self.batch / self.step if self.step else 0.0, "ranks": world} | peaks


def memory_peaks(device: str, world: int) -> dict[str, int]:
    """Largest resident and, where there is one, device memory of any rank so far, MiB."""
    unit = 1024 if sys.platform == "linux" else 1
    peaks = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
                          torch.cuda.max_memory_allocated() if device != "cpu" else 0], device=device)
    if world > 1:
        dist.all_reduce(peaks, dist.ReduceOp.MAX)
    host, card = (round(peak / 2**20) for peak in peaks.tolist())
    return {"peak_host_mib": host} | ({"peak_device_mib": card} if device != "cpu" else {})
