"""Stage `evalsets`: what the models will be asked, fixed before anything is trained.

    python -m tasks.data.evalsets data/valued data/evalsets metrics/evalsets.json

`held_out.jsonl` holds whole documents that training never sees, chosen by hash (tasks/data/split.py). `cloze` and
`pairs` are made from them alone; `safety` (tasks/data/harms.py), `recall`, `tools` and `arithmetic` from arguments that no training exercise has
(tasks/exercises.py); `lookup` asks, open-book, for facts that one training document states. `external.jsonl` are the
user's own sets, named in params.yaml, which decontamination protects with the rest. Every line is an item with an id.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks import exercises, stage
from tasks.data import documents, harms, items
from tasks.data.overlap import Protected, strings
from tasks.data.split import SplitParams, held_out
from tasks.params import Section
from tasks.stage import Input, Output


class ExternalSet(Section):
    """A jsonl file of the user's own evaluation, pinned: an object a line, every string in it protected."""

    path: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class EvalsetsParams(Section):
    """Sizes: at most so many items of each set (cloze, pairs and lookup hold fewer where the corpus has fewer)."""

    split: SplitParams
    cloze: int = Field(ge=1)
    pairs: int = Field(ge=1)
    safety: int = Field(ge=1)
    recall: int = Field(ge=1)
    recall_pairs: int = Field(ge=2, le=12, description="key-value pairs in a recall context; chance is 1 / pairs")
    tools: int = Field(ge=1)
    arithmetic: int = Field(ge=1)
    lookup: int = Field(ge=1)
    lookup_ngram: int = Field(ge=8, le=50, description="decontaminate.ngram: lookup asks only what that leaves")
    external: list[ExternalSet]


def write(path: Path, made: Iterable[dict[str, Any]]) -> None:
    """One JSON line an item, in the order of the ids; keys as they come: arguments in their tool's order."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for item in sorted(made, key=lambda item: item["id"]):
            out.write(json.dumps(item, ensure_ascii=False) + "\n")


def external(sets: Iterable[ExternalSet]) -> Iterator[dict[str, Any]]:
    """The items of the user's own sets as {"id", "texts"}. Raises StageError for a file that is absent, changed or
    not JSON lines, naming it and the line."""
    for given in sets:
        path = Path(given.path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise stage.StageError(f"evalsets.external: {path} cannot be read ({error.strerror})") from None
        found = hashlib.sha256(content).hexdigest()
        if found != given.sha256:
            raise stage.StageError(f"evalsets.external: {path} has sha256 {found}, params.yaml pins {given.sha256}: "
                                   "if the change is meant, put the new one there")
        for number, line in enumerate(content.splitlines(), 1):
            try:
                texts = strings(json.loads(line))
            except ValueError as error:
                raise stage.StageError(f"{path}:{number} is not JSON ({error})") from None
            yield {"id": f"external-{path.stem}-{number:06d}", "texts": texts}


def exercise_items(made: Iterable[exercises.Exercise]) -> list[dict[str, Any]]:
    """Exercises as items; `chance` is that of a random valid call of the tools offered."""
    return [e.as_dict() | {"document": None, "language": "en", "chance": exercises.chance([e])} for e in made]


def evalsets(valued: Input, sets: Output, metrics: Output, *, evalsets: EvalsetsParams, seed: int) -> None:
    """Write the evaluation sets of the corpus `valued` to `sets`. Raises StageError where one would be empty."""
    started = time.monotonic()
    corpus = [document for shard in documents.shards(valued) for document in documents.read(shard)]
    kept = held_out(corpus, evalsets.split)
    if not kept:
        raise stage.StageError(f"none of {len(corpus)} documents falls into the held-out "
                               f"{evalsets.split.fraction:.1%} within the size limits: raise evalsets.split")
    apart = {document.id for document in kept}
    outside = list(external(evalsets.external))
    protected = Protected(evalsets.lookup_ngram)
    for document in kept:
        protected.add(document.id, [document.text])
    for item in outside:
        protected.add(item["id"], item["texts"])
    training = [replace(d, text=cut.text) for d in corpus if d.id not in apart
                for cut in [protected.cut(d.text)] if cut.text]
    try:
        made = {
            "cloze": items.cloze(kept, evalsets.cloze, seed),
            "pairs": items.minimal_pairs(kept, evalsets.pairs, seed),
            "safety": harms.pairs(evalsets.safety, seed),
            "recall": items.recall(evalsets.recall, evalsets.recall_pairs, seed),
            "tools": exercise_items(exercises.tool_calls(evalsets.tools, "held_out", seed)),
            "arithmetic": exercise_items(exercises.arithmetic(evalsets.arithmetic, "held_out", seed)),
            "lookup": items.lookup(training, evalsets.lookup),
        }
    except ValueError as error:
        raise stage.StageError(f"evalsets: {error}") from None
    if empty := [name for name, found in made.items() if not found]:
        raise stage.StageError(f"the {len(kept)} held-out of {len(corpus)} documents give no item of "
                               f"{', '.join(empty)}: raise evalsets.split or add sources")
    sets.mkdir(parents=True)
    documents.write(sets / "held_out.jsonl", kept)
    for name, found in (made | {"external": outside}).items():
        write(sets / f"{name}.jsonl", found)
    stage.write_json(metrics, summary(corpus, kept, made | {"external": outside}))
    stage.write_timing("evalsets", {"seconds": round(time.monotonic() - started, 2), "documents": len(corpus)})


def summary(corpus: list, kept: list, made: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Counts for the report: documents and characters held out, items of each set by language and kind, chance."""
    counts: dict[str, Any] = {}
    for name, found in made.items():
        groups: dict[str, int] = {}
        for item in found:
            group = " ".join(str(item[key]) for key in ("language", "kind", "family") if key in item) or "all"
            groups[group] = groups.get(group, 0) + 1
        counts[name] = {"items": len(found), "groups": groups}
    return {"documents": len(corpus), "held_out_documents": len(kept),
            "held_out_characters": sum(len(document.text) for document in kept),
            "held_out_languages": {language: sum(d.metadata.get("language") == language for d in kept)
                                   for language in sorted({str(d.metadata.get("language")) for d in kept})},
            "sets": counts}


if __name__ == "__main__":
    stage.run(evalsets)
