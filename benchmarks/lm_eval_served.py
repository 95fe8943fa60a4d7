"""Claim: lm-eval gives a served model the scores that it gives the same weights through transformers.

    python -m benchmarks.lm_eval_served MODEL DATA.jsonl [--items 200] [--dtype float32] [--kv fp32]

lm-eval's `local-completions` over the server against its `hf` backend, on the choices of a multiple-choice file (rows
with `prompt` or `goal`, `choices` or `sol1`/`sol2`) or pairs of sentences (`sentence_good`/`sentence_bad`). The last
line is one JSON document: accuracies, the largest difference of a choice's log-likelihood in nats, how many items
chose otherwise, and how many choices are greedy on one side alone. Keys and values are kept in fp32 here, as
transformers keeps them; its softmax is asked for in float64 (in float32 it is off by up to 5e-4 nats a choice). The
exit code is 1 where a choice is 1e-3 nats apart or a greedy flag differs, with the default dtype and kv.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tasks import params
from tasks.serve import client


LIMIT = 1e-3


def rows(path: Path, count: int) -> list[dict[str, Any]]:
    """(prompt, choices) of the first `count` items."""
    out = []
    for line in path.read_text(encoding="utf-8").splitlines()[:count]:
        item = json.loads(line)
        choices = item.get("choices") or [item[key] for key in item if key in ("sol1", "sol2", "sentence_good",
                                                                               "sentence_bad")]
        out.append({"question": item.get("prompt") or item.get("goal") or "", "choices": choices,
                    "answer": int(item.get("answer") or item.get("label") or 0)})
    return out


def scores(items: list[dict[str, Any]], model: str, arguments: dict[str, Any]) -> list[list[tuple[float, bool]]]:
    """lm-eval's log-likelihood of every choice of every item, and whether it is what greedy decoding writes."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "items.jsonl"
        table.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
        task = {"task": "served", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
                "dataset_kwargs": {"data_files": {"test": str(table)}, "cache_dir": folder},
                "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": "answer",
                "target_delimiter": " ", "metric_list": [{"metric": "acc"}]}
        found = simple_evaluate(model=model, model_args=arguments, tasks=[task], bootstrap_iters=0, log_samples=True,
                                task_manager=TaskManager(include_defaults=False), batch_size=8)["samples"]["served"]
    return [[(float(value), str(greedy) == "True") for (value, greedy), in sample["resps"]] for sample in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--dtype", default="float32", help="of transformers' side")
    parser.add_argument("--kv", default="fp32", help="how the server keeps keys and values")
    given = parser.parse_args()
    items, threads = rows(given.data, given.items), params.runtime().threads
    with client.running(given.model, threads=threads, kv=given.kv) as url:
        served = scores(items, "local-completions", {
            "model": "default", "base_url": f"{url}/completions", "tokenizer": str(given.model),
            "tokenizer_backend": "huggingface", "max_length": 2047, "num_concurrent": 4})
    direct = scores(items, "hf", {"pretrained": str(given.model), "dtype": given.dtype, "device": "cpu",
                                  "softmax_dtype": "float64"})
    flags = sum(a != b for ours, theirs in zip(served, direct) for (_, a), (_, b) in zip(ours, theirs))
    served, direct = ([[value for value, _ in choices] for choices in side] for side in (served, direct))
    chosen = [[max(range(len(choices)), key=choices.__getitem__) for choices in side] for side in (served, direct)]
    accuracy = [sum(choice == item["answer"] for choice, item in zip(side, items)) / len(items) for side in chosen]
    most = max(abs(a - b) for ours, theirs in zip(served, direct) for a, b in zip(ours, theirs))
    print(f"{len(items)} items: served {accuracy[0]:.4f}, hf {accuracy[1]:.4f}; at most {most:.6f} nats a choice apart, "
          f"{flags} greedy flags differ")
    print(json.dumps({"model": str(given.model), "data": given.data.name, "items": len(items), "served": accuracy[0],
                      "hf": accuracy[1], "most_nats": most,
                      "greedy_flags_otherwise": flags, "chose_otherwise": sum(a != b for a, b in zip(*chosen))}))
    if given.dtype == "float32" and given.kv == "fp32" and (most > LIMIT or flags):
        sys.exit(1)


if __name__ == "__main__":
    main()
