"""Claim: lm-eval gives a model the same scores through the server as through its own hf backend.

    python -m benchmarks.parity models/smollm2/chat PAIRS.jsonl [PAIRS.jsonl ...] [--items 300] [--backends cpu torch]

PAIRS are minimal pairs, one JSON object a line: `good` and `bad`, or BLiMP's own `sentence_good` and `sentence_bad`; items
are taken evenly from all files. lm-eval's `local-completions` asks the server on each backend, `hf` runs the same directory
in float32: accuracy, pairs that were chosen otherwise, and how far a sentence's log-likelihood lies apart, in nats.
The last line is one JSON document; exit code 1 where an accuracy differs by more than 1e-3.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks.serve import client

LIMIT = 1e-3


def read(paths: list[Path], items: int) -> list[dict[str, str]]:
    """`items` pairs, evenly from the files and evenly within each."""
    pairs = []
    for path in paths:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        wanted = max(1, items // len(paths))
        pairs += [{"good": line.get("good") or line["sentence_good"], "bad": line.get("bad") or line["sentence_bad"]}
                  for line in lines[::max(1, len(lines) // wanted)][:wanted]]
    return pairs


def likelihoods(model: str, arguments: dict[str, Any], data: Path) -> list[tuple[float, float]]:
    """(good, bad) log-likelihood in nats of every pair, by lm-eval's model of that name."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    task = {"task": "pairs", "dataset_path": "json", "dataset_name": None, "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(data)}}, "output_type": "multiple_choice", "doc_to_text": "",
            "doc_to_choice": "{{[good, bad]}}", "doc_to_target": 0, "num_fewshot": 0, "metric_list": [{"metric": "acc"}]}
    found = simple_evaluate(model=model, model_args=arguments, tasks=[task], bootstrap_iters=0, log_samples=True,
                            verbosity="ERROR", task_manager=TaskManager(include_defaults=False))["samples"]["pairs"]
    found.sort(key=lambda sample: sample["doc_id"])
    return [(float(sample["resps"][0][0][0]), float(sample["resps"][1][0][0])) for sample in found]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path, nargs="+")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--backends", nargs="+", default=["cpu", "torch"])
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    pairs = read(given.pairs, given.items)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        data = Path(folder) / "pairs.jsonl"
        data.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
        started = time.perf_counter()
        direct = likelihoods("hf", {"pretrained": str(given.model), "dtype": "float32", "device": "cpu",
                                    "batch_size": 16}, data)
        rows["hf"] = {"accuracy": accuracy(direct), "seconds": time.perf_counter() - started}
        for backend in given.backends:
            os.environ["CATENA_BACKEND"] = backend
            with client.running(given.model, threads=2, slots=16) as url:
                started = time.perf_counter()
                served = likelihoods("local-completions", {
                    "model": "default", "base_url": f"{url}/completions", "tokenizer": str(given.model),
                    "tokenizer_backend": "huggingface", "max_length": 2048, "num_concurrent": 8, "seed": 1}, data)
            apart = [abs(a - b) for one, other in zip(served, direct) for a, b in zip(one, other)]
            rows[backend] = {"accuracy": accuracy(served), "seconds": time.perf_counter() - started,
                             "chosen_otherwise": sum((a > b) != (c > d) for (a, b), (c, d) in zip(served, direct)),
                             "nats_apart_mean": sum(apart) / len(apart), "nats_apart_most": max(apart)}
    print(f"{'through':12} {'accuracy':>9} {'otherwise':>10} {'nats apart, mean':>17} {'most':>8} {'seconds':>8}")
    for name, row in rows.items():
        print(f"{name:12} {row['accuracy']:9.4f} {row.get('chosen_otherwise', ''):>10} "
              f"{row.get('nats_apart_mean', 0):17.6f} {row.get('nats_apart_most', 0):8.5f} {row['seconds']:8.1f}")
    print(json.dumps({"model": given.model.name, "pairs": len(pairs), "rows": rows}))
    return int(any(abs(row["accuracy"] - rows["hf"]["accuracy"]) > LIMIT for row in rows.values()))


def accuracy(found: list[tuple[float, float]]) -> float:
    """Share of pairs whose good side is likelier."""
    return sum(good > bad for good, bad in found) / len(found)


if __name__ == "__main__":
    sys.exit(main())
