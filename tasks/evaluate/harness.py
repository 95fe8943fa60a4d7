"""Scores a model directory on the evaluation sets, through lm-eval, and keeps every prompt and answer.

`python -m tasks.evaluate.harness models/scratch/base data/evalsets data/answers/scratch-base.jsonl
metrics/evaluate/scratch-base.json`

Held-out bits per byte, minimal pairs, cloze on held-out facts, key-value recall, tool calls decoded freely and under
the grammar, three-digit arithmetic without tools. Each score stands beside its standard error, its 95 % interval and
what no model at all would get on the same items. The tasks are lm_tasks/*.yaml; items are chosen by the hash of their
id, so a smaller count is a subset of a larger one.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tasks import exercises, params, stage
from tasks.evaluate import baselines, dimensions, statistics
from tasks.evaluate import custom as own
from tasks.evaluate.items import CALLS, NUMBER, read_items, sample
from tasks.finetune import environment
from tasks.serve.engine.directory import read_json
from tasks.stage import Input, Output, StageError

TASKS = Path(__file__).with_name("lm_tasks")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}


class EvaluateParams(params.Section):
    """How much is scored; counts are items of each set, all where there are fewer."""

    window: int = Field(ge=32, le=8192, description="tokens of context; longer texts are scored window by window")
    batch: int = Field(ge=1, le=512, description="answers generated together")
    held_out: int = Field(ge=2, description="documents scored for bits per byte")
    held_out_bytes: int = Field(ge=200, description="UTF-8 of each document, from its beginning")
    pairs: int = Field(ge=2)
    cloze: int = Field(ge=2)
    recall: int = Field(ge=2)
    tools: int = Field(ge=2)
    arithmetic: int = Field(ge=2)
    custom: dict[str, own.CustomSet] = Field(default={}, description="name -> a set of the user's own")

    @field_validator("custom")
    @classmethod
    def named(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Raises ValueError for a name that is taken or no plain word."""
        for name in value:
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in dimensions.BUILT_IN:
                raise ValueError(f"{name!r} cannot name a set: use a-z, 0-9 and _, and none of "
                                 f"{', '.join(dimensions.BUILT_IN)}")
        return value


def evaluate(model: Input, evalsets: Input, answers: Output, metrics: Output, *, evaluate: EvaluateParams,
             runtime: params.Runtime) -> None:
    """Score `model` on `evalsets`; write one line an item to `answers` and the scores to `metrics`.

    Raises StageError where the model or an evaluation set cannot be read, or a set has no items.
    """
    chosen = read_items(evalsets, evaluate.model_dump(), evaluate.held_out_bytes)
    for name, given in evaluate.custom.items():
        items = own.read(name, given)
        chosen[name] = sample(items, given.items or len(items))
    if not (model / "config.json").is_file():
        raise StageError(f"{model} is no model directory: it has no config.json")
    os.environ.update(OFFLINE)
    environment.prepare(runtime, environment.SHORT_SPIN)
    from tasks.evaluate import resume

    started = time.perf_counter()
    config, tokenizer = read_json(model / "config.json"), load_tokenizer(model)
    kept = resume.FOLDER / resume.digest(model, {"window": evaluate.window})
    lm = resume.ResumedLM(opened(model, evaluate, runtime), kept)
    loaded = time.perf_counter()
    samples = run_tasks(lm, {name: rows(name, items, tokenizer) for name, items in chosen.items()},
                        {name: own.task(given) for name, given in evaluate.custom.items()})
    tokens = sum(len(tokenizer.encode(item["text"], add_special_tokens=False)) for item in chosen["held_out"])
    scores = {name: scored(name, samples[name], chosen[name], chosen, (tokens, config["vocab_size"]))
              for name in samples}
    answers.write_text("".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
                               for name in samples for line in told(name, samples[name])), encoding="utf-8")
    stage.write_json(metrics, {"dtype": arithmetic(config), "parameters": parameters(config),
                               "window": min(evaluate.window, config["max_position_embeddings"]),
                               "scores": scores, "dimensions": dimensions.table(samples, dimensions.BUILT_IN | {
                                   name: given.dimension for name, given in evaluate.custom.items()})})
    stage.write_timing(f"evaluate-{model.parent.name}-{model.name}",
                       {"load_seconds": loaded - started, "score_seconds": time.perf_counter() - loaded,
                        "asked": lm.asked, "resumed": lm.known})
    shutil.rmtree(kept, ignore_errors=True)


def opened(model: Path, evaluate: EvaluateParams, runtime: params.Runtime) -> Any:
    """The model as lm-eval asks it: in this process, or shared between `runtime.evaluators`."""
    from tasks.evaluate.model import EngineLM
    from tasks.evaluate.shards import ShardedLM

    make = functools.partial(EngineLM, model, window=evaluate.window, batch=evaluate.batch,
                             threads=max(1, runtime.threads // runtime.evaluators), grammar=call_grammar)
    return make() if runtime.evaluators == 1 else ShardedLM(make, runtime)


def load_tokenizer(model: Path) -> Any:
    """The tokenizer that renders prompts. Raises StageError where the directory has none."""
    from tasks.finetune import checkpoint

    return checkpoint.load_tokenizer(model, read_json(model / "config.json")["vocab_size"])


def arithmetic(config: dict[str, Any]) -> str:
    """In which numbers a directory of this config is computed: as it is served."""
    stated = config.get("quantization_config")
    if stated is None:
        return str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return f"int{stated.get('bits', 8)}"


def parameters(config: dict[str, Any]) -> int:
    """Weights of the Llama that `config` describes, tied ones once, as many as before quantization."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    attention = hidden * dim * 2 * (heads + config["num_key_value_heads"])
    layer = attention + 3 * hidden * config["intermediate_size"] + 2 * hidden
    tables = 1 if config.get("tie_word_embeddings") else 2
    return tables * config["vocab_size"] * hidden + config["num_hidden_layers"] * layer + hidden


def call_grammar(item: dict[str, Any]) -> str:
    """The server's own grammar of a call of one of the tools that an item offers."""
    from tasks.serve.engine.grammar import tool_grammar

    schemas = {name: exercises.TOOLS[name]["function"]["parameters"] for name in item["offered"]}
    return tool_grammar(schemas, required=True, several=False)


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


def run_tasks(lm: Any, tables: dict[str, list[dict[str, Any]]], more: dict[str, dict[str, Any]] | None = None
              ) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples of every task, in the order of the items; `more` defines tasks that no YAML does.

    Raises StageError where an item got no answer."""
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        more, known, own_tasks = more or {}, [], []
        for name, table in tables.items():
            path = Path(folder) / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table), encoding="utf-8")
            spec = {"task": f"catena_{name}", "dataset_kwargs": {"data_files": {"test": str(path)},
                                                                 "cache_dir": folder}}
            (own_tasks if name in more else known).append(spec | more.get(name, {}))
        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        # bootstrap_iters 0: lm-eval's own errors are resampled by worker processes; ours are closed-form
        # members of a group override the registered task; a bare dict is a whole one
        loaded = manager.load(own_tasks + ([{"group": "catena", "task": known}] if known else []))
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
    elif "choices" in items[0]:
        trivial = baselines.choice(items, [item["text"] for item in chosen["held_out"]])
        beside = {metric: trivial for metric in ("acc", "acc_norm") if metric in samples[0]}
    else:
        beside = {"exact_match": baselines.answers(items)}
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


def told(name: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
                     "answer": values.index(max(values)), "scores": values,
                     "right": int(sample["acc"] if "acc" in sample else sample["acc_norm"])}
        else:
            line |= {"prompt": item["prompt"], "answer": sample["filtered_resps"][0], "target": item["target"],
                     "right": int(sample["exact_match"])}
        lines.append(line)
    return lines


if __name__ == "__main__":
    stage.run(evaluate)
