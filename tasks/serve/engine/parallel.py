"""Tensor parallelism: several processes share one model, each with its heads and its part of the feed-forward.

Rank 0 lives in the server and drives; the others follow what it broadcasts over gloo. They are started here:

    python -m tasks.serve.engine.parallel DIRECTORY RENDEZVOUS RANK RANKS THREADS SLOTS KV
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from tasks import stage
from tasks.serve.engine.backend import BackendLost
from tasks.serve.engine.directory import ModelError, ModelFiles, read_files
from tasks.serve.engine.backend_torch import TorchBackend

ROOT = Path(__file__).resolve().parents[3]
IDLE = datetime.timedelta(days=3650)  # a follower may wait long for its next step
MEET = datetime.timedelta(minutes=2)
STEP, EMBED, ADAPTER, STOP = range(4)


class Group:
    """This process's place among the ranks; also backend_torch's Shard. Ranks meet at the file `rendezvous`."""

    def __init__(self, rendezvous: Path, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        store = dist.FileStore(str(rendezvous), ranks)
        store.set_timeout(MEET)
        # not init_process_group: its group is the process's only one, and a server may hold two models
        self.group = dist.ProcessGroupGloo(store, rank, ranks, IDLE)

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """See Shard.reduce."""
        x = x.contiguous()
        self.group.allreduce([x]).wait()
        return x

    def send(self, kind: int, parts: list[np.ndarray]) -> None:
        """Broadcast integer arrays from rank 0."""
        shapes = [len(parts), *(size for part in parts for size in (part.ndim, *part.shape))]
        payload = torch.from_numpy(np.concatenate([np.array(shapes, np.int64),
                                                   *(part.ravel().astype(np.int64) for part in parts)]))
        self.group.broadcast(torch.tensor([kind, len(payload)]), 0).wait()
        self.group.broadcast(payload, 0).wait()

    def receive(self) -> tuple[int, list[np.ndarray]]:
        """What rank 0 sends next."""
        head = torch.zeros(2, dtype=torch.int64)
        self.group.broadcast(head, 0).wait()
        payload = torch.zeros(int(head[1]), dtype=torch.int64)
        self.group.broadcast(payload, 0).wait()
        values = payload.numpy()
        shapes, at = [], 1
        for _ in range(values[0]):
            shapes.append(tuple(map(int, values[at + 1:at + 1 + values[at]])))
            at += 1 + int(values[at])
        parts = []
        for shape in shapes:
            size = int(np.prod(shape))
            parts.append(values[at:at + size].reshape(shape))
            at += size
        return int(head[0]), parts


class TensorParallel:
    """The Backend that rank 0 drives. Raises ModelError where the model has fewer key-value heads than `ranks`."""

    def __init__(self, files: ModelFiles, *, threads: int, slots: int, kv: str, ranks: int) -> None:
        if ranks > files.config["num_key_value_heads"]:
            raise ModelError(f"{files.directory} has {files.config['num_key_value_heads']} key-value heads: at most so "
                             f"many tensor-parallel ranks, not {ranks}")
        share = max(1, threads // ranks)
        folder = tempfile.TemporaryDirectory()
        meeting = Path(folder.name) / "rendezvous"
        self.followers = [subprocess.Popen(
            [sys.executable, "-m", "tasks.serve.engine.parallel", str(files.directory.resolve()), str(meeting),
             str(rank), str(ranks), str(share), str(slots), kv], cwd=ROOT, stdin=subprocess.PIPE)
            for rank in range(1, ranks)]
        self.group = Group(meeting, 0, ranks)
        self.ended = weakref.finalize(self, stop, self.group, self.followers, folder)
        self.own = TorchBackend(files, threads=share, slots=slots, kv=kv, shard=self.group)
        for name in ("vocabulary", "context", "hidden_size", "block_size", "blocks"):
            setattr(self, name, getattr(self.own, name))

    def step(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
             logit_rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.step."""
        return self.together(STEP, tokens, positions, sequences, block_table, logit_rows, adapters)

    def embed(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, block_table: np.ndarray,
              rows: np.ndarray, adapters: np.ndarray | None = None) -> np.ndarray:
        """See Backend.embed."""
        return self.together(EMBED, tokens, positions, sequences, block_table, rows, adapters)

    def together(self, kind: int, *step: np.ndarray | None) -> np.ndarray:
        """Run a step on all ranks; rank 0's answer, which is the whole one. Raises BackendLost without the others."""
        try:
            self.group.send(kind, [part for part in step if part is not None])
            return (self.own.step if kind == STEP else self.own.embed)(*step)
        except RuntimeError as error:
            raise BackendLost(f"a tensor-parallel rank is gone: {' '.join(str(error).split())[:200]}") from None

    def add_adapter(self, directory: Path) -> int:
        """See Backend.add_adapter; the others read the same directory."""
        index = self.own.add_adapter(directory)
        self.group.send(ADAPTER, [np.frombuffer(str(directory.resolve()).encode(), np.uint8)])
        return index

    def close(self) -> None:
        """See Backend.close."""
        self.ended()
        self.own.close()


def stop(group: Group, followers: list[subprocess.Popen], folder: tempfile.TemporaryDirectory) -> None:
    """Let the followers end."""
    if all(follower.poll() is None for follower in followers):
        group.send(STOP, [])
    for follower in followers:
        try:
            follower.wait(10)
        except subprocess.TimeoutExpired:
            follower.kill()
            follower.wait()
    folder.cleanup()


def follow(backend: TorchBackend, group: Group) -> None:
    """Do what rank 0 does until it stops."""
    while True:
        kind, parts = group.receive()
        if kind == STOP:
            return
        if kind == ADAPTER:
            backend.add_adapter(Path(parts[0].astype(np.uint8).tobytes().decode()))
        else:
            (backend.step if kind == STEP else backend.embed)(*parts)


def end_with_parent() -> None:
    """Die when rank 0's process has gone, which closes this one's stdin (prctl would heed its thread instead)."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """A follower. Exit codes: 0 told to stop, 1 the model cannot be served or rank 0 is gone."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    directory, meeting, *numbers, kv = sys.argv[1:]
    rank, ranks, threads, slots = map(int, numbers)
    group = Group(Path(meeting), rank, ranks)
    try:
        follow(TorchBackend(read_files(Path(directory)), threads=threads, slots=slots, kv=kv, shard=group), group)
    except (ModelError, RuntimeError) as error:
        sys.exit(stage.fail(1, f"rank {rank}: {' '.join(str(error).split())[:300]}"))


if __name__ == "__main__":
    main()
