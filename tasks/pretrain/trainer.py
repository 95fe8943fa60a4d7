"""Pretrain a track's base model on packed tokens and score it on held-out text against n-grams and compressors.

    python -m tasks.pretrain.trainer data/packed models/tokenizer models/scratch/base metrics/pretrain/scratch.json \\
        metrics/pretrain/scratch.csv --track scratch

Killed at any moment, the next run goes on from the last checkpoint in `.resume/` and ends in the same bytes as an
undisturbed one (same ranks, threads and machine); on another number of ranks it goes on with the same batches.
Read next: loop.py, then optimizer.py and parallel.py.
"""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path

from tasks import params, stage
from tasks.model import ModelParams
from tasks.pretrain import checkpoint, parallel, scaling
from tasks.pretrain.settings import PretrainParams
from tasks.stage import Input, Output, StageError
from tasks.tokenizer import shards


def pretrain(packed: Input, tokenizer: Input, directory: Output, metrics: Output, curve: Output, *,
             pretrain: PretrainParams, model: ModelParams, seed: int, runtime: params.Runtime) -> None:
    """Write the model as a `from_pretrained` directory, its curve, and its score beside the baselines'.

    Raises StageError when a shard or the tokenizer is not the packed one, the loss leaves the finite numbers, or a
    baseline of `pretrain.must_beat` is not beaten.
    """
    about = shards.meta(packed)
    if not (tokenizer / "tokenizer.json").is_file():
        raise StageError(f"{tokenizer} is not a tokenizer directory: no tokenizer.json there")
    if shards.digest(tokenizer / "tokenizer.json") != about["tokenizer"]:
        raise StageError(f"{packed} was packed with another tokenizer than {tokenizer}: pack again (dvc repro pack)")
    pretrain = scaling.settle(pretrain, model, about["vocabulary"])
    parallel.environment(runtime)
    from tasks.pretrain import comparison, loop  # after the environment, which torch and OpenMP read as they load

    track = directory.parent.name
    run = checkpoint.fingerprint(
        {"pretrain": pretrain.model_dump(exclude={"must_beat"}), "model": model.model_dump(), "seed": seed,
         "packed": about, "threads": runtime.threads, "device": runtime.device},
        base_files(model) + [tokenizer / "tokenizer.json"])
    resume = Path(".resume") / f"pretrain-{track}" / run
    result = Path(".runtime/pretrain") / f"{track}-{os.getpid()}.result.json"
    job = loop.Job(packed=packed, tokenizer=tokenizer, directory=directory, curve=curve, result=result, resume=resume,
                   name=track, pretrain=pretrain, model=model, seed=seed, runtime=runtime)
    result.parent.mkdir(parents=True, exist_ok=True)
    if runtime.hostfile:
        script = result.with_suffix(".job.json")
        script.write_text(job.model_dump_json(), encoding="utf-8")
        launched(runtime.hostfile, script, resume)
        script.unlink()
    else:
        loop.run(job)
    found = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    stage.write_timing(f"pretrain-{track}", found.pop("timing"))
    table = comparison.compare(packed, tokenizer, found.pop("nats"))
    stage.write_json(metrics, found | table | {"base": model.base})
    comparison.gate(table, pretrain)
    atexit.register(stage.remove, resume)  # once the stage has published what it made


def launched(hostfile: str, script: Path, resume: Path) -> None:
    """Launch the ranks, and again after one has died, which DeepSpeed's launcher never does, as long as each time got
    to a later checkpoint than the one before. Raises StageError when one did not."""
    reached = ""
    while True:
        try:
            return parallel.launch(hostfile, script)
        except StageError as error:
            newest = max((path.name for path in resume.glob("step-*")), default="")
            if newest <= reached:
                raise
            print(f"watchman: {error}; launched again from {newest}", flush=True)
            reached = newest


def base_files(model: ModelParams) -> list[Path]:
    """Every file of the base directory, in order; none when training starts from scratch."""
    base = model.base_directory()
    return sorted(path for path in base.rglob("*") if path.is_file()) if base else []


if __name__ == "__main__":
    stage.run(pretrain)
