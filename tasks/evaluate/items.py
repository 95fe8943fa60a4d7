"""The evaluation sets as this link reads them: every line checked, a count of items chosen, one shape for each form
of question. What tasks/data/evalsets.py writes is what is read here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import exercises
from tasks.evaluate.scoring import fits
from tasks.stage import StageError

Item = dict[str, Any]
CHOICE, CALLS, NUMBER = ("pairs", "safety", "cloze", "recall"), ("tools", "tools_grammar"), ("arithmetic",)


def read_items(evalsets: Path, counts: dict[str, int], size: int) -> dict[str, list[Item]]:
    """task -> items, in the order of their ids: `counts[set]` of each set by the hash of the id, held-out documents
    cut at `size` bytes of UTF-8 (many beginnings tell more than one long text). Tool calls are asked twice: freely
    and under the grammar.

    Raises StageError naming the file and line of a broken item, or the set that is absent or empty.
    """
    chosen = {}
    for name, shape in {"held_out": document, "pairs": pair, "safety": pair, "cloze": choice, "recall": choice,
                        "tools": call, "arithmetic": number}.items():
        chosen[name] = sample(read(evalsets / f"{name}.jsonl", shape), counts[name])
    for item in chosen["held_out"]:
        item["text"] = item["text"].encode()[:size].decode(errors="ignore")
    chosen["tools_grammar"] = chosen["tools"]
    return chosen


def read(path: Path, shape: Callable[[Item], Item]) -> list[Item]:
    """The items of one file, each put into `shape`. Raises StageError where it is absent, empty or broken."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"evaluation set {path} cannot be read ({error}): make it again with dvc repro") from None
    items = []
    for at, line in enumerate(lines, 1):
        try:
            items.append(shape(json.loads(line)))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise StageError(f"{path}:{at} is no item of {path.stem}: {type(error).__name__} "
                             f"{' '.join(str(error).split())[:120]}") from None
    if not items:
        raise StageError(f"evaluation set {path} has no items: nothing can be scored on it")
    return items


def sample(items: list[Item], count: int) -> list[Item]:
    """`count` of the items, those of the lowest hash of their id, in the order of the ids."""
    lowest = sorted(items, key=lambda item: hashlib.sha256(item["id"].encode()).digest())[:count]
    return sorted(lowest, key=lambda item: item["id"])


def text(value: Any) -> str:
    """`value`, which must be a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} where a text should be")
    return value


def document(line: Item) -> Item:
    """A held-out document."""
    return {"id": text(line["id"]), "text": text(line["text"]), "language": line["metadata"].get("language") or ""}


def choice(line: Item) -> Item:
    """A prompt, its continuations and the place of the right one."""
    choices, gold = [text(one) for one in line["choices"]], line["gold"]
    if len(choices) < 2 or type(gold) is not int or not 0 <= gold < len(choices):
        raise ValueError(f"gold {gold!r} of {len(choices)} choices")
    return {"id": text(line["id"]), "kind": line.get("kind", ""), "language": line.get("language", ""),
            "document": line.get("document") or "", "prompt": text(line["prompt"]), "choices": choices, "gold": gold}


def pair(line: Item) -> Item:
    """A good and a bad sentence as two choices after nothing, the good one's place by hash: ties favour neither."""
    gold = hashlib.sha256(text(line["id"]).encode()).digest()[0] % 2
    choices = [text(line["bad"]), text(line["good"])]
    return {"id": line["id"], "kind": line.get("kind", ""), "language": line.get("language", ""),
            "document": line.get("document") or line.get("cluster") or "", "prompt": "",
            "choices": choices if gold else choices[::-1], "gold": gold}


def call(line: Item) -> Item:
    """A question and its one right tool call; arguments are kept as JSON text (tasks/evaluate/harness.py, rows)."""
    offered = [text(name) for name in line["tools"]]
    if line["tool"] not in offered or not set(offered) <= exercises.TOOLS.keys():
        raise ValueError(f"tool {line['tool']!r} among the offered {offered}")
    if not fits(line["tool"], line["arguments"]) or not 0 <= line["chance"] <= 1:
        raise ValueError(f"arguments {line['arguments']!r} that {line['tool']} takes, chance a probability")
    arguments = json.dumps(line["arguments"], ensure_ascii=False)
    return {"id": text(line["id"]), "question": text(line["question"]), "tool": line["tool"], "arguments": arguments,
            "offered": offered, "chance": float(line["chance"]), "phrasing": line["phrasing"],
            "target": f'{line["tool"]} {arguments}'}


def number(line: Item) -> Item:
    """A question whose answer is a number."""
    int(text(line["answer"]))
    return {"id": text(line["id"]), "question": text(line["question"]), "target": line["answer"]}
