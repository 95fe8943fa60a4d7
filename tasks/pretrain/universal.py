"""A ZeRO checkpoint, cut for one number of ranks, made into one that any number reads: DeepSpeed's universal format
(Lian et al. 2024, arXiv:2406.18820). Without ZeRO each rank holds all of the state, and there is nothing to do."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist

from tasks import stage
from tasks.stage import StageError


def load(engine: Any, folder: Path, optimizer: str, rank: int) -> bool:
    """Load the ZeRO checkpoint in `folder`, written by another number of ranks, into `engine`: rank 0 converts it, all
    read it. Whether DeepSpeed could. The format knows Adam's two moments and no other state: raises StageError where
    `optimizer` is another one, or the conversion fails."""
    if optimizer != "adamw":
        raise StageError(f"{folder} was written by another number of ranks: under ZeRO, pretrain.optimizer = "
                         f"{optimizer} goes on with the same number only (DeepSpeed's universal checkpoint holds "
                         "AdamW's state alone): launch as many ranks as before, or remove it to begin anew")
    target = folder.with_name(f"universal-{folder.name}")
    if rank == 0:
        convert(folder, target)
    dist.barrier()
    engine._config.load_universal_checkpoint = True  # what its configuration would set, before a checkpoint is known
    try:
        loaded, _ = engine.load_checkpoint(str(target.parent), tag=target.name)
    finally:
        engine._config.load_universal_checkpoint = False
    dist.barrier()
    if rank == 0:
        stage.remove(target)
    return loaded is not None


def convert(folder: Path, target: Path) -> None:
    """Write the universal form of the checkpoint in `folder` as `target`. Raises StageError where it cannot be."""
    from deepspeed.checkpoint import ds_to_universal

    stage.remove(target)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of every file
            ds_to_universal.main(SimpleNamespace(
                input_folder=str(folder), output_folder=str(target), num_extract_workers=1, num_merge_workers=1,
                keep_temp_folder=False, strict=True, inject_missing_state=True))
    except Exception as error:
        raise StageError(f"{folder} cannot be converted for another number of ranks: {stage.one_line(error)}") from None
