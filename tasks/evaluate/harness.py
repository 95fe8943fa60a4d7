"""Scores a model directory on the evaluation sets, through lm-eval, and keeps every prompt and answer.

`python -m tasks.evaluate.harness models/scratch/base data/evalsets data/answers/scratch-base.jsonl
metrics/evaluate/scratch-base.json`

Held-out bits per byte, minimal pairs, cloze on held-out facts, key-value recall, tool calls decoded freely and under
the grammar, three-digit arithmetic without tools. Each score stands beside its standard error, its 95 % interval and
what no model at all would get on the same items. The tasks are lm_tasks/*.yaml; items are chosen by the hash of their
id, so a smaller count is a subset of a larger one.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks import exercises, params, stage
from tasks.evaluate import baselines, statistics
from tasks.evaluate.items import CALLS, NUMBER, read_items
from tasks.finetune import environment
from tasks.stage import Input, Output, StageError

TASKS = Path(__file__).with_name("lm_tasks")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}


class EvaluateParams(params.Section):
    """How much is scored and in which arithmetic; counts are items of each set, all where there are fewer."""

    dtype: str = Field(pattern="^(float32|bfloat16)$", description="arithmetic of every model alike")
    window: int = Field(ge=32, le=8192, description="tokens of context; longer texts are scored window by window")
    batch: int = Field(ge=1, le=512, description="answers generated together")
    held_out: int = Field(ge=2, description="documents scored for bits per byte")
    held_out_bytes: int = Field(ge=200, description="UTF-8 of each document, from its beginning")
    pairs: int = Field(ge=2)
    cloze: int = Field(ge=2)
    recall: int = Field(ge=2)
    tools: int = Field(ge=2)
    arithmetic: int = Field(ge=2)


def evaluate(model: Input, evalsets: Input, answers: Output, metrics: Output, *, evaluate: EvaluateParams, seed: int,
             runtime: params.Runtime) -> None:
    """Score `model` on `evalsets`; write one line an item to `answers` and the scores to `metrics`.

    Raises StageError where the model or an evaluation set cannot be read, or a set has no items.
    """
    chosen = read_items(evalsets, evaluate.model_dump(), evaluate.held_out_bytes)
    if not (model / "config.json").is_file():
        raise StageError(f"{model} is no model directory: it has no config.json")
    os.environ.update(OFFLINE)
    environment.prepare(runtime, environment.SHORT_SPIN)
    import torch

    torch.manual_seed(seed)
    from tasks.evaluate.model import PackedLM, load

    started = time.perf_counter()
    llama, tokenizer = load(model, getattr(torch, evaluate.dtype))
    lm = PackedLM(llama, tokenizer, window=evaluate.window, batch=evaluate.batch,
                  grammar=call_grammar(model, llama.config.vocab_size))
    loaded = time.perf_counter()
    samples = run_tasks(lm, {name: rows(name, items, tokenizer) for name, items in chosen.items()})
    tokens = sum(len(lm.encode(item["text"])) for item in chosen["held_out"])
    scores = {name: scored(name, samples[name], chosen[name], chosen, (tokens, llama.config.vocab_size))
              for name in samples}
    answers.write_text("".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
                               for name in samples for line in kept(name, samples[name])), encoding="utf-8")
    parameters = sum(weight.numel() for weight in llama.parameters())
    stage.write_json(metrics, {"dtype": evaluate.dtype, "parameters": parameters, "window": lm.window,
                               "scores": scores})
    stage.write_timing(f"evaluate-{model.parent.name}-{model.name}",
                       {"load_seconds": loaded - started, "score_seconds": time.perf_counter() - loaded})


def call_grammar(model: Path, vocabulary: int) -> Any:
    """item -> matcher of a call of one of the tools it offers, in the server's own grammar."""
    from tasks.serve.engine.grammar import Grammars, tool_grammar
    from tasks.serve.engine.text import Vocabulary

    words = Vocabulary(model)
    grammars = Grammars(words, vocabulary, frozenset(words.special))

    def grammar(item: dict[str, Any]) -> Any:
        schemas = {name: exercises.TOOLS[name]["function"]["parameters"] for name in item["offered"]}
        return grammars.matcher(tool_grammar(schemas, required=True, several=False))

    return grammar


def rows(name: str, items: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """The items as lm-eval reads them: plain strings and numbers only, chat prompts rendered by the model's template.

    Nested values are JSON text: the dataset reader would fill every key of one item into all others.
    """
    if name in CALLS + NUMBER:
        shown = [exercises.schemas(item["offered"]) if name in CALLS else None for item in items]
        return [item | {"prompt": tokenizer.apply_chat_template([{"role": "user", "content": item["question"]}],
                                                                tools=tools, tokenize=False,
                                                                add_generation_prompt=True)}
                for item, tools in zip(items, shown)]
    return items


def run_tasks(lm: Any, tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples of every task, in the order of the items. Raises StageError where an item got no answer."""
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        specs = []
        for name, table in tables.items():
            path = Path(folder) / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table), encoding="utf-8")
            specs.append({"task": f"catena_{name}", "dataset_kwargs": {
                "data_files": {"test": str(path)}, "cache_dir": folder}})
        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        # bootstrap_iters 0: lm-eval's own errors are resampled by worker processes; ours are closed-form
        # members of a group override the registered task; a bare dict would replace it
        loaded = manager.load({"group": "catena", "task": specs})
        result = lm_evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
    samples = {}
    for name, table in tables.items():
        samples[name] = sorted(result["samples"][f"catena_{name}"], key=lambda sample: sample["doc_id"])
        if len(samples[name]) != len(table):
            raise StageError(f"{name}: {len(table)} items went in, {len(samples[name])} answers came out")
    return samples


def scored(name: str, samples: list[dict[str, Any]], items: list[dict[str, Any]],
           chosen: dict[str, list[dict[str, Any]]], size: tuple[int, int]) -> dict[str, Any]:
    """metric -> estimate, baselines, and standard errors above the best baseline, for one task."""
    if name == "held_out":
        bits = [-sample["bits_per_byte"][0] / math.log(2) for sample in samples]
        estimate = statistics.ratio(bits, [sample["bits_per_byte"][1] for sample in samples])
        return {"bits_per_byte": estimate.as_dict() | {"baselines": rounded(baselines.held_out(items, *size))}}
    if name in CALLS:
        beside = baselines.tool_calls(items)
    elif name in NUMBER:
        beside = {"exact_match": baselines.answers(items)}
    else:
        beside = {"acc": baselines.choice(items, [item["text"] for item in chosen["held_out"]])}
    result = {}
    for metric, trivial in beside.items():
        estimate = statistics.proportion([int(sample[metric]) for sample in samples])
        best = max(trivial.values())
        result[metric] = estimate.as_dict() | {
            "baselines": rounded(trivial), "errors_above_baseline": round(statistics.errors_above(estimate, best), 3)}
    return result


def rounded(values: dict[str, float]) -> dict[str, float]:
    """`values` to six places: what is stable to print."""
    return {name: round(value, 6) for name, value in values.items()}


def kept(name: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line an item: what was asked, what the model answered and what would have been right."""
    lines = []
    for sample in samples:
        item, line = sample["doc"], {"task": name, "id": sample["doc"]["id"]}
        if name == "held_out":
            nats, size = sample["bits_per_byte"]
            line |= {"prompt": item["text"], "answer": round(nats, 4), "bytes": size}
        elif "choices" in item:
            values = [round(response[0], 4) for response in sample["filtered_resps"]]
            line |= {"prompt": item["prompt"], "choices": item["choices"], "target": item["gold"],
                     "answer": values.index(max(values)), "scores": values, "right": int(sample["acc"])}
        else:
            line |= {"prompt": item["prompt"], "answer": sample["filtered_resps"][0], "target": item["target"],
                     "right": int(sample["exact_match"])}
        lines.append(line)
    return lines


if __name__ == "__main__":
    stage.run(evaluate)
