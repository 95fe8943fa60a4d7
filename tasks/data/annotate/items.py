"""The items of a task: chosen once, frozen in `annotations/<task>/items.jsonl`, the same for every annotator.

Documents are drawn by seed from what the pipeline kept and what it rejected, evenly over strata of decision (the
reject's reason, or the band of the kept one's score) and language, so that rare reasons are seen as often as common
ones. Pairs have their left and right by a hash of seed and id. Each item carries the pipeline's own judgement as a
suggestion. A larger number adds items behind those already there; none is ever changed or removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.data.annotate import store
from tasks.data.annotate.labels import PREFERENCE, SAFETY, Task
from tasks.stage import StageError

Item = dict[str, Any]

KEPT = ("data/valued", "data/deduped", "data/corpus")  # the first that is there
REJECTED = Path("data/rejected")
NO_JUDGEMENT = ("dedup", "evalsets", "decontaminate")  # rejects that say nothing of quality or safety
LONGEST = 1_000_000   # characters; a longer document is no reading
RISKS = ("toxic", "adult", "unsafe")
SHOWN = ("source", "url", "language", "licence", "domain", "scores", "masked", "year")
ROLES = ("system", "user", "assistant", "tool")


def documents_of_chain(task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", row) of every document that the chain kept or rejected on its merits. Raises StageError where
    nothing has been made yet."""
    kept = next((folder for name in KEPT if (folder := Path(name)).is_dir()), None)
    if kept is None:
        raise StageError(f"no documents yet ({', '.join(KEPT)}): ./run makes them, or name a file by --items")
    yield from rows(kept)
    for folder in sorted(REJECTED.glob("*/")):
        if folder.name not in NO_JUDGEMENT and (folder.name == "safety") == (task is SAFETY):
            yield from rows(folder)


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each line of a jsonl file, or of all below a folder. Raises StageError naming file and
    line where one is no JSON object."""
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise StageError(f"--items {path}: no such .jsonl file, nor a folder that holds one")
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise StageError(f"{file}:{number} is not JSON ({error}): one object a line is read") from None
                if not isinstance(row, dict):
                    raise StageError(f"{file}:{number} is a {type(row).__name__}, not an object")
                yield f"{file}:{number}", row


def document(place: str, row: dict[str, Any], task: Task) -> Item | None:
    """A row `{"text"[, "id", "metadata", "label"]}` as an item; None for an empty or over-long text.

    A `label` of the task is the suggestion; else the decision is: `metadata.reason`, or that it was kept.
    Raises StageError naming the place and field.
    """
    text, metadata = row.get("text"), row.get("metadata", {})
    if not isinstance(text, str) or not isinstance(metadata, dict):
        field = "text" if not isinstance(text, str) else "metadata"
        raise StageError(f"{place}: {field} is {type(row.get(field)).__name__}: a document has a text and an "
                         "object as metadata")
    text = clean(text)
    if not text.strip() or len(text) > LONGEST:
        return None
    reason = str(metadata["reason"]) if metadata.get("reason") else None
    if row.get("label") in task.names:
        suggestion, why, band = row["label"], "labelled in the file", f"label {row['label']}"
    elif reason:
        suggestion, why, band = task.suggested(reason), f"dropped: {reason}", f"dropped {reason}"
    else:
        value = score(metadata.get("scores"), task)
        suggestion, why, band = task.suggested(None), "kept", "kept"
        if value is not None:
            why, band = f"kept, score {value:.2f}", f"kept {('low', 'middle', 'high')[min(2, int(value * 3))]}"
    shown = {key: clean(metadata[key]) for key in SHOWN if metadata.get(key) not in (None, "", {})}
    return {"id": identity(row, text), "text": text, "metadata": shown,
            "stratum": clean(f"{band}, {metadata.get('language', 'und')}"),
            "suggestion": {"label": suggestion, "why": clean(why)}}


def score(scores: Any, task: Task) -> float | None:
    """One number in [0, 1] to tell documents apart by: for safety the highest risk, else the mean of the others."""
    if not isinstance(scores, dict):
        return None
    found = [float(value) for name, value in scores.items()
             if isinstance(value, (int, float)) and any(risk in name for risk in RISKS) == (task is SAFETY)]
    if not found:
        return None
    return min(1.0, max(0.0, max(found) if task is SAFETY else sum(found) / len(found)))


def pair(place: str, row: dict[str, Any], seed: int) -> Item:
    """A row `{"prompt", "chosen", "rejected"[, "id", "tools"]}` as an item: the prompt a text or messages, the
    answers a text or one assistant's message. With `one` and `other` in place of chosen and rejected nobody has said
    yet which is better, and nothing is suggested. Raises StageError naming the place and field."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt or not all(map(is_message, prompt)):
        raise StageError(f"{place}: prompt must be a text or messages of role ({', '.join(ROLES)}) and content")
    ends, undecided = {}, "one" in row and "chosen" not in row
    names = ("one", "other") if undecided else ("chosen", "rejected")
    for side in names:
        value = row.get(side)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("content")
        if not isinstance(value, str):
            raise StageError(f"{place}: {side} must be a text or one assistant's message")
        ends[side] = clean(value)
    prompt = [{"role": message["role"], "content": clean(message["content"])} for message in prompt]
    tools = row.get("tools") or []
    name = identity(row, json.dumps([prompt, ends], ensure_ascii=False))
    left, right = names if draw(seed, "side", name) % 2 else reversed(names)
    suggestion = {"label": None, "why": "undecided"} if undecided else {
        "label": "left" if left == "chosen" else "right", "why": "chosen in the data"}
    return {"id": name, "prompt": prompt, "tools": clean(json.loads(tools) if isinstance(tools, str) else tools),
            "left": ends[left], "right": ends[right], "stratum": clean(str(row.get("fault", "pair"))),
            "suggestion": suggestion}


def is_message(value: Any) -> bool:
    """Whether `value` is a message of plain text."""
    return isinstance(value, dict) and value.get("role") in ROLES and isinstance(value.get("content"), str)


def clean(value: Any) -> Any:
    """`value` with unpaired surrogates, which no UTF-8 file can hold, replaced in every text."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [clean(part) for part in value]
    if isinstance(value, dict):
        return {clean(key): clean(part) for key, part in value.items()}
    return value


def identity(row: dict[str, Any], content: str) -> str:
    """The row's id, or one made of its content."""
    given = row.get("id")
    if isinstance(given, str) and given:
        return clean(given)[:500]
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def draw(seed: int, purpose: str, name: str) -> int:
    """A number that depends on its arguments alone, uniform over 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{purpose} {seed} {name}".encode(), digest_size=8).digest(), "big")


def sample(found: Iterable[Item], n: int, seed: int, without: set[str]) -> list[Item]:
    """At most `n` items, strata in turn, ids in `without` left out; in an order that tells nothing of the strata.

    Each stratum keeps its `n` lowest draws, so memory does not grow with the input.
    """
    strata: dict[str, list[tuple[int, str, Item]]] = {}
    seen = set(without)
    for item in found:
        if item["id"] in seen:
            continue
        seen.add(item["id"])
        lowest = strata.setdefault(item["stratum"], [])
        heapq.heappush(lowest, (-draw(seed, "item", item["id"]), item["id"], item))
        if len(lowest) > n:
            heapq.heappop(lowest)
    ranked = {name: sorted(kept, reverse=True) for name, kept in strata.items()}
    turns = sorted((rank, name) for name, kept in ranked.items() for rank in range(len(kept)))
    taken = [ranked[name][rank][2] for rank, name in turns[:n]]
    return sorted(taken, key=lambda item: draw(seed, "order", item["id"]))


def load(path: Path) -> list[Item]:
    """The frozen items. Raises StageError naming the line that is none."""
    if not path.exists():
        return []
    found = []
    for place, row in rows(path):
        needed = {"id": str, "stratum": str, "suggestion": dict} | (
            {"text": str, "metadata": dict} if "text" in row else {"prompt": list, "left": str, "right": str})
        for field, kind in needed.items():
            if not isinstance(row.get(field), kind):
                raise StageError(f"{place}: {field} is missing or no {kind.__name__}: the items were chosen by "
                                 "./run annotate and are not to be edited; take the file back from where it was whole")
        found.append(row)
    return found


def chosen(path: Path, task: Task, n: int, seed: int, source: Iterable[tuple[str, dict[str, Any]]]) -> list[Item]:
    """The items frozen in `path`, made up to `n` from `source` where they are fewer (it is not read else).

    Raises StageError for bad rows, or where there is no item at all.
    """
    frozen = load(path)
    if len(frozen) < n:
        made = (pair(place, row, seed) if task is PREFERENCE else document(place, row, task) for place, row in source)
        added = sample((item for item in made if item), n - len(frozen), seed, {item["id"] for item in frozen})
        if added:
            freeze(path, frozen, added)
            frozen += added
    if not frozen:
        raise StageError("there is no item: every document is empty, or the source holds none")
    return frozen


def freeze(path: Path, frozen: list[Item], added: list[Item]) -> None:
    """Write `frozen` and behind them `added`. Raises StageError where another process has chosen items meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.locked(path.with_name(".items.lock"), os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX):
        if load(path) != frozen:
            raise StageError(f"{path} has just been written by another ./run annotate: start again to use its items")
        store.write_whole(path, "".join(json.dumps(item, ensure_ascii=False, sort_keys=True) + "\n"
                                        for item in frozen + added))
