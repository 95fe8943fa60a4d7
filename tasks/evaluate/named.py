"""lm-eval's tasks by their names, under `evaluate.tasks` in params.yaml:

    hellaswag: {dimension: reasoning, items: 200}
    my_task: {dimension: knowledge}

A name is looked for in the YAML files of evalsets/ first (one's own tasks, data beside them), then among the tasks that
lm-eval brings, whose data come from a hub: these need one within reach, or its cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tasks import params
from tasks.evaluate import custom, statistics
from tasks.stage import StageError

NAME = re.compile(r"(?m)^(?:task|group|tag):\s*[\"']?([\w.-]+)")


class NamedTask(params.Section):
    """One entry of evaluate.tasks."""

    dimension: custom.Dimension
    items: int | None = Field(default=None, ge=2, description="how many, by the hash of their place; null: all")


def run(lm: Any, given: Mapping[str, NamedTask], known: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """task -> lm-eval's samples, in the order of the items; a group gives each of its tasks, whose dimension goes into
    `known` (task -> dimension). Raises StageError naming the task that is not known, cannot be loaded, or has the name
    of one in `known`."""
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.tasks import TaskManager

    if not given:
        return {}
    local = {name for path in custom.FOLDER.glob("*.yaml") for name in NAME.findall(path.read_text(encoding="utf-8"))}
    manager = TaskManager(include_path=str(custom.FOLDER), include_defaults=not given.keys() <= local)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, one in given.items():
        if name not in manager.all_tasks:
            raise StageError(f"evaluate.tasks.{name}: no such task in {custom.FOLDER}/*.yaml, nor in lm-eval "
                             "(python -m lm_eval ls tasks lists those)")
        try:
            loaded = manager.load([name])
            places = {task: chosen(task, len(list(made.eval_docs)), one.items)
                      for task, made in loaded["tasks"].items()}
            result = lm_evaluate(lm, loaded, samples=places, bootstrap_iters=0, log_samples=True)
        except Exception as error:      # what a task's own code and a hub's client raise is anything
            said = f"{type(error).__name__}: {custom.stated(error)}"
            raise StageError(f"evaluate.tasks.{name} cannot be asked ({said}): is its data here, or a hub within reach?"
                             ) from None
        for task, samples in result["samples"].items():
            if task in known:
                raise StageError(f"evaluate.tasks.{name}: {task} is the name of another set; give the task another")
            known[task] = one.dimension
            found[task] = sorted(samples, key=lambda sample: (sample["doc_id"], str(sample.get("filter"))))
    return found


def chosen(task: str, count: int, items: int | None) -> list[int]:
    """Places of `items` of `count` documents (all where None), by the hash of the task and the place, in order."""
    places = sorted(range(count), key=lambda at: hashlib.sha256(f"{task} {at}".encode()).digest())
    return sorted(places[:items])


def scored(task: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """metric -> estimate and the smallest difference that could be shown, of every metric that is right or wrong; one
    of several filters is named with it. Raises StageError where there is none."""
    found: dict[str, Any] = {}
    filters = {sample.get("filter") for sample in samples}
    for wanted in sorted(map(str, filters)):
        of = [sample for sample in samples if str(sample.get("filter")) == wanted]
        for metric in of[0].get("metrics", ()):
            values = [sample[metric] for sample in of if metric in sample]
            if len(values) == len(of) and all(isinstance(value, (int, float)) and value in (0, 1) for value in values):
                estimate = statistics.proportion([int(value) for value in values])
                guessed = [1 / len(sample["arguments"]) for sample in of]
                several = metric.startswith("acc") and max(guessed) < 1
                beside = {"chance": round(sum(guessed) / len(guessed), 6)} if several else {"no_answer": 0.0}
                found[metric if len(filters) == 1 else f"{metric} {wanted}"] = estimate.as_dict() | {
                    "baselines": beside, "detectable": round(statistics.detectable_by(estimate), 6),
                    "errors_above_baseline": round(statistics.errors_above(estimate, max(beside.values())), 3)}
    if not found:
        raise StageError(f"evaluate.tasks: {task} has no metric that is right or wrong for each item, which is what is "
                         "scored here")
    return found


def told(task: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line an item: what was asked, what the model answered, and whether it was right by the first metric."""
    lines, first = [], str(samples[0].get("filter"))
    for sample in samples:
        if str(sample.get("filter")) != first:
            continue
        asked = [list(one) if isinstance(one, (list, tuple)) else list(one.values()) for one in
                 (sample["arguments"].values() if isinstance(sample["arguments"], dict) else sample["arguments"])]
        metric = next(name for name in sample["metrics"] if sample.get(name) in (0, 1))
        line = {"task": task, "id": f"{task}-{sample['doc_id']:06d}", "prompt": str(asked[0][0]),
                "target": str(sample["target"]), "right": int(sample[metric])}
        answers = sample["filtered_resps"]
        if len(asked) > 1 and isinstance(asked[0][1], str):
            values = [round(float(answer[0]), 4) for answer in answers]
            line |= {"options": [one[1] for one in asked], "answer": str(asked[values.index(max(values))][1]),
                     "scores": values}
        else:
            line |= {"answer": str(answers[0])}
        lines.append(line)
    return lines


def items(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The texts by which contamination is looked for: what was asked, and the right answer."""
    return [{"prompt": f"{line['prompt']} {line['target']}"} for line in lines]

