"""DeepSpeed's surroundings: nothing is compiled, nothing stale is waited for, bad settings are named."""

import os
from pathlib import Path

import pytest

from tasks import params
from tasks.pretrain import parallel
from tasks.pretrain.settings import PretrainParams
from tasks.stage import StageError

ROOT = Path(__file__).resolve().parents[2]

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


def test_two_ranks_a_sequence_halve_the_world():
    assert parallel.config(6, 4, 1.0, "fp32", 0, split=2)["train_micro_batch_size_per_gpu"] == 3


def test_a_share_is_taken_in_parts_that_divide_it():
    found = parallel.config(8, 2, 1.0, "fp32", 1, micro=2, offload=True)
    assert (found["train_batch_size"], found["train_micro_batch_size_per_gpu"]) == (8, 2)
    assert found["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    with pytest.raises(StageError, match="pretrain.micro_batch = 3 does not divide a rank's 4 sequences"):
        parallel.config(8, 2, 1.0, "bf16", 0, micro=3)


@pytest.mark.parametrize("zero, optimizer", [(0, "adamw"), (2, "muon")])
def test_offload_is_zeros_and_adamws(zero, optimizer):
    values = params.load(ROOT / "params.yaml")["tracks"]["scratch"]["pretrain"]
    with pytest.raises(ValueError, match="offload is ZeRO's, of AdamW"):
        PretrainParams(**values | {"offload": True, "zero_stage": zero, "optimizer": optimizer})
    PretrainParams(**values | {"offload": True, "zero_stage": 1, "optimizer": "adamw"})


def test_a_missing_hostfile_is_named(tmp_path):
    with pytest.raises(StageError, match="runtime.hostfile = .*hosts is not there"):
        parallel.launch(str(tmp_path / "hosts"), tmp_path / "job.json")
