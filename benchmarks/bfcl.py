"""Claim: how well a model directory calls functions it has never seen, by the Berkeley Function Calling Leaderboard.

    python -m pip download bfcl-eval==2026.3.23 --no-deps -d DIR      (1.9 MB, Apache-2.0; nothing of it is installed)
    python -m benchmarks.bfcl DIR/bfcl_eval-2026.3.23-py3-none-any.whl models/smollm2/base models/smollm2/chat

Items and checker are the package's own (Patil et al. 2025, BFCL v4), read out of the wheel; its table of models, which
imports the clients of forty vendors, is replaced by one row. Our engine answers greedily, many prompts at once. In
`simple_python`, `multiple` and `parallel` a call is asked for (`tool_choice: required`) under the grammar of the
offered functions' JSON schemas, each string and list bounded, and the arguments to what the question says
(`copied_arguments`; tasks/serve/narrow.py), optional ones kept where they make the call likelier
(tasks/serve/optional.py), unless `--free`. Whole numbers in a list that the package types as float are read as floats,
as its checker reads lone ones. In `irrelevance` no function fits and the model may answer in text (`auto`): right is
what calls nothing. As a model that never calls is right there always, `relevance` asks the items of simple_python the
same way: right is what calls at all. With `--relevance NATS` not the model's turn decides but the gain in its
likelihood of the question by a tool, and, unless `--free`, whether it states the numbers that the call must take
(tasks/serve/relevance.py); where both were asked, the chance that a question which fits gains more than one that does
not (the area under the ROC curve) is told too, and in `multiple`, `own` and `phrasings` that gain chooses the tool.
`dev` are two of every three items of simple_python, whose errors were looked at (of the first when the training data
were made, of both when the bounds of the arguments were); `rest` is the third, which nobody looked at. `own` are
questions made as those of the training data, of functions that are in no training data; the arguments must be equal. So
must they in `phrasings`: the agents' tools, which training shows, asked in phrasings and for arguments that it never
shows. Each model after the first stands beside it with a paired interval. `--answers FILE` keeps every answer. The last
line is one JSON document.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import sys
import time
import types
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks import chat, exercises, params
from tasks.evaluate.statistics import paired_difference, proportion
from tasks.serve import optional, relevance

OURS = ("own", "phrasings")
CHOOSE = ("multiple", *OURS)
AUTO = ("irrelevance", "relevance")
CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance", "relevance", *OURS)
OWN, PHRASED = 120, 480
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
KEPT = ("type", "description", "enum", "items", "properties", "required")
STRING, LIST, DIGITS = 100, 12, 1e-4
TOKENS = {"parallel": 320, "irrelevance": 48, "relevance": 48}
SLOTS = 32
ANY = {"anyOf": [{"type": "string", "maxLength": 40}, {"type": "number", "multipleOf": DIGITS}, {"type": "boolean"}]}


def schema(given: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of a parameter as the package describes it, with Python's names of types and without bounds."""
    made = {key: given[key] for key in KEPT if key in given}
    kind = made["type"] = TYPES.get(given.get("type", "any"), given.get("type", "string"))
    if "enum" in made:
        return {key: made[key] for key in ("type", "description", "enum") if key in made}
    if kind == "string":
        made["maxLength"] = STRING
    elif kind == "number":
        made["multipleOf"] = DIGITS
    elif kind == "array":
        made["maxItems"] = LIST
        made["items"] = schema(made["items"]) if made.get("items") else ANY
    elif kind == "object":
        if made.get("properties"):
            made["properties"] = {name: schema(each) for name, each in made["properties"].items()}
        else:
            made.pop("properties", None)
            made["additionalProperties"] = ANY
    return made


def tool(function: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI tool of one of the package's functions."""
    return {"type": "function", "function": {"name": function["name"], "description": function["description"],
                                             "parameters": schema(function["parameters"])}}


def checker(wheel: Path) -> Callable[..., dict[str, Any]]:
    """The package's ast_checker, imported from the wheel itself."""
    stub = types.ModuleType("bfcl_eval.constants.model_config")
    stub.MODEL_CONFIG_MAPPING = {"catena": types.SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules[stub.__name__] = stub
    sys.path.insert(0, str(wheel))
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(item: dict[str, Any], calls: list[tuple[str, dict[str, Any]]], category: str) -> dict[str, Any]:
        return ast_checker(item["function"], [{name: arguments} for name, arguments in calls], item["truth"],
                           Language.PYTHON, category, "catena")

    return check


def items(wheel: Path, category: str) -> list[dict[str, Any]]:
    """The items of a category, `truth` among their keys where calls are right. Exits where the wheel lacks them."""
    if category in OURS:
        return own() if category == "own" else phrasings()
    name = f"BFCL_v4_{'simple_python' if category == 'relevance' else category}.json"
    try:
        with zipfile.ZipFile(wheel) as packed:
            rows = [json.loads(line) for line in packed.read(f"bfcl_eval/data/{name}").splitlines()]
            if category in AUTO:
                return rows
            truths = [json.loads(line) for line in packed.read(f"bfcl_eval/data/possible_answer/{name}").splitlines()]
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{wheel} is no wheel of bfcl-eval ({error}): python -m pip download bfcl-eval --no-deps") \
            from None
    known = {truth["id"]: truth["ground_truth"] for truth in truths}
    return [row | {"truth": known[row["id"]]} for row in rows]


def own() -> list[dict[str, Any]]:
    """Our own items: one call of a function kept from training, alone or among others."""
    from tasks.finetune.functions import functions

    return [{"id": f"own_{at}", "question": [messages[:1]], "tools": [bounded(each) for each in tools],
             "truth": messages[1]["tool_calls"][0]["function"]}
            for at, (_, messages, tools) in enumerate(functions(OWN, "held_out", 0, {"function": 2, "choice": 1}))]


def phrasings() -> list[dict[str, Any]]:
    """Our own items: the agents' tools asked in phrasings that are kept from training."""
    made = exercises.tool_calls(PHRASED, "held_out", 0) + exercises.arithmetic(PHRASED // 6, "held_out", 0)
    return [{"id": each.id, "question": [[{"role": "user", "content": each.question}]],
             "tools": exercises.schemas(each.tools), "truth": {"name": each.tool, "arguments": each.arguments}}
            for each in made if each.phrasing == "new"]


def bounded(tool: dict[str, Any]) -> dict[str, Any]:
    """One of our own tools with its strings and lists bounded as the package's are."""
    return {"type": "function", "function": tool["function"] | {"parameters": schema(tool["function"]["parameters"])}}


def offered(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools of an item, bounded."""
    return row["tools"] if "tools" in row else [tool(each) for each in row["function"]]


def gains(lm: Any, rows: list[dict[str, Any]]) -> list[list[float]]:
    """Nats by which each tool of each item makes its last message likelier."""
    sequences, heads = [], []
    for row in rows:
        for tools in [*([each] for each in offered(row)), None]:
            text = lm.tokenizer.apply_chat_template(row["question"][0], tools=tools, tokenize=False)
            before, question = map(lm.tok_encode, relevance.parted(text, row["question"][0][-1]["content"]))
            sequences.append(before + question)
            heads.append(len(before))
    read = iter([values for values, _ in lm.score(sequences, heads)])
    found = []
    for row in rows:
        *alone, bare = (next(read) for _ in range(len(offered(row)) + 1))
        found.append([relevance.gain(each, bare) for each in alone])
    return found


def chosen(row: dict[str, Any], found: list[float], free: bool) -> tuple[int, bool]:
    """(the place of the tool that fits an item best, whether the question states the numbers that it takes)."""
    question = row["question"][0][-1]["content"]
    stated = [free or relevance.stated(each["function"]["parameters"], question) for each in offered(row)]
    at = relevance.best(found, stated)
    return at, stated[at]


def narrowed(row: dict[str, Any], found: list[float], free: bool) -> dict[str, Any]:
    """The item with no tool but the one that fits it best."""
    key = "tools" if "tools" in row else "function"
    return row | {key: [row[key][chosen(row, found, free)[0]]]}


def asked(lm: Any, rows: list[dict[str, Any]], category: str, free: bool) -> list[str]:
    """The model's turn after each item, its arguments bounded to what the question says unless `free`."""
    from tasks.serve.copied import Copied
    from tasks.serve.engine.grammar import tool_grammar
    from tasks.serve.engine.request import Request
    from tasks.serve.engine.sampler import Sampling

    requests = []
    for row in rows:
        tools = offered(row)
        prompt = lm.tokenizer.apply_chat_template(row["question"][0], tools=tools, tokenize=False,
                                                  add_generation_prompt=True)
        schemas = {each["function"]["name"]: each["function"]["parameters"] for each in tools}
        how = {"required": category not in AUTO, "several": category == "parallel"}
        question = "\n".join(turn["content"] for turn in row["question"][0] if turn["role"] == "user")
        grammar = tool_grammar(schemas, **how) if free else Copied(schemas, question, **how)
        requests.append(Request(tuple(lm.tok_encode(prompt)), TOKENS.get(category, 160), Sampling(temperature=0),
                                grammar=grammar))
    texts = [lm.decode(ids) for ids in lm.generate(requests, [""] * len(requests))]
    return texts if free or category in (*AUTO, "parallel") else spared(lm, requests, texts)


def spared(lm: Any, requests: Sequence[Any], texts: Sequence[str]) -> list[str]:
    """Each turn without the optional arguments that it is likelier without, as the server gives it back."""
    from tasks.serve.copied import Copied

    every, sequences, heads = [], [], []
    for request, text in zip(requests, texts):
        tools = request.grammar.tools
        question = request.grammar.question
        again = Copied(tools, question, required=True, several=False)
        every.append(optional.forms(text, tools, question, functools.partial(lm.engine.grammars.matcher, again),
                                    lm.tok_encode))
        if every[-1][1:]:
            sequences += [[*request.prompt, *lm.tok_encode(form)] for form in every[-1]]
            heads += [len(request.prompt)] * len(every[-1])
    read = iter([values for values, _ in lm.score(sequences, heads)])
    return [forms[optional.likeliest([next(read) for _ in forms])] if forms[1:] else forms[0] for forms in every]


def judged(check: Callable[..., dict[str, Any]], row: dict[str, Any], text: str, category: str) -> dict[str, Any]:
    """Of one answer: whether it is a whole call (`valid`), whether it is right, and the checker's own words."""
    if category in AUTO:
        called = chat.CALL_START in text
        return {"id": row["id"], "answer": text, "valid": True, "right": called == (category == "relevance")}
    calls = list(chat.calls(text))
    if not calls or None in calls:
        return {"id": row["id"], "answer": text, "valid": False, "right": False, "error": "no whole call"}
    calls = [(name, floats(row, name, arguments)) for name, arguments in calls]
    found = {"valid": calls == [(row["truth"]["name"], row["truth"]["arguments"])]} if category in OURS else \
        check(row, calls, category)
    return {"id": row["id"], "answer": text, "valid": True, "right": found["valid"],
            "error": f"{found.get('error_type', '')}: {found.get('error', '')}"[:300] if not found["valid"] else ""}


def floats(row: dict[str, Any], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with floats in the lists that the package's function `name` takes floats in."""
    for function in row.get("function", ()):
        if function["name"] == name:
            listed = {key for key, each in function["parameters"]["properties"].items()
                      if (each.get("items") or {}).get("type") == "float"}
            return {key: [float(one) if type(one) is int else one for one in value]
                    if key in listed and isinstance(value, list) else value for key, value in arguments.items()}
    return arguments


def decided(row: dict[str, Any], found: list[float], nats: float, category: str, free: bool) -> dict[str, Any]:
    """One item of AUTO judged by its best tool's gain."""
    at, whole = chosen(row, found, free)
    return {"id": row["id"], "gain": found[at], "whole": whole, "valid": True,
            "right": (whole and found[at] >= nats) == (category == "relevance")}


def parts(category: str, results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Results by the name they are told under: simple_python also by parts that were and were not looked at."""
    if category != "simple_python":
        return {category: results}
    def dev(result: dict[str, Any]) -> bool:
        return int(re.sub(r"\D", "", result["id"])) % 3 < 2
    return {category: results, "simple_python dev": [r for r in results if dev(r)],
            "simple_python rest": [r for r in results if not dev(r)]}


def measured(wheel: Path, directory: Path, categories: Sequence[str], part: str, threads: int,
             free: bool, nats: float | None) -> dict[str, list[dict[str, Any]]]:
    """category -> the judged answers of a model directory."""
    from tasks.evaluate.model import EngineLM

    check, results = checker(wheel), {}
    lm = EngineLM(directory, window=2048, batch=SLOTS, threads=threads)
    try:
        for category in categories:
            rows = items(wheel, category)
            if part == "dev":
                rows = [row for at, row in enumerate(rows) if at % 3 < 2]
            started = time.process_time()
            if nats is not None and category in AUTO:
                results[category] = [decided(row, found, nats, category, free)
                                     for row, found in zip(rows, gains(lm, rows), strict=True)]
            else:
                offers = rows if nats is None or category not in CHOOSE else [
                    narrowed(row, found, free) for row, found in zip(rows, gains(lm, rows), strict=True)]
                results[category] = [judged(check, row, text, category)
                                     for row, text in zip(rows, asked(lm, offers, category, free), strict=True)]
            print(f"{directory} {category}: {sum(r['right'] for r in results[category])}/{len(rows)}, "
                  f"{time.process_time() - started:.0f} CPU s", file=sys.stderr)
    finally:
        lm.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bfcl", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=list(CATEGORIES))
    parser.add_argument("--part", choices=("all", "dev"), default="all", help="dev: two of every three items")
    parser.add_argument("--free", action="store_true", help="bound arguments by their schema alone, not also by what "
                        "the question says (tasks/serve/said.py)")
    parser.add_argument("--relevance", type=float, metavar="NATS", help="a tool is chosen, and in irrelevance and relevance "
                        "called, by how many nats likelier it makes the question; without it the model decides")
    parser.add_argument("--answers", type=Path, help="jsonl, a line an item")
    given = parser.parse_args()
    runtime = params.runtime()
    from tasks.finetune import environment
    environment.prepare(runtime, environment.SHORT_SPIN)

    items(given.wheel, given.categories[0])     # a wrong path ends here, before a model is loaded
    document: dict[str, Any] = {"wheel": given.wheel.name, "part": given.part, "models": {}}
    first: dict[str, list[dict[str, Any]]] = {}
    kept = []
    print(f"{'model':28} {'set':20} {'right':>7} {'95 %':>15} {'valid':>6} {'against the first':>27}")
    for directory in given.models:
        row = document["models"][str(directory)] = {}
        found = measured(given.wheel, directory, given.categories, given.part, runtime.threads, given.free,
                         given.relevance)
        if given.relevance is not None and set(AUTO) <= found.keys():
            row["area"] = area(*([each["gain"] if each["whole"] else -math.inf for each in found[category]]
                                 for category in reversed(AUTO)))
            print(f"{str(directory)[-28:]:28} area under the ROC curve {row['area']:.3f}")
        for category, results in found.items():
            kept += [{"model": str(directory), "category": category} | result for result in results]
            for name, chosen in parts(category, results).items():
                if chosen:
                    row[name] = told(str(directory)[-28:], name, chosen, first.setdefault(name, chosen))
    if given.answers:
        given.answers.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept),
                                 encoding="utf-8")
    print(json.dumps(document))


def area(fitting: list[float], others: list[float]) -> float:
    """The chance that one of `fitting` is larger than one of `others`, half of it where they are equal: the area under
    the ROC curve (Hanley and McNeil 1982)."""
    return sum((one > other) + 0.5 * (one == other) for one in fitting for other in others) / len(fitting) / len(others)


def told(model: str, name: str, chosen: list[dict[str, Any]], first: list[dict[str, Any]]) -> dict[str, Any]:
    """A line of the table, printed, and its numbers."""
    right, valid = ([int(result[key]) for result in chosen] for key in ("right", "valid"))
    estimate = proportion(right).as_dict()
    line = f"{model:28} {name:20} {estimate['value']:7.3f}  {estimate['low']:.3f} .. {estimate['high']:.3f}" \
           f" {sum(valid) / len(valid):6.3f}"
    numbers = {"right": estimate, "valid": proportion(valid).as_dict()}
    if chosen is not first:
        apart = paired_difference(right, [int(result["right"]) for result in first]).as_dict()
        numbers["against_first"] = apart
        line += f"  {apart['value']:+.3f} ({apart['low']:+.3f} .. {apart['high']:+.3f})"
    print(line, flush=True)
    return numbers


if __name__ == "__main__":
    main()
