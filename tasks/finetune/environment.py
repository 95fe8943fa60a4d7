"""What must stand before torch and OpenMP load, for stages that run in one process, and what makes torch repeatable."""

from __future__ import annotations

import os

from tasks import memory, params


def prepare(runtime: params.Runtime) -> None:
    """Set the environment, load torch, and make it compute the same bytes every time on `runtime.threads` threads.

    Call it before anything else imports torch: OpenMP reads its environment once.
    """
    params.limit_threads(runtime.threads)
    # between two parallel regions OpenMP's threads spin for milliseconds and starve whatever else runs on the
    # cores; a short spin keeps the speed of an idle machine and yields on a busy one
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ["DS_ACCELERATOR"] = "cpu"  # libraries that find DeepSpeed installed ask it, and it warns
    memory.keep_freed()
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it did not write
