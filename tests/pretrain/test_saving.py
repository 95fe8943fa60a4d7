"""Saving beside the training: what is written is the state at the save, sealed once all ranks have written, or told."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from tasks.pretrain.checkpoint import Checkpoints
from tasks.pretrain.saving import Saver, copied
from tasks.stage import StageError


class Engine:
    """A state of one tensor that stands twice, saved as DeepSpeed does: by its checkpoint engine's `save`."""

    def __init__(self):
        self.weight = torch.zeros(1000)
        self.checkpoint_engine = SimpleNamespace(save=None)

    def save_checkpoint(self, folder, tag, save_latest):
        path = f"{folder}/{tag}/rank_0.pt"
        Path(folder, tag).mkdir(exist_ok=True)
        self.checkpoint_engine.save({"embedding": self.weight, "head": self.weight, "lr": [0.1]}, path)


@pytest.fixture
def group():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_training_on_does_not_reach_what_is_being_saved(group, tmp_path):
    engine, store = Engine(), Checkpoints(tmp_path)
    saver = Saver(store, engine, rank=0, world=1)
    saver.save(1, lambda folder: {"step": 1})
    engine.weight += 1  # the next step of the training
    saver.wait()
    folder, progress = store.latest(print)
    state = torch.load(folder / "rank_0.pt")
    assert progress == {"step": 1} and not state["embedding"].any() and state["lr"] == [0.1]
    assert state["head"].data_ptr() == state["embedding"].data_ptr()  # tied weights are one
    assert {path.name for path in folder.iterdir()} == {"rank_0.pt", "progress.json", "manifest.json"}


def test_what_one_rank_has_not_written_is_not_sealed(group, tmp_path):
    store = Checkpoints(tmp_path)
    saver = Saver(store, Engine(), rank=0, world=2)
    saver.save(1, lambda folder: {"step": 1})
    end = time.monotonic() + 60
    while not (store.path(1) / "0.written").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)
    assert store.latest(print) is None
    (store.path(1) / "1.written").write_text("{}")  # the other rank
    saver.wait()
    assert store.latest(print)[1] == {"step": 1}


def test_a_checkpoint_that_cannot_be_written_is_told_at_the_next_and_the_one_before_stands(group, tmp_path):
    store, engine = Checkpoints(tmp_path), Engine()
    saver = Saver(store, engine, rank=0, world=1)
    saver.save(1, lambda folder: {"step": 1})
    saver.save(2, lambda folder: {"step": float("nan")})  # no JSON
    with pytest.raises(StageError, match="cannot be written.*the one before stands"):
        saver.save(3, lambda folder: {"step": 3})
    assert store.latest(print)[1] == {"step": 1}


def test_a_copy_keeps_the_form_and_shares_nothing():
    inner = torch.arange(4.0)
    state = {"a": [inner, (inner[1:], None)], "b": "text"}
    found = copied(state, {})
    inner.zero_()
    assert found["a"][0].tolist() == [0, 1, 2, 3] and found["a"][1][0].tolist() == [1, 2, 3]
    assert isinstance(found["a"][1], tuple) and found["b"] == "text" and state["a"][0] is inner
