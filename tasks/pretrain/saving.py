"""Checkpoints written while the training goes on.

A save stops the training only for a copy of the rank's state in the host's memory, as much as its files hold (weights
and optimizer: 8 bytes a weight under Muon, 12 under AdamW, divided by the ranks under ZeRO; held until it is written).
A thread of each rank then writes and syncs its files and notes their checksums; rank 0's waits for all notes and seals,
by one rename: a checkpoint is whole or is none. The next save, a roll-back and the end of the run wait for it.

DeepSpeed's own writer beside the training (`checkpoint: {writer: {decoupled: true}}`) needs its asynchronous I/O
operator compiled, and knows neither checksums nor a seal. The copy-then-write scheme is CheckFreq's (Mohan et al.,
FAST 2021).
"""

from __future__ import annotations

import copy
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tasks import stage
from tasks.pretrain.checkpoint import Checkpoints
from tasks.stage import StageError
from tasks.tokenizer.shards import digest

LOOK = 0.02  # seconds between looks for the other ranks' notes, which may come through a shared file system


def copied(state: Any, seen: dict[tuple, torch.Tensor]) -> Any:
    """`state` with every tensor in it copied to the host, once where it stands twice (`seen`); dicts, lists and tuples
    are made anew, all else is what it was."""
    if isinstance(state, torch.Tensor):
        key = (state.device, state.data_ptr(), state.dtype, state.shape, state.stride())
        if key not in seen or not state.numel():
            seen[key] = state.detach().to("cpu", copy=True)
        return seen[key]
    if isinstance(state, dict):
        made = copy.copy(state)
        made.update((key, copied(value, seen)) for key, value in state.items())
        return made
    if type(state) in (list, tuple):
        return type(state)(copied(value, seen) for value in state)
    return state


class Saver:
    """Writes one rank's part of `checkpoints`, one checkpoint at a time, in a thread of its own."""

    def __init__(self, checkpoints: Checkpoints, engine: Any, rank: int, world: int):
        self.checkpoints, self.engine, self.rank, self.world = checkpoints, engine, rank, world
        self.held: list[tuple[Any, Path]] = []
        self.thread: threading.Thread | None = None
        self.fault: BaseException | None = None
        self.waited = 0.0  # seconds that the training has stood still for saving
        engine.checkpoint_engine.save = self.hold  # all that DeepSpeed saves goes through this

    def hold(self, state_dict: Any, path: str) -> None:
        """Take a copy of what DeepSpeed wants written."""
        self.held.append((copied(state_dict, {}), Path(path)))

    def save(self, step: int, progress: Callable[[Path], dict[str, Any]]) -> None:
        """Begin the checkpoint of `step`; all ranks call it. On rank 0 `progress` gives what to seal it with, and may
        put more files into the folder that it is given. Raises StageError where the checkpoint before failed."""
        self.wait()
        began, partial = time.monotonic(), self.checkpoints.path(step)
        if self.rank == 0:
            stage.remove(partial)
        dist.barrier()
        self.engine.save_checkpoint(str(partial.parent), tag=partial.name, save_latest=False)
        held, self.held = self.held, []
        told = progress(partial) if self.rank == 0 else {}
        self.thread = threading.Thread(target=self.write, args=(step, held, told), name="saver", daemon=True)
        self.thread.start()
        self.waited += time.monotonic() - began

    def write(self, step: int, held: list[tuple[Any, Path]], progress: dict[str, Any]) -> None:
        """In the thread: this rank's files, its note, and on rank 0 the seal."""
        partial, sums = self.checkpoints.path(step), {}
        try:
            while held:
                state, path = held.pop()
                with path.open("wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                del state
                sums[str(path.relative_to(partial))] = digest(path)
            stage.write_json(partial / f"{self.rank}.sums", sums)
            (partial / f"{self.rank}.sums").rename(partial / f"{self.rank}.written")
            if self.rank == 0:
                self.checkpoints.seal(step, progress, self.gathered(partial))
        except Exception as error:
            self.fault = error

    def gathered(self, partial: Path) -> dict[str, str]:
        """Name -> checksum of all ranks' files, once all have written theirs; their notes are taken away."""
        while len(notes := list(partial.glob("*.written"))) < self.world:
            time.sleep(LOOK)
        sums: dict[str, str] = {}
        for note in notes:
            sums |= json.loads(note.read_text(encoding="utf-8"))
            note.unlink()
        return sums

    def wait(self) -> None:
        """Wait for the checkpoint under way, where there is one. Raises StageError where it could not be written."""
        began = time.monotonic()
        if self.thread:
            self.thread.join()
            self.thread = None
        if self.fault:
            raise StageError(f"a checkpoint in {self.checkpoints.folder} cannot be written: "
                             f"{stage.one_line(self.fault)}; the one before stands")
        self.waited += time.monotonic() - began
