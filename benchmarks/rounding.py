"""Claim: one more rounding of the weights to 4 bits costs a 135M model about what separates the packaged weights from
the published scores of the original ones.

    python -m benchmarks.rounding models/smollm2/chat DATA [--items 919] [--seeds 1 2 3]

The packaged SmolLM2-135M-Instruct was rounded once (Q4_1: 16 levels for 32 inputs; the embedding 32 levels), and its
unrounded weights are not at hand. Rounding again to the same levels changes nothing, so each seed here moves every
weight by a uniform draw of half a step either way: as far as the first rounding moved it. The models answer the same
items, so differences are paired. FOLDER as benchmarks.evaluate reads it. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import evaluate as sets
from tasks import params
from tasks.evaluate import statistics

GROUP = 32


def moved(values: np.ndarray, levels: int, draw: np.random.Generator) -> np.ndarray:
    """[outputs, inputs] each moved by up to half a step of its group's `levels` levels."""
    groups = values.reshape(-1, GROUP)
    step = (groups.max(1, keepdims=True) - groups.min(1, keepdims=True)) / (levels - 1)
    return (groups + step * draw.uniform(-0.5, 0.5, groups.shape).astype(np.float32)).reshape(values.shape)


def rounded(model: Path, folder: Path, seed: int) -> Path:
    """A copy of `model` in `folder`, its weights moved."""
    from safetensors.numpy import load_file, save_file

    target, draw = folder / str(seed), np.random.default_rng(seed)
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("*.safetensors", "manifest.json"))
    weights = load_file(model / "model.safetensors")
    for name in sorted(weights):
        if weights[name].ndim == 2:
            weights[name] = moved(weights[name], 32 if "embed" in name else 16, draw)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def answers(model: Path, tasks: dict[str, list[tuple[list[sets.Pair], int]]], threads: int) -> dict[str, np.ndarray]:
    """metric -> the score of each item: PIQA's and BLiMP's choices, LAMBADA's last words and their nats."""
    from tasks.evaluate.model import EngineLM

    lm, found = EngineLM(model, window=2047, batch=1, threads=threads), {}
    for name, items in tasks.items():
        asked, gold = [pair for pairs, _ in items for pair in pairs], np.array([right for _, right in items])
        scored = lm.loglikelihood(sets.instances("loglikelihood", asked), disable_tqdm=True)
        nats = np.array([value for value, _ in scored])
        if name == "lambada_openai":
            found |= {f"{name} acc": np.array([greedy for _, greedy in scored], int), f"{name} nats": nats}
            continue
        length = np.array([len(choice.strip()) for _, choice in asked])
        found[f"{name} acc"] = (nats.reshape(-1, 2).argmax(1) == gold).astype(int)
        if name == "piqa":
            found[f"{name} acc_norm"] = ((nats / length).reshape(-1, 2).argmax(1) == gold).astype(int)
    lm.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a float32 directory")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=919, help="of each set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    runtime = params.runtime()
    from tasks.finetune import environment
    environment.prepare(runtime, environment.SHORT_SPIN)
    tasks = sets.items(given.folder, given.items)
    once = answers(given.model, tasks, runtime.threads)
    print("as packaged: " + ", ".join(f"{name} {value.mean():.4f}" for name, value in once.items()), flush=True)
    result: dict[str, Any] = {"model": given.model.name, "items": {name: len(value) for name, value in once.items()},
                              "packaged": {name: float(value.mean()) for name, value in once.items()}, "again": {}}
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            again = answers(rounded(given.model, Path(folder), seed), tasks, runtime.threads)
            shutil.rmtree(Path(folder) / str(seed))
            rows = {}
            for name, value in again.items():
                apart = value - once[name]
                error = apart.std(ddof=1) / len(apart) ** 0.5
                rows[name] = (statistics.paired_difference(value.tolist(), once[name].tolist()).as_dict()
                              if value.dtype.kind == "i" else
                              {"value": float(apart.mean()), "stderr": error, "n": len(apart),
                               "low": apart.mean() - statistics.Z95 * error,
                               "high": apart.mean() + statistics.Z95 * error})
                print(f"seed {seed} {name:20} {value.mean():8.4f}  {rows[name]['value']:+.4f} "
                      f"({rows[name]['low']:+.4f} to {rows[name]['high']:+.4f})", flush=True)
            result["again"][seed] = rows
    print(json.dumps(result))


if __name__ == "__main__":
    main()
