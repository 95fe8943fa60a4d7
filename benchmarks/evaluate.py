"""Claim: lm-eval asks the engine's model class several times as many requests a second as its `hf` backend, at equal
scores and equal greedy answers.

    python -m benchmarks.evaluate models/smollm2/chat data/eval [--items 64] [--rounds 5] [--batch 1 8 32 auto]

FOLDER holds any of piqa.jsonl (goal, sol1, sol2), lambada_openai.jsonl (text) and blimp/*.jsonl (sentence_good,
sentence_bad). Both sides run in float32 on runtime.threads threads, interleaved, in an order that turns with the round;
seconds are of wall and of CPU (the latter are worth more on a shared machine). `hf`'s own spread of scores between its
batch sizes stands beside the difference to it. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import params

ANSWER = 48     # tokens written after each prompt
PROMPTS = 16


def requests(folder: Path, items: int) -> dict[str, list[tuple[str, str]]]:
    """Set -> (context, continuation) pairs of `items` items, taken evenly."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("blimp/*.jsonl")]):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        name = "blimp" if path.parent.name == "blimp" else path.stem
        found.setdefault(name, []).extend(pair for line in lines for pair in [pairs(line)])  # type: ignore[arg-type]
    return {name: [pair for item in rows[::max(1, len(rows) // items)][:items] for pair in item]  # type: ignore
            for name, rows in found.items()}


def pairs(line: dict[str, Any]) -> list[tuple[str, str]]:
    """What one item asks. Raises ValueError where its form is none of those known."""
    if "goal" in line:
        return [(f"Question: {line['goal']}\nAnswer:", f" {line[key]}") for key in ("sol1", "sol2")]
    if "sentence_good" in line:
        return [("", line[key]) for key in ("sentence_good", "sentence_bad")]
    if "text" in line:
        context, last = line["text"].rsplit(" ", 1)
        return [(context, f" {last}")]
    raise ValueError(f"no goal, sentence_good or text in an item of keys {sorted(line)}")


def instances(kind: str, asked: list[tuple[Any, Any]]) -> list[Any]:
    """lm-eval's instances of one kind."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {"id": at}, pair, 0, ("benchmark", at, 1)) for at, pair in enumerate(asked)]


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds of wall, seconds of CPU)."""
    wall, cpu = time.perf_counter(), time.process_time()
    return function(), time.perf_counter() - wall, time.process_time() - cpu


def measured(models: dict[str, Any], method: str, asked: list[Any], rounds: int) -> dict[str, dict[str, Any]]:
    """model -> its answers, and wall and CPU seconds of each round."""
    rows: dict[str, dict[str, Any]] = {name: {"wall": [], "cpu": []} for name in models}
    for number in range(rounds):
        names = [*models][number % len(models):] + [*models][:number % len(models)]
        for name in names:
            answers, wall, cpu = timed(lambda: getattr(models[name], method)(asked, disable_tqdm=True))
            rows[name]["wall"].append(wall)
            rows[name]["cpu"].append(cpu)
            rows[name]["answers"] = answers
    return rows


def compared(rows: dict[str, dict[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """model -> requests a second (median of the rounds), and how many times as many the engine answers: the median
    of the rounds' ratios with the least and the greatest, by wall and by CPU time."""
    table = {}
    for name, row in rows.items():
        table[name] = {"per_second": count / statistics.median(row["wall"]),
                       "per_cpu_second": count / statistics.median(row["cpu"])}
        for clock in ("wall", "cpu"):
            ratios = [other / own for other, own in zip(row[clock], rows["engine"][clock])]
            table[name][f"ratio_{clock}"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a float32 directory")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=64, help="of each set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", nargs="+", default=["1", "8", "32", "auto"], help="hf's batch sizes")
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    runtime = params.runtime()
    from tasks.finetune import environment
    environment.prepare(runtime, environment.SHORT_SPIN)
    import torch
    from lm_eval.models.huggingface import HFLM

    from tasks.evaluate.model import EngineLM

    models: dict[str, Any] = {"engine": EngineLM(given.model, window=2047, batch=PROMPTS, threads=runtime.threads)}
    for batch in given.batch:
        hf = HFLM(str(given.model), dtype="float32", device="cpu", max_length=2047, max_batch_size=64,
                  batch_size=batch if batch == "auto" else int(batch), prefix_token_id=models["engine"].prefix)
        models[f"hf {batch}"] = hf
    result: dict[str, Any] = {"model": given.model.name, "threads": runtime.threads, "torch": torch.__version__,
                              "rounds": given.rounds, "sets": {}}
    tasks = requests(given.folder, given.items)
    for name, asked in tasks.items():
        rows = measured(models, "loglikelihood", instances("loglikelihood", asked), given.rounds)
        table = compared(rows, len(asked))
        others = [row["answers"] for model, row in rows.items() if model != "engine"]
        apart = max(abs(a - b) for side in others for (a, _), (b, _) in zip(rows["engine"]["answers"], side))
        own = max(abs(a - b) for side in others for (a, _), (b, _) in zip(others[0], side))
        flags = sum(a != b for side in others for (_, a), (_, b) in zip(rows["engine"]["answers"], side))
        result["sets"][name] = {"requests": len(asked), "models": table, "nats_apart_most": apart,
                                "hf_nats_apart_most": own, "greedy_flags_otherwise": flags}
        show(name, result["sets"][name])
    prompts = [(context or continuation, {"until": ["\n\n"], "max_gen_toks": ANSWER})
               for asked in tasks.values() for context, continuation in asked][::max(1, given.items // 4)][:PROMPTS]
    sides = {name: model for name, model in models.items() if name != "hf auto"}
    rows = measured(sides, "generate_until", instances("generate_until", prompts), max(1, given.rounds // 2))
    encode = models["engine"].tok_encode
    count = sum(len(encode(text)) for text in rows["engine"]["answers"])
    result["generation"] = {
        "prompts": len(prompts), "tokens": count, "models": compared(rows, count),
        "otherwise": {name: sum(a != b for a, b in zip(rows["engine"]["answers"], row["answers"]))
                      for name, row in rows.items() if name != "engine"}}
    show("generation, tokens", result["generation"])
    models["engine"].close()
    print(json.dumps(result))


def show(name: str, found: dict[str, Any]) -> None:
    """A table of one set."""
    print(f"{name}: " + ", ".join(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}"
                                  for key, value in found.items() if key != "models"))
    print(f"{'':10} {'/s':>9} {'/CPU s':>9} {'engine is, wall':>22} {'CPU':>22}")
    for model, row in found["models"].items():
        spans = ["{:.2f} x ({:.2f}-{:.2f})".format(*row[f"ratio_{clock}"]) for clock in ("wall", "cpu")]
        print(f"{model:10} {row['per_second']:9.2f} {row['per_cpu_second']:9.2f} {spans[0]:>22} {spans[1]:>22}",
              flush=True)


if __name__ == "__main__":
    main()
