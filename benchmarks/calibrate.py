"""Does the harness tell the truth? What must come out is known beforehand, and it is asked of real models and items.

    python -m benchmarks.calibrate models/scratch/chat data/evalsets data/corpus

An oracle scores all and shuffled labels fall to chance (exact permutation expectation, with its spread); a uniform
model gives its logarithm; planted items are flagged by their words in the training text, and a model tuned on some of
them is surprised less by these than by the others (min-k %). Prints a table; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tasks import chat, params, stage
from tasks.data import documents
from tasks.evaluate import contamination, harness, items, statistics
from tasks.finetune import environment

COUNTS = {"held_out": 8, "pairs": 64, "safety": 48, "cloze": 24, "recall": 24, "tools": 48, "arithmetic": 16}
SHUFFLES, PLANTED, STEPS = 200, 16, 60


class Oracle(LM):
    """Knows the right answer of every item; every token of a whole text is to it as likely as any of `vocabulary`."""

    def __init__(self, vocabulary: int, encode: Any) -> None:
        super().__init__()
        self.nats, self.encode = math.log(vocabulary), encode

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [(0.0 if request.args[1] == request.doc["choices"][request.doc["gold"]] else -1.0, True)
                for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [-self.nats * len(self.encode(request.args[0])) for request in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return [chat.call_text(request.doc["tool"], json.loads(request.doc["arguments"]))
                if "tool" in request.doc else request.doc["target"] for request in requests]


def shuffled(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy where every item is judged by another's right place, over SHUFFLES seeded permutations: mean, its error,
    and what is expected of places drawn that way (the shares of answers and of right places, multiplied)."""
    said = [max(range(len(s["filtered_resps"])), key=lambda at, s=s: s["filtered_resps"][at][0]) for s in samples]
    gold, draw, rates = [sample["doc"]["gold"] for sample in samples], random.Random(0), []
    for _ in range(SHUFFLES):
        draw.shuffle(gold)
        rates.append(sum(a == b for a, b in zip(said, gold)) / len(gold))
    mean = sum(rates) / SHUFFLES
    error = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (SHUFFLES - 1) / SHUFFLES)
    return {"value": round(mean, 4), "stderr": round(error, 4), "expected": round(
        sum(said.count(place) * gold.count(place) for place in set(gold)) / len(gold) ** 2, 4)}


def planted(model: Path, corpus: Path, texts: list[str], threads: int) -> dict[str, Any]:
    """Half of `texts` put into a copy of the training text and taught to a copy of the model: who is flagged?"""
    import torch

    from tasks.evaluate.model import EngineLM
    from tasks.finetune import checkpoint

    inside, outside = texts[::2], texts[1::2]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "corpus").mkdir()
        first = next(iter(documents.shards(corpus)))
        lines = first.read_text(encoding="utf-8").splitlines()
        for number, text in enumerate(inside):      # within a document, not at its end
            document = json.loads(lines[number % len(lines)])
            half = len(document["text"]) // 2
            document["text"] = f"{document['text'][:half]}\n{text}\n{document['text'][half:]}"
            lines[number % len(lines)] = json.dumps(document, ensure_ascii=False)
        (folder / "corpus" / first.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        shares = contamination.overlaps(inside + outside, folder / "corpus")
        made, words = checkpoint.load_model(model), checkpoint.load_tokenizer(model)
        optimizer = torch.optim.AdamW(made.train().parameters(), 3e-4)
        for step in range(STEPS):
            ids = torch.tensor([[words.bos_token_id, *words(inside[step % len(inside)])["input_ids"]]])
            made(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        checkpoint.save(made.eval(), words, folder / "tuned")
        areas = {}
        for name, directory in (("before", model), ("after", folder / "tuned")):
            lm = EngineLM(directory, window=256, batch=1, threads=threads)
            values = lm.token_logprobs([Instance("token_logprobs", {}, (text,), at)
                                        for at, text in enumerate(inside + outside)])
            lm.close()
            least = [contamination.min_k(found) for found in values]
            sides = (least[:len(inside)], least[len(inside):])
            areas[name] = statistics.area(*([one for one in side if one is not None] for side in sides)).as_dict(4)
    dirty = [share is not None and share >= contamination.DIRTY for share in shares]
    return {"planted": len(inside), "planted_flagged": sum(dirty[:len(inside)]), "others": len(outside),
            "others_flagged": sum(dirty[len(inside):]), "min_k_area": areas, "steps": STEPS}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a full-precision model directory")
    parser.add_argument("evalsets", type=Path)
    parser.add_argument("corpus", type=Path, help="the training text, a folder of shards")
    given = parser.parse_args()
    runtime = params.runtime()
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.evaluate.model import EngineLM

    chosen = items.read_items(given.evalsets, COUNTS, 1000)
    tokenizer = harness.load_tokenizer(given.model)
    tables = {name: harness.rows(name, of, tokenizer) for name, of in chosen.items()}
    vocabulary = len(tokenizer)
    oracle = harness.run_tasks(Oracle(vocabulary, lambda text: tokenizer.encode(text, add_special_tokens=False)),
                               tables)
    tokens = sum(len(tokenizer.encode(item["text"], add_special_tokens=False)) for item in chosen["held_out"])
    told = {name: harness.scored(name, oracle[name], chosen[name], chosen, (tokens, vocabulary)) for name in oracle}
    choices = {name: table for name, table in tables.items() if "choices" in table[0]}
    lm = EngineLM(given.model, window=256, batch=1, threads=runtime.threads, grammar=harness.call_grammar)
    real = harness.run_tasks(lm, choices)
    lm.close()
    found = {"model": str(given.model), "oracle": {
        name: {metric: score["value"] for metric, score in of.items()} for name, of in told.items()},
        "uniform": told["held_out"]["bits_per_byte"]["baselines"]["uniform"],
        "shuffled": {name: shuffled(real[name]) for name in choices},
        "real": {name: round(sum(s["acc"] for s in real[name]) / len(real[name]), 4) for name in choices}}
    texts = [item["choices"][item["gold"]] for item in chosen["pairs"]]
    long = [text for text in texts if contamination.run_of(contamination.words.normal_words(text))]
    found["planted"] = planted(given.model, given.corpus, long[:2 * PLANTED], runtime.threads)
    print(f"{'set':<16}{'oracle':>8}{'model':>8}{'shuffled labels':>20}{'expected':>10}")
    for name, of in found["oracle"].items():
        row = found["shuffled"].get(name)
        print(f"{name:<16}{list(of.values())[-1]:>8.3f}" + (f"{found['real'][name]:>8.3f}{row['value']:>12.3f} ± "
              f"{row['stderr']:.3f}{row['expected']:>10.3f}" if row else ""))
    one = found["planted"]
    print(f"uniform model: {found['oracle']['held_out']['bits_per_byte']:.4f} bits per byte, {found['uniform']:.4f} "
          "expected")
    print(f"planted items flagged: {one['planted_flagged']} of {one['planted']}; others: {one['others_flagged']} of "
          f"{one['others']}; min-k area before {one['min_k_area']['before']['value']:.3f}, after "
          f"{one['steps']} steps on them {one['min_k_area']['after']['value']:.3f}")
    print(json.dumps(found, sort_keys=True))


if __name__ == "__main__":
    try:
        main()
    except (stage.StageError, params.ParamsError) as error:
        raise SystemExit(f"error: {error}") from None
