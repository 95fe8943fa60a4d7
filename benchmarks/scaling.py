"""Claim: held-out bits per byte follow a power law in weights and tokens, from which model.size sets a run.

    python -m benchmarks.scaling data/packed models/tokenizer RUNS.jsonl

Trains sizes of the dial by the pretrain stage's own loop at several budgets, and at other rates and batches; one
thread, some 21 minutes of a core. A run is a line of RUNS.jsonl, so what was killed goes on. Then the law is fitted
(benchmarks/scaling_fit.py): a table, benchmarks/scaling.json, and as the last line one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import scaling_fit
from tasks import params
from tasks.model import ModelParams
from tasks.pretrain import parallel
from tasks.pretrain.settings import PretrainParams
from tasks.stage import StageError

# a fault ends a run: too high a rate is a finding, no reason to go on
RUN = {"sequence": 256, "batch": 4, "optimizer": "muon", "matrix_rate": 0.02, "rate": 0.005, "momentum": 0.95,
       "weight_decay": 0.0, "clip": 1.0, "warmup": 0.02, "decay": 0.5, "precision": "bf16", "zero_stage": 0,
       "score_steps": 1_000_000, "score_tokens": 32768, "checkpoint_steps": 1_000_000,
       "watch": {"spike": 12.0, "rollbacks": 0}, "must_beat": [], "seed": 1234}
K = 1024


def grid() -> list[dict[str, Any]]:
    """The runs in the order they are made: what stands at any time can be fitted."""
    short = 128 * K
    runs = [{"size": size, "tokens": tokens * K} for tokens in (128, 256) for size in (1, 2, 3, 4, 6)]
    runs += [{"size": size, "tokens": short, "matrix_rate": rate} for size in (2, 4, 6) for rate in (0.01, 0.04)]
    runs += [{"size": size, "tokens": 512 * K} for size in (1, 2, 3, 4)] + [{"size": 4, "tokens": 2560 * K}]
    runs += [{"size": 2, "tokens": short, "seed": seed} for seed in (1, 2)]
    runs += [{"size": size, "tokens": short, "rate": rate} for size in (2, 4) for rate in (0.0025, 0.01, 0.02, 0.04)]
    runs += [{"size": 6, "tokens": short, "rate": rate} for rate in (0.01, 0.02, 0.04)]
    runs += [{"size": 2, "tokens": short, "batch": batch} for batch in (2, 8)]
    runs += [{"size": size, "tokens": 512 * K, "rate": 0.02} for size in (2, 4)]
    return [RUN | run for run in runs]


def measure(run: dict[str, Any], packed: Path, tokenizer: Path, runtime: params.Runtime) -> dict[str, Any]:
    """`run` with what it came to: weights, FLOPs, CPU seconds of training alone, bits per byte on evenly spaced
    held-out windows; None where training came to a fault."""
    from tasks.pretrain import loop, model as models

    class Scored(loop.Run):
        """The stage's run, its score timed apart and no checkpoint written."""

        def score(self, step: int) -> None:
            self.trained_until = time.process_time()
            super().score(step)

        def save(self, step: int) -> None:
            pass

    settings = PretrainParams(**{key: value for key, value in run.items() if key not in ("size", "seed")})
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        this = Scored(loop.Job(
            packed=packed, tokenizer=tokenizer, directory=place / "base", curve=place / "curve.csv",
            result=place / "result.json", resume=place / "resume", name=f"size {run['size']}", pretrain=settings,
            model=ModelParams(base=None, size=run["size"], positions=512, rope_theta=10000.0), seed=run["seed"],
            runtime=runtime), rank=0, world=1)
        begun = time.process_time()
        try:
            this.train()
        except StageError as error:
            return run | {"bpb": None, "fault": str(error)}
    return run | {"parameters": models.parameters(this.model), "steps": settings.steps(),
                  "flops": models.flops_per_token(this.model, settings.sequence) * run["tokens"],
                  "bpb": this.rows[-1]["held_out_bpb"], "cpu_seconds": round(this.trained_until - begun, 2)}


def main() -> None:
    """Make the runs that RUNS.jsonl has not, then fit them all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path, help="data/packed of the chain")
    parser.add_argument("tokenizer", type=Path, help="models/tokenizer")
    parser.add_argument("runs", type=Path, help="a line a run; those it holds are not made again")
    given = parser.parse_args()
    runtime = params.runtime().model_copy(update={"threads": 1, "device": "cpu"})
    parallel.environment(runtime)
    made = scaling_fit.read(given.runs) if given.runs.exists() else []
    with parallel.ranks(runtime):
        for run in grid():
            if any(all(other.get(name) == value for name, value in run.items()) for other in made):
                continue
            made.append(measure(run, given.packed, given.tokenizer, runtime))
            with given.runs.open("a", encoding="utf-8") as file:
                file.write(json.dumps(made[-1]) + "\n")
    scaling_fit.publish(made)


if __name__ == "__main__":
    main()
