"""What must stand before torch and OpenMP load, for stages that run in one process, and what makes torch repeatable."""

from __future__ import annotations

import logging
import os

from tasks import memory, params


# How often OpenMP's threads look for work between two parallel regions before they sleep. Training a small model has
# thousands of regions a second and is up to a fifth slower with the short one; large products have few, and a long
# spin only starves the stage beside.
LONG_SPIN, SHORT_SPIN = 20_000, 300


def prepare(runtime: params.Runtime, spin: int) -> None:
    """Set the environment, load torch, and make it compute the same bytes every time on `runtime.threads` threads.

    Call it before anything else imports torch: OpenMP reads its environment once.
    """
    params.limit_threads(runtime.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", str(spin))
    os.environ["DS_ACCELERATOR"] = "cpu"  # libraries that find DeepSpeed installed ask it, and it warns
    # peft loads bitsandbytes, which takes our package `kernels` for the hub's of that name, and says so
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    memory.keep_freed()
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it did not write
