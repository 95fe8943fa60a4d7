"""What must stand before torch and OpenMP load, for stages that run in one process, and what makes torch repeatable."""

from __future__ import annotations

import os

from tasks import memory, params


def prepare(runtime: params.Runtime, spin: int) -> None:
    """Set the environment, load torch, and make it compute the same bytes every time on `runtime.threads` threads.

    Call it before anything else imports torch: OpenMP reads its environment once. Between two parallel regions its
    threads spin `spin` times before they sleep: training a small model has thousands of regions a second and needs
    20,000; large products have few, and 300 leaves the cores to the stage beside.
    """
    params.limit_threads(runtime.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", str(spin))
    os.environ["DS_ACCELERATOR"] = "cpu"  # libraries that find DeepSpeed installed ask it, and it warns
    memory.keep_freed()
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it did not write
