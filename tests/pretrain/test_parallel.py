"""DeepSpeed's surroundings: nothing is compiled, nothing stale is waited for, bad settings are named."""

import os

import pytest

from tasks import params
from tasks.pretrain import parallel
from tasks.stage import StageError

RUNTIME = params.Runtime(threads=1, workers=1, executor="local", device="cpu", host="127.0.0.1", port=0, slots=1,
                         api_key=None, log_level="INFO", hostfile=None)


def test_the_shared_memory_operator_is_not_built():
    import deepspeed.ops
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    assert ShareMemCommBuilder.NAME == parallel.SHARED_MEMORY_OP
    deepspeed.ops.__compatible_ops__[parallel.SHARED_MEMORY_OP] = True
    parallel.spare_shared_memory_op()
    assert build_shm_op() is None


def test_a_deepspeed_without_that_operator_says_so(monkeypatch):
    import deepspeed.ops

    monkeypatch.delitem(deepspeed.ops.__compatible_ops__, parallel.SHARED_MEMORY_OP)
    with pytest.raises(StageError, match="this DeepSpeed has no deepspeed_shm_comm"):
        parallel.spare_shared_memory_op()


def test_extensions_are_private_and_a_stale_lock_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TORCH_EXTENSIONS_DIR", "DS_ACCELERATOR", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    stale = tmp_path / parallel.EXTENSIONS / str(os.getpid()) / "op" / "lock"
    stale.parent.mkdir(parents=True)
    stale.touch()
    parallel.environment(RUNTIME)
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(stale.parent.parent)
    assert not stale.exists()
    assert os.environ["DS_ACCELERATOR"] == "cpu" and os.environ["OMP_NUM_THREADS"] == "1"


def test_a_batch_must_divide_among_the_ranks():
    assert parallel.config(6, 3, 1.0, "bf16", 0)["train_micro_batch_size_per_gpu"] == 2
    with pytest.raises(StageError, match="pretrain.batch = 4 does not divide among 3 ranks"):
        parallel.config(4, 3, 1.0, "bf16", 0)


def test_a_missing_hostfile_is_named(tmp_path):
    with pytest.raises(StageError, match="runtime.hostfile = .*hosts is not there"):
        parallel.launch(str(tmp_path / "hosts"), tmp_path / "job.json")
