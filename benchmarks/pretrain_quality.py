"""Held-out bits per byte at equal wall time: AdamW and Muon in one process of two threads, and Muon on two ranks.

    python -m benchmarks.pretrain --quality SECONDS     from a checkout where ./run has packed its data

Each way first trains a few steps to learn its tokens a second, then its whole schedule, sized to SECONDS, through the
stage's own function; the model, the text and all else are the default's. Give 60 on an idle machine: four minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tasks import params
from tasks.model import ModelParams
from tasks.pretrain import scaling
from tasks.pretrain.settings import PretrainParams

WAYS = {"AdamW, 1 process x 2 threads": ("adamw", 1), "Muon, 1 process x 2 threads": ("muon", 1),
        "Muon, 2 ranks x 1 thread": ("muon", 2)}
PROBE = 20  # steps


def compare(seconds: float) -> None:
    """Print the table; the last line is JSON."""
    if not Path("data/packed").is_dir() or not Path("models/tokenizer").is_dir():
        sys.exit("error: data/packed and models/tokenizer are not there: ./run makes them")
    result, values = {}, params.load()
    for name, (optimizer, ranks) in WAYS.items():
        settings = scaling.settle(params.section(PretrainParams, "tracks.scratch.pretrain", values),
                                  params.section(ModelParams, "model", values), values["tokenizer"]["vocab"])
        size = settings.batch * settings.sequence
        rate = train(optimizer, ranks, PROBE * size)["tokens_per_second"]
        found = train(optimizer, ranks, max(PROBE, int(rate * seconds / size)) * size)
        result[name] = found
        print(f"{name:30} {found['held_out_bpb']:.4f} +- {found['held_out_bpb_stderr']:.4f} bits per byte, "
              f"{found['tokens']:,} tokens in {found['wall_seconds']:.0f} s", flush=True)
    print(json.dumps(result, sort_keys=True))


def train(optimizer: str, ranks: int, tokens: int) -> dict[str, Any]:
    """One run of the stage in a directory of its own: its score, and its tokens a second."""
    values, here = params.load(), Path.cwd()
    values["tracks"]["scratch"]["pretrain"] |= {"optimizer": optimizer, "tokens": tokens, "must_beat": [],
                                                "score_steps": 10**6, "checkpoint_steps": 10**6, "score_tokens": 1000}
    values["runtime"] |= {"device": "cpu", "threads": 2 // ranks, "hostfile": "hosts" if ranks > 1 else None}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        (folder / "hosts").write_text(f"localhost slots={ranks}\n", encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "tasks.pretrain.trainer", here / "data/packed", here / "models/tokenizer",
             "models/scratch/base", "metrics.json", "curve.csv", "--track", "scratch"],
            cwd=folder, check=True, stdout=sys.stderr, env=os.environ | {"PYTHONPATH": str(here)})
        scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        timing = json.loads((folder / ".runtime/timing/pretrain-scratch.json").read_text(encoding="utf-8"))
    return {key: scores[key] for key in ("held_out_bpb", "held_out_bpb_stderr", "tokens")} | {
        key: timing[key] for key in ("tokens_per_second", "tokens_per_cpu_second", "wall_seconds", "cpu_seconds")}
