"""Scores a model directory on the evaluation sets, through lm-eval, and keeps every prompt and answer.

`python -m tasks.evaluate.harness models/scratch/base data/evalsets data/corpus data/answers/scratch-base.jsonl
metrics/evaluate/scratch-base.json`

Held-out bits per byte, minimal pairs, safe and hostile pairs, cloze on held-out facts, key-value recall, needles and
traced variables in long texts, tool calls decoded freely and under the grammar, three-digit arithmetic without tools,
small programs. Each score stands beside its standard error (bootstrapped by document where items come from documents),
its 95 % interval, the smallest difference that it could show, and what trivial answers, counting on the training text
`data/corpus` and an untrained model of the same shape get on the same items; and beside it how much of the set the
training text holds (contamination.py). The tasks are
lm_tasks/*.yaml; items are chosen by the hash of their id, so a smaller count is a subset of a larger one.
"""

from __future__ import annotations

import contextlib
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

from pydantic import Field, field_validator, model_validator

from tasks import exercises, params, stage
from tasks.evaluate import baselines, contamination, dimensions, long_text, named, programs, statistics
from tasks.evaluate import custom as own
from tasks.evaluate.items import CALLS, NUMBER, read_items, sample
from tasks.evaluate.long_text import LongTextParams
from tasks.finetune import environment
from tasks.serve.engine.directory import read_json
from tasks.stage import Input, Output, StageError

LEARNED = ("language", "safety")   # dimensions whose scores stand beside n-grams and an untrained model
MADE = ("recall", *long_text.TASKS, *CALLS, *NUMBER)
TASKS = Path(__file__).with_name("lm_tasks")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
HUB = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")     # not where a task may need a hub


class EvaluateParams(params.Section):
    """How much is scored; counts are items of each set, all where there are fewer."""

    window: int = Field(ge=32, le=8192, description="tokens of context; longer texts are scored window by window")
    batch: int = Field(ge=1, le=512, description="answers generated together")
    held_out: int = Field(ge=2, description="documents scored for bits per byte")
    held_out_bytes: int = Field(ge=200, description="UTF-8 of each document, from its beginning")
    pairs: int = Field(ge=2)
    safety: int = Field(ge=2)
    cloze: int = Field(ge=2)
    recall: int = Field(ge=2)
    tools: int = Field(ge=2)
    arithmetic: int = Field(ge=2)
    long_text: LongTextParams | None = Field(default=None, description="null: no long texts are asked")
    code: programs.CodeParams | None = Field(default=None, description="null: no program is asked for")
    custom: dict[str, own.CustomSet] = Field(default={}, description="name -> a set of the user's own")
    tasks: dict[str, named.NamedTask] = Field(default={}, description="name -> a task of lm-eval, or one's own YAML")

    @field_validator("custom")
    @classmethod
    def plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Raises ValueError for a name that is taken or no plain word."""
        for name in value:
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in dimensions.BUILT_IN:
                raise ValueError(f"{name!r} cannot name a set: use a-z, 0-9 and _, and none of "
                                 f"{', '.join(dimensions.BUILT_IN)}")
        return value

    @model_validator(mode="after")
    def enough(self) -> EvaluateParams:
        """Raises ValueError for a pass@k of more samples than are written."""
        asked = {f"custom.{name}.metric": given.k for name, given in self.custom.items() if given.k}
        for key, k in (asked | ({"code.k": max(self.code.k)} if self.code else {})).items():
            if self.code is None or k > self.code.samples:
                raise ValueError(f"{key}: pass@{k} needs code.samples of {k} at least")
        return self


def evaluate(model: Input, evalsets: Input, corpus: Input, answers: Output, metrics: Output, *,
             evaluate: EvaluateParams, runtime: params.Runtime) -> None:
    """Score `model` on `evalsets`; write one line an item to `answers` and the scores to `metrics`. `corpus`: the
    training text, shards of documents.

    Raises StageError where the model, an evaluation set or the corpus cannot be read, or a set has no items.
    """
    chosen = read_items(evalsets, evaluate.model_dump(), evaluate.held_out_bytes)
    for name, given in evaluate.custom.items():
        items = own.read(name, given)
        chosen[name] = sample(items, given.items or len(items))
    if not (model / "config.json").is_file():
        raise StageError(f"{model} is no model directory: it has no config.json")
    os.environ.update({key: value for key, value in OFFLINE.items() if not (evaluate.tasks and key in HUB)})
    environment.prepare(runtime, environment.SHORT_SPIN)
    with contextlib.ExitStack() as stack:
        asked = code(chosen, evaluate, stack)
        score(model, evalsets, corpus, chosen, asked, answers, metrics, evaluate, runtime)


def code(chosen: dict[str, list[dict[str, Any]]], evaluate: EvaluateParams, stack: contextlib.ExitStack
         ) -> dict[str, programs.Asked]:
    """name -> how each code set is asked and judged; puts their items into `chosen`. Raises StageError where a sandbox
    is missing."""
    if evaluate.code is None:
        return {}
    given = evaluate.code
    inside = stack.enter_context(programs.Execution(whole=False))
    asked = {"code": programs.Asked(given.k, given.tokens, programs.STOPS, inside)}
    chosen["code"] = sample(programs.built_in(), given.problems)
    mine = {name: one for name, one in evaluate.custom.items() if one.k}
    shut = stack.enter_context(programs.Execution(whole=True)) if mine else None
    asked |= {name: programs.Asked([one.k], one.template.tokens, one.until(programs.STOPS), shut)
              for name, one in mine.items()}
    for name in asked:
        chosen[name] = programs.repeated(chosen[name], given.samples, given.seed)
    return asked


def score(model: Path, evalsets: Path, corpus: Path, chosen: dict[str, list[dict[str, Any]]],
          asked: dict[str, programs.Asked], answers: Path, metrics: Path, evaluate: EvaluateParams,
          runtime: params.Runtime) -> None:
    """What evaluate does once all that does not depend on the model is known."""
    from tasks.evaluate import fitting, resume

    started = time.perf_counter()
    config, tokenizer = read_json(model / "config.json"), load_tokenizer(model)
    encode, context = functools.partial(tokenizer.encode, add_special_tokens=False), config["max_position_embeddings"]
    left: dict[str, dict[str, int]] = {}
    if evaluate.long_text is not None:
        texts, left = long_text.items(evalsets / "held_out.jsonl", encode, context, evaluate.long_text)
        chosen |= texts
    kept = resume.FOLDER / resume.digest(model, {"window": evaluate.window, "longest": context})
    lm = resume.ResumedLM(opened(model, evaluate, runtime, context), kept)
    loaded = time.perf_counter()
    samples = run_tasks(lm, {name: rows(name, items, tokenizer) for name, items in chosen.items()},
                        {name: own.task(given) for name, given in evaluate.custom.items() if name not in asked}
                        | {name: programs.task(one, evaluate.code.temperature) for name, one in asked.items()})
    cut = {name: count for name, found in samples.items() if (count := fitting.mark(found, encode, context))}
    tokens = sum(len(encode(item["text"])) for item in chosen["held_out"])
    known = dimensions.BUILT_IN | {name: given.dimension for name, given in evaluate.custom.items()}
    passed = {name: programs.scored(samples[name], one) for name, one in asked.items()}
    lines = {name: told(name, samples[name]) for name in samples}
    more = named.run(lm, evaluate.tasks, known)
    lines |= {name: named.told(name, of) for name, of in more.items()}
    texts = chosen | {name: named.items(lines[name]) for name in more}
    read = surprise(lm, {name: texts[name] for name in lines}, lines, corpus, evaluate.held_out_bytes)
    counted = learned(model, corpus, chosen, [name for name in chosen if known[name] in LEARNED], tokenizer,
                      lambda directory: opened(directory, evaluate, runtime, context), evaluate)
    scores = {name: passed.get(name) or scored(name, samples[name], chosen[name], chosen,
                                               (tokens, config["vocab_size"]), counted.get(name)) for name in samples}
    scores |= {name: named.scored(name, of) for name, of in more.items()}
    answers.write_text("".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
                               for of in lines.values() for line in of), encoding="utf-8")
    stage.write_json(metrics, {"dtype": arithmetic(config), "parameters": parameters(config),
                               "window": min(evaluate.window, context), "context": context, "cut": cut,
                               "long_text": {"cells": {name: long_text.grid(samples[name]) for name in long_text.TASKS
                                                       if name in samples}, "left_out": left},
                               "scores": scores, "dimensions": dimensions.table(samples | more, known),
                               "contamination": contamination.table(lines, read)})
    stage.write_timing(f"evaluate-{model.parent.name}-{model.name}",
                       {"load_seconds": loaded - started, "score_seconds": time.perf_counter() - loaded,
                        "asked": lm.asked, "resumed": lm.known})
    shutil.rmtree(kept, ignore_errors=True)


def opened(model: Path, evaluate: EvaluateParams, runtime: params.Runtime, context: int) -> Any:
    """The model, which reads `context` tokens, as lm-eval asks it: in this process, or shared between
    `runtime.evaluators`."""
    from tasks.evaluate.model import EngineLM
    from tasks.evaluate.shards import ShardedLM

    make = functools.partial(EngineLM, model, window=evaluate.window, longest=context, batch=evaluate.batch,
                             threads=max(1, runtime.threads // runtime.evaluators), grammar=call_grammar)
    return make() if runtime.evaluators == 1 else ShardedLM(make, runtime)


def surprise(lm: Any, chosen: dict[str, list[dict[str, Any]]], lines: dict[str, list[dict[str, Any]]], corpus: Path,
             size: int) -> list[float]:
    """Put `overlap` with the training text and `min_k` of the model (contamination.py) into the answers `lines`; the
    min-k of as many training texts as there are held-out ones, of `size` bytes."""
    from lm_eval.api.instance import Instance

    asked = {name: [contamination.asked(item) for item in items] for name, items in chosen.items()}
    different = sorted({text for texts in asked.values() for text in texts})
    trained = contamination.members(corpus, len(chosen["held_out"]), size)
    shares = dict(zip(different, contamination.overlaps(different, corpus)))
    # what is made from a seed is in no text: its words are looked for, its surprise is not
    texts = sorted({*trained, *(text for name, of in asked.items() if name not in MADE for text in of)})
    values = lm.ask("token_logprobs", [Instance("token_logprobs", {}, (text,), at) for at, text in enumerate(texts)])
    least = dict.fromkeys(different) | {text: contamination.min_k(found) for text, found in zip(texts, values)}
    for name, of in lines.items():
        for line, text in zip(of, asked[name], strict=True):
            line |= {"overlap": None if shares[text] is None else round(shares[text], 4),
                     "min_k": None if least[text] is None else round(least[text], 4)}
    return [least[text] for text in trained if least[text] is not None]


def learned(model: Path, corpus: Path, chosen: dict[str, list[dict[str, Any]]], names: list[str], tokenizer: Any,
            make: Any, evaluate: EvaluateParams) -> dict[str, dict[str, dict[str, float]]]:
    """task -> metric -> what n-grams of the training text and an untrained model of the same shape get, for those of
    `names` that are held-out text or choices."""
    from tasks.evaluate import custom, ngram, resume, untrained

    tables = {name: chosen[name] for name in names if "choices" in chosen[name][0] or name == "held_out"}
    counted = ngram.Counted(corpus, tokenizer, read_json(model / "config.json")["vocab_size"], tokenizer.bos_token_id)
    with untrained.folder() as folder:
        described = untrained.describe(model, Path(folder))
        kept = untrained.FOLDER / resume.digest(described, {"window": evaluate.window, "seed": untrained.SEED})
        samples = run_tasks(resume.ResumedLM(untrained.Untrained(described, make), kept), tables,
                            {name: custom.task(given) for name, given in evaluate.custom.items() if name in tables})
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, items in tables.items():
        if name == "held_out":
            nats, sizes = zip(*(sample["bits_per_byte"] for sample in samples[name]))
            blank = {"bits_per_byte": -sum(nats) / math.log(2) / sum(sizes)}
            found[name] = {"bits_per_byte": counted.held_out(items)}
        else:
            blank = {metric: sum(sample[metric] for sample in samples[name]) / len(items)
                     for metric in ("acc", "acc_norm") if metric in samples[name][0]}
            found[name] = {metric: counted.choice(items, metric == "acc_norm") for metric in blank}
        for metric, value in blank.items():
            found[name][metric]["untrained"] = value
    return found


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
           chosen: dict[str, list[dict[str, Any]]], size: tuple[int, int],
           more: dict[str, dict[str, float]] | None = None) -> dict[str, Any]:
    """metric -> estimate, baselines (`more`: further ones of each metric), standard errors above the best baseline and
    the smallest difference that could be shown, for one task."""
    more = more or {}
    if name == "held_out":
        bits = [-sample["bits_per_byte"][0] / math.log(2) for sample in samples]
        estimate = statistics.ratio(bits, [sample["bits_per_byte"][1] for sample in samples])
        beside = baselines.held_out(items, *size) | more.get("bits_per_byte", {})
        return {"bits_per_byte": estimate.as_dict() | {
            "baselines": rounded(beside), "clusters": len(items),
            "detectable": round(statistics.detectable(math.sqrt(2) * estimate.stderr), 6)}}
    if name in CALLS:
        beside = baselines.tool_calls(items)
    elif "choices" in items[0]:
        trivial = baselines.choice(items, [item["text"] for item in chosen["held_out"]])
        beside = {metric: trivial for metric in ("acc", "acc_norm") if metric in samples[0]}
    else:
        beside = {"exact_match": baselines.answers(items)}
    sources = [item.get("document") or item["id"] for item in items]
    result = {}
    for metric, trivial in beside.items():
        estimate = statistics.clustered([int(sample[metric]) for sample in samples], sources)
        trivial = trivial | more.get(metric, {})
        result[metric] = estimate.as_dict() | {
            "baselines": rounded(trivial), "clusters": len(set(sources)),
            "errors_above_baseline": round(statistics.errors_above(estimate, max(trivial.values())), 3),
            "detectable": round(statistics.detectable_by(estimate), 6)}
    return result


def rounded(values: dict[str, float]) -> dict[str, float]:
    """`values` to six places: what is stable to print."""
    return {name: round(value, 6) for name, value in values.items()}


def told(name: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line an item: what was asked, what the model answered and what would have been right."""
    lines = []
    for asked in samples:
        item, line = asked["doc"], {"task": name, "id": asked["doc"]["id"]}
        line |= {key: item[key] for key in ("document", "language") if item.get(key)}
        line |= {key: item[key] for key in ("length", "place") if key in item}
        line |= {key: asked[key] for key in ("cut", "reason") if asked.get(key)}
        if name == "held_out":
            nats, size = asked["bits_per_byte"]
            line |= {"prompt": item["text"], "answer": round(nats, 4), "bytes": size}
        elif "choices" in item:
            values = [round(response[0], 4) for response in asked["filtered_resps"]]
            line |= {"prompt": item["prompt"], "choices": item["choices"], "target": item["gold"],
                     "answer": values.index(max(values)), "scores": values,
                     "right": int(asked["acc"] if "acc" in asked else asked["acc_norm"])}
        else:
            line |= {"prompt": item["prompt"], "answer": asked["filtered_resps"][0], "target": item["target"],
                     "right": int(asked.get("passed", asked.get("exact_match")))}
        lines.append(line)
    return lines


if __name__ == "__main__":
    stage.run(evaluate)
