"""Stage `value`: what each document is worth, by scores and by domain, and which are worth training on.

    python -m tasks.data.value data/safe models/classifiers data/valued data/rejected/value metrics/value.json

Every document gets `metadata.scores` in [0, 1] (education, fluency and ads by the classifiers, density, and seed, its
likeness to the language's seed set) and `metadata.domain`. The worst go, with the first score that says so as reason
(tasks/data/selection.py). What is like the seeds comes back (enrichment, tasks/data/enrich.py), and so does the best of
a domain that falls short of its target (targeted completion): `metadata.rescued` holds the reason they had been dropped
for, `metadata.rescued_by` seed or target. Sources named in `value.pool` enter only in these two ways.

Two passes over the shards, in parallel: scores and n-gram counts, then the verdicts; between them one process goes
through the scores alone, as quantiles, weights and shares belong to the whole corpus.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import classifier, documents, executor, retention
from tasks.data.density import density
from tasks.data.domain import DOMAINS, DomainParams, domain
from tasks.data.enrich import Counts, EnrichParams, Importance, features, file_texts
from tasks.data.remembered import Memory
from tasks.data.selection import Bounds, Row, Targets, complete, retrieve, select
from tasks.params import Runtime, Section
from tasks.stage import Input, Output, StageError

CLASSIFIED = ("education", "fluency", "ads")
BINS = 10


class ValueParams(Section):
    """What is measured, how much of it is asked for, and what may come back."""

    domain: DomainParams
    bounds: dict[str, Bounds] = Field(description="language -> bounds; a language without any loses nothing")
    pool: list[str] = Field(description="sources that enter only where enrichment or a target calls for them")
    enrich: EnrichParams
    targets: Targets


class Judge(PipelineStep):
    """Writes each rank's rows and n-gram counts to `folder`/<rank>.npz; passes no document on."""

    type, name = "value", "scores"

    def __init__(self, folder: Path, classifiers: Path, params: ValueParams):
        super().__init__()
        self.folder, self.params = folder.absolute(), params
        self.memory = Memory("value-scores", classifiers, params)
        self.classifiers = {name: classifier.load(classifiers / name) for name in CLASSIFIED}

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Scores every document."""
        rows, buckets, times, bounds = [], [], [], [0]
        with self.memory.opened(rank, self) as remember:
            for document in data:
                row, counts = remember(document, functools.partial(
                    self.judged, document.id, document.text, document.metadata))
                rows.append(row | {"id": document.id})
                buckets.append(counts[0])
                times.append(counts[1])
                bounds.append(bounds[-1] + len(counts[0]))
        empty = [np.zeros(0, dtype=np.int64)]
        np.savez(self.folder / f"{rank:05d}.npz", rows=np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8),
                 buckets=np.concatenate(buckets or empty).astype(np.int32), bounds=np.array(bounds, dtype=np.int64),
                 times=np.concatenate(times or empty).astype(np.int32))
        yield from ()

    def judged(self, name: str, text: str, metadata: dict[str, Any]) -> tuple[dict[str, Any], Counts]:
        """A document's row, with `seed` for one of the seed set, and its n-gram counts (none where no seeds are).

        Raises StageError for a score outside [0, 1].
        """
        scores = {kind: found.score(text) for kind, found in self.classifiers.items()} | {"density": density(text)}
        for kind, score in scores.items():
            if not 0 <= score <= 1:
                raise StageError(f"{name}: its {kind} score is {score}, not in [0, 1]; this is a fault of the score")
        seeds = self.params.enrich.seeds.get(str(metadata.get("language")))
        counts = features(text, self.params.enrich) if seeds else (np.zeros(0, np.int64),) * 2
        return {"id": name, "source": str(metadata.get("source")), "language": str(metadata.get("language")),
                "domain": domain(text, self.params.domain), "characters": len(text),
                "scores": {kind: round(score, 4) for kind, score in scores.items()},
                "seed": bool(seeds and seeds.holds(metadata))}, counts


class Apply(PipelineStep):
    """Sets scores, domain, and what value decided, on every document."""

    type, name = "filter", "value"

    def __init__(self, rows: dict[str, Row]):
        super().__init__()
        self.rows = rows

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, with its verdict."""
        for document in data:
            row = self.rows[document.id]
            document.metadata["scores"] = document.metadata.get("scores", {}) | row.scores
            document.metadata["domain"] = row.domain
            if row.reason:
                document.metadata["reason"] = row.reason
            if row.rescued:
                document.metadata |= {"rescued": row.rescued, "rescued_by": row.by}
            yield document


def judged(folder: Path) -> Iterator[tuple[dict[str, Any], Counts]]:
    """(row, n-gram counts) of every document, in the order of the shards; one shard in memory at a time."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as shard:
            rows, buckets, times, bounds = (shard[key] for key in ("rows", "buckets", "times", "bounds"))
        for row, first, last in zip(json.loads(rows.tobytes()), bounds[:-1], bounds[1:]):
            yield row, (buckets[first:last], times[first:last].astype(np.int64))


def weighed(folder: Path, params: EnrichParams) -> tuple[list[Row], dict[str, dict[str, int]]]:
    """The rows with their seed scores, in the order of the ids, and the seed sets' sizes by language.

    Raises StageError where two documents share an id, or a seed set matches nothing.
    """
    bags = {language: Importance(params) for language in params.seeds}
    sizes = {language: {"documents": 0, "ngrams": 0} for language in params.seeds}

    def add(language: str, counts: Counts) -> None:
        bags[language].seeds[counts[0]] += counts[1]
        sizes[language]["documents"] += 1
        sizes[language]["ngrams"] += int(counts[1].sum())

    for language, given in params.seeds.items():
        for text in file_texts(given.file) if given.file else ():
            add(language, features(text, params))
    for row, counts in judged(folder):
        if row["language"] in bags:
            bags[row["language"]].pool[counts[0]] += counts[1]
            if row["seed"]:
                add(row["language"], counts)
    if bare := [language for language, size in sizes.items() if not size["documents"]]:
        raise StageError(f"value.enrich.seeds.{bare[0]} matches no document: name sources and urls of the corpus, or "
                         "take the language out")
    rows = []
    for made, counts in judged(folder):
        seed = made.pop("seed")
        if made["language"] in bags:
            made["scores"]["seed"] = round(bags[made["language"]].score(counts, seed), 4)
        rows.append(Row(**made))
    rows.sort(key=lambda row: row.id)
    for row, after in zip(rows, rows[1:]):
        if row.id == after.id:
            raise StageError(f"two documents have the id {row.id}: ids must be unique, remake the extract stage")
    return rows, sizes


def shares(rows: Sequence[Row], by: str) -> dict[str, dict[str, float]]:
    """{group: documents, characters, share of all characters} of rows by their attribute `by`."""
    total = sum(row.characters for row in rows)
    table: dict[str, dict[str, float]] = {}
    for name in sorted({getattr(row, by) for row in rows} | set(DOMAINS if by == "domain" else ())):
        members = [row.characters for row in rows if getattr(row, by) == name]
        table[name] = {"documents": len(members), "characters": sum(members),
                       "share": round(sum(members) / max(1, total), 6)}
    return table


def histograms(rows: Sequence[Row]) -> dict[str, dict[str, list[int]]]:
    """{score: {language: counts of its ten bins of [0, 1]}} over all documents read."""
    table: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        for name, score in row.scores.items():
            table.setdefault(name, {}).setdefault(row.language, [0] * BINS)[min(int(score * BINS), BINS - 1)] += 1
    return table


def value(safe: Input, classifiers: Input, kept: Output, rejected: Output, metrics: Output, *,
          value: ValueParams, runtime: Runtime) -> None:
    """Score every document of `safe` (shards) and keep those worth training on.

    Raises StageError for a source of `value.pool` that is not there, and where nothing is left.
    """
    started = time.monotonic()
    shards = documents.shards(safe)
    with tempfile.TemporaryDirectory(f".partial-{os.getpid()}", ".scores", kept.parent) as folder:
        steps = [documents.ReadShards(safe), Judge(Path(folder), classifiers, value)]
        executor.run("value-scores", steps, len(shards), runtime)
        rows, sizes = weighed(Path(folder), value.enrich)
    if absent := set(value.pool) - {row.source for row in rows}:
        raise StageError(f"value.pool names {min(absent)}, a source without documents here: correct its name")
    cutoffs = select(rows, value.bounds, value.pool)
    selected = sum(row.reason is None for row in rows)
    retrieve(rows, value.enrich.threshold, value.enrich.max_share)
    gaps = complete(rows, value.targets)
    steps = [documents.ReadShards(safe), Apply({row.id: row for row in rows}), documents.WriteShards(kept, rejected)]
    table = retention.table(executor.run("value", steps, len(shards), runtime))
    if not table["kept"]:
        raise StageError(f"value dropped all {table['read']} documents {table['dropped']}: loosen value.bounds")
    rescued = {by: dict(sorted(Counter(row.rescued for row in rows if row.by == by).items()))
               for by in ("seed", "target")}
    if selected + sum(sum(counts.values()) for counts in rescued.values()) != table["kept"]:
        raise StageError(f"{selected} selected and {rescued} rescued are not the {table['kept']} kept; this is a "
                         "fault of the stage")
    stays = [row for row in rows if row.reason is None]
    targets = value.targets.model_dump()
    stage.write_json(metrics, table | {
        "selected": selected, "rescued": rescued, "cutoffs": cutoffs, "seeds": sizes,
        "histograms": histograms(rows),
        "language": {"before": shares(rows, "language"), "after": shares(stays, "language")},
        "domain": {"before": shares(rows, "domain"), "after": shares(stays, "domain")},
        "targets": {name: {"share": targets[name], "missing_characters": missing} for name, missing in gaps.items()}})
    stage.write_timing("value", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


if __name__ == "__main__":
    stage.run(value)
