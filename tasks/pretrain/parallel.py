"""DeepSpeed around the training loop: one process or many, one code path.

Without a hostfile the stage's own process is rank 0 of 1. With `runtime.hostfile` set, DeepSpeed's launcher starts
`python -m tasks.pretrain.rank JOB` on every slot of every host; all of them share the working directory.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import params
from tasks.stage import StageError

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).resolve().parents[2]
EXTENSIONS = Path(".runtime/torch_extensions")
SHARED_MEMORY_OP = "deepspeed_shm_comm"


def environment(runtime: params.Runtime) -> None:
    """Set what must stand before torch, OpenMP and DeepSpeed load."""
    params.limit_threads(runtime.threads)
    # between two parallel regions OpenMP's threads spin for milliseconds by default; when anything else runs on the
    # cores, such as another track's stage, they then wait for each other: a third of the tokens a second
    os.environ.setdefault("GOMP_SPINCOUNT", "300")
    os.environ["DS_ACCELERATOR"] = runtime.device.split(":")[0]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on CUDA
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # private to this run: a build killed in a shared directory leaves a lock that later ones wait on for ever
    extensions = EXTENSIONS.resolve() / str(os.getpid())
    shutil.rmtree(extensions, ignore_errors=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions)


@contextmanager
def ranks(runtime: params.Runtime) -> Iterator[tuple[int, int]]:
    """Join the process group as (rank, number of ranks), alone where no launcher has set RANK, and leave it after."""
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import deepspeed
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it did not write
    deepspeed.utils.logger.setLevel("WARNING")
    spare_shared_memory_op()
    deepspeed.init_distributed(dist_backend="gloo" if runtime.device == "cpu" else "nccl", auto_mpi_discovery=False,
                               verbose=False)
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
    finally:
        torch.distributed.destroy_process_group()
        shutil.rmtree(os.environ["TORCH_EXTENSIONS_DIR"], ignore_errors=True)


def spare_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives, a minute of a core, for a training that never
    calls them. Raises StageError where this DeepSpeed no longer knows the operator by that name."""
    import deepspeed.ops

    if SHARED_MEMORY_OP not in deepspeed.ops.__compatible_ops__:
        raise StageError(f"this DeepSpeed has no {SHARED_MEMORY_OP}: install the version constraints.txt pins")
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False


def config(batch: int, world: int, clip: float, precision: str, zero_stage: int, micro: int | None = None,
           offload: bool = False, split: int = 1) -> dict[str, Any]:
    """DeepSpeed's configuration. `split` ranks share each batch. Raises StageError when the batch does not divide
    among the ranks, or a rank's share of it into parts of `micro` sequences, whose gradients are added up."""
    world = max(1, world // split)
    if batch % world:
        raise StageError(f"pretrain.batch = {batch} does not divide among {world} ranks: make it a multiple")
    if (batch // world) % (micro or 1):
        raise StageError(f"pretrain.micro_batch = {micro} does not divide a rank's {batch // world} sequences: make it "
                         "a divisor")
    zero = {"stage": zero_stage} | ({"offload_optimizer": {"device": "cpu"}} if offload else {})
    return {
        "train_batch_size": batch, "train_micro_batch_size_per_gpu": micro or batch // world, "gradient_clipping": clip,
        "zero_optimization": zero, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 2**31, "wall_clock_breakdown": False,
    }


def engine(model: nn.Module, optimizer: Any, settings: dict[str, Any], groups: Any = None) -> Any:
    """A DeepSpeedEngine over `model` with a ready torch optimizer (one named in JSON would be compiled first), and the
    process groups of ulysses.py or tensor.py."""
    import deepspeed

    made, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, mpu=groups)
    if made.world_size == 1 and not settings["zero_optimization"]["stage"]:
        made.enable_backward_allreduce = False  # it would copy every gradient into a bucket and back
    return made


def launch(hostfile: str, job: Path, module: str = "tasks.pretrain.rank") -> None:
    """Run `python -m MODULE JOB` on every slot of `hostfile`. Raises StageError when a rank fails."""
    if not Path(hostfile).is_file():
        raise StageError(f"runtime.hostfile = {hostfile} is not there: one line a host, `NAME slots=N`")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", hostfile, "--no_local_rank",
               "--log_level", "warning", "--module", module, str(job)]
    with socket.socket() as probe:
        probe.bind(("", 0))
        command[5:5] = ["--master_port", str(probe.getsockname()[1])]
    hosts = [line.split()[0] for line in Path(hostfile).read_text(encoding="utf-8").splitlines()
             if line.strip() and not line.startswith("#")]
    if hosts == ["localhost"]:  # its ranks are started directly: no ssh to try
        command[5:5] = ["--no_ssh_check", "--master_addr", "127.0.0.1"]
    code = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode
    if code:
        raise StageError(f"a rank of {hostfile} failed (exit code {code}); its own line stands above")
