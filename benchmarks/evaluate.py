"""Claim: lm-eval asks the engine's model class several times as many requests a second as its `hf` backend, at equal
scores and equal greedy answers.

    python -m benchmarks.evaluate models/smollm2/chat DATA [--items 64] [--rounds 3] [--batch 1 8 32 auto]

DATA holds any of piqa.jsonl (goal, sol1, sol2, label), lambada_openai.jsonl (text) and blimp/*.jsonl (sentence_good,
sentence_bad). Both sides run in float32, interleaved, in an order that turns with the round (`auto`, which tries sizes
at its first step, in the first round only); seconds are of wall and of CPU: the latter with --threads 1 are worth more
on a shared machine. Beside the ratio stands what the arithmetic alone would give: multiplications of the tokens that
hf pads and heads, over those of the tokens that are left when each beginning is computed once.
Scores are held against the same model in float64 (--exact requests of each set): hf's own float32 softmax over 49,152
tokens is off by more than the engine, so that hf with `softmax_dtype=float64` stands in the table too.
The last line is one JSON document.
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
from tasks.evaluate.harness import parameters

ANSWER = 48     # tokens written after each prompt
PROMPTS = 16


Pair = tuple[str, str]


def items(folder: Path, count: int) -> dict[str, list[tuple[list[Pair], int]]]:
    """Set -> `count` items, taken evenly: (context, continuation) pairs and the place of the right one."""
    found: dict[str, list[tuple[list[Pair], int]]] = {}
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("blimp/*.jsonl")]):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found.setdefault("blimp" if path.parent.name == "blimp" else path.stem, []).extend(map(item, lines))
    return {name: rows[::max(1, len(rows) // count)][:count] for name, rows in found.items()}


def item(line: dict[str, Any]) -> tuple[list[Pair], int]:
    """What lm-eval's task asks of one line. Raises ValueError where its form is none of those known."""
    if "goal" in line:
        return [(f"Question: {line['goal']}\nAnswer:", f" {line[key]}") for key in ("sol1", "sol2")], int(line["label"])
    if "sentence_good" in line:
        return [("", f" {line[key]}") for key in ("sentence_good", "sentence_bad")], 0
    if "text" in line:
        context, last = line["text"].rsplit(" ", 1)
        return [(context, f" {last}")], 0
    raise ValueError(f"no goal, sentence_good or text in an item of keys {sorted(line)}")


def requests(folder: Path, count: int) -> dict[str, list[Pair]]:
    """Set -> the pairs of its items, one after the other."""
    return {name: [pair for pairs, _ in rows for pair in pairs] for name, rows in items(folder, count).items()}


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
            if name == "hf auto" and number:
                continue
            answers, wall, cpu = timed(lambda: getattr(models[name], method)(asked, disable_tqdm=True))
            rows[name]["wall"].append(wall)
            rows[name]["cpu"].append(cpu)
            rows[name]["answers"] = answers
    return rows


def multiplications(engine: Any, config: dict[str, Any], asked: list[Pair], batch: int) -> dict[str, float]:
    """Tokens and rows of the head on both sides, and the ratio of multiplications that follows."""
    from tasks.evaluate import scorer, tree

    coded = [([engine.prefix], engine.tok_encode(continuation)) if not context else
             engine._encode_pair(context, continuation) for context, continuation in asked]
    whole = [context + continuation for context, continuation in coded]
    longest = sorted((len(one) - 1 for one in whole), reverse=True)
    padded = sum(longest[at] * len(longest[at:at + batch]) for at in range(0, len(longest), batch))
    order = sorted(range(len(whole)), key=lambda at: whole[at])
    tokens = heads = 0
    for part in scorer.parts(order, whole, scorer.HELD, 16):
        nodes, ends = tree.build([whole[at][:-1] for at in part], scorer.STEP)
        for place, at in enumerate(part):
            tree.ask(ends[place], len(whole[at]) - 1, len(coded[at][0]) - 1, place)
        tokens += sum(len(node.tokens) for node in nodes)
        heads += sum(len(node.asked) for node in nodes)
    head = config["vocab_size"] * config["hidden_size"]
    layers = parameters(config | {"tie_word_embeddings": True}) - head
    return {"hf_tokens": padded, "tokens": tokens, "heads": heads,
            "ratio": padded * (layers + head) / (tokens * layers + heads * head)}


def exact(model: Path, engine: Any, asked: list[Pair]) -> list[float]:
    """Nats of each request by the same weights in float64 through transformers."""
    import torch
    from transformers import LlamaForCausalLM

    made, found = LlamaForCausalLM.from_pretrained(model, dtype=torch.float64).eval(), []
    for context, continuation in asked:
        given, scored = (([engine.prefix], engine.tok_encode(continuation)) if not context else
                         engine._encode_pair(context, continuation))
        with torch.inference_mode():
            nats = made(torch.tensor([(given + scored)[:-1]])).logits[0, len(given) - 1:].log_softmax(-1)
        found.append(float(nats.gather(1, torch.tensor(scored)[:, None]).sum()))
    return found


def compared(rows: dict[str, dict[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """model -> requests a second (median of the rounds), and how many times as many the engine answers: the median
    of the rounds' ratios with the least and the greatest, by wall and by CPU time."""
    table = {}
    for name, row in rows.items():
        table[name] = {"per_second": count / statistics.median(row["wall"]),
                       "per_cpu_second": count / statistics.median(row["cpu"])}
        for clock in ("wall", "cpu"):
            ratios = [other / own for other, own in zip(row[clock], rows["engine"][clock], strict=False)]
            table[name][f"ratio_{clock}"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a float32 directory")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=64, help="of each set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", type=int, default=32, help="requests of each set computed in float64 too")
    parser.add_argument("--threads", type=int, help="of both sides; runtime.threads if not said")
    parser.add_argument("--batch", nargs="+", default=["1", "8", "32", "auto"], help="hf's batch sizes")
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    runtime = params.runtime()
    runtime = runtime.model_copy(update={"threads": given.threads or runtime.threads})
    from tasks.finetune import environment
    environment.prepare(runtime, environment.SHORT_SPIN)
    import torch
    from lm_eval.models.huggingface import HFLM

    from tasks.evaluate.model import EngineLM

    engine = EngineLM(given.model, window=2047, batch=PROMPTS, threads=runtime.threads)
    config = json.loads((given.model / "config.json").read_text(encoding="utf-8"))

    def hf(batch: str, **more: Any) -> Any:
        return HFLM(str(given.model), dtype="float32", device="cpu", max_length=2047, max_batch_size=64,
                    batch_size=batch if batch == "auto" else int(batch), prefix_token_id=engine.prefix, **more)

    models: dict[str, Any] = {"engine": engine} | {f"hf {batch}": hf(batch) for batch in given.batch}
    result: dict[str, Any] = {"model": given.model.name, "threads": runtime.threads, "torch": torch.__version__,
                              "rounds": given.rounds, "sets": {}}
    tasks = requests(given.folder, given.items)
    for name, asked in tasks.items():
        rows = measured(models, "loglikelihood", instances("loglikelihood", asked), given.rounds)
        table = compared(rows, len(asked))
        others = [row["answers"] for model, row in rows.items() if model != "engine"]
        flags = sum(a != b for side in others for (_, a), (_, b) in zip(rows["engine"]["answers"], side))
        some = slice(0, None, max(1, len(asked) // max(1, given.exact)))
        reference = exact(given.model, engine, asked[some])
        sides = {"engine": rows["engine"]["answers"][some], "hf": others[0][some],
                 "hf_float64_softmax": hf("8", softmax_dtype="float64").loglikelihood(
                     instances("loglikelihood", asked[some]), disable_tqdm=True)}
        result["sets"][name] = {
            "requests": len(asked), "models": table, "greedy_flags_otherwise": flags,
            "multiplications": multiplications(engine, config, asked, 8), "mean_nats_apart": abs(
                statistics.mean(a for a, _ in rows["engine"]["answers"]) - statistics.mean(a for a, _ in others[0])),
            "of_float64_most": {side: max(abs(a - b) for (a, _), b in zip(answers, reference))
                                for side, answers in sides.items()},
            "engine_of_hf_most": {side: max(abs(a - b) for (a, _), (b, _) in zip(sides["engine"], answers))
                                  for side, answers in sides.items() if side != "engine"}}
        show(name, result["sets"][name])
    prompts = [(context or continuation, {"until": ["\n\n"], "max_gen_toks": ANSWER})
               for asked in tasks.values() for context, continuation in asked][::max(1, given.items // 4)][:PROMPTS]
    sides = {name: model for name, model in models.items() if name != "hf auto"}
    rows = measured(sides, "generate_until", instances("generate_until", prompts), max(1, given.rounds // 2))
    encode = engine.tok_encode
    count = sum(len(encode(text)) for text in rows["engine"]["answers"])
    result["generation"] = {
        "prompts": len(prompts), "tokens": count, "models": compared(rows, count),
        "otherwise": {name: sum(a != b for a, b in zip(rows["engine"]["answers"], row["answers"]))
                      for name, row in rows.items() if name != "engine"}}
    show("generation, tokens", result["generation"])
    engine.close()
    print(json.dumps(result))


def show(name: str, found: dict[str, Any]) -> None:
    """A table of one set."""
    for key, value in found.items():
        if key != "models":
            told = value.items() if isinstance(value, dict) else [("", value)]
            print(f"{name}: {key} " + ", ".join(f"{part} {one:.3g}" if isinstance(one, float) else f"{part} {one}"
                                                for part, one in told))
    print(f"{'':10} {'/s':>9} {'/CPU s':>9} {'engine is, wall':>22} {'CPU':>22}")
    for model, row in found["models"].items():
        spans = ["{:.2f} x ({:.2f}-{:.2f})".format(*row[f"ratio_{clock}"]) for clock in ("wall", "cpu")]
        print(f"{model:10} {row['per_second']:9.2f} {row['per_cpu_second']:9.2f} {spans[0]:>22} {spans[1]:>22}",
              flush=True)


if __name__ == "__main__":
    main()
