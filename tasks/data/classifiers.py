"""Stage `classifiers`: trains the small classifiers that score documents, each from the sets params.yaml names.

    python -m tasks.data.classifiers data/packages data/deduped models/classifiers metrics/classifiers.json

`models/classifiers/NAME/` is one classifier (tasks/data/classifier.py). A share of the examples, by the hash of what
they were made from, is held out and measured: area under the ROC curve, precision and recall at the threshold that
the safety and value stages use, accuracy by language with its standard error, calibration error, the score by set, and
the share of the corpus's own documents above the threshold. Gate: an area below `min_auc` fails the stage.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from tasks import progress, stage
from tasks.data import classifier, documents, labelled
from tasks.params import Section
from tasks.stage import Input, Output, StageError

BINS = 10  # of the calibration error


class Wanted(Section):
    """One classifier: what is positive, what is not, and how good it must be."""

    positive: labelled.Chosen
    negative: labelled.Chosen
    pool: classifier.Pool
    threshold: float = Field(gt=0, lt=1, description="score from which on a text counts as positive")
    min_auc: float = Field(ge=0, le=1, description="gate, on the held-out examples")


class ClassifiersParams(Section):
    """`classifiers:` of params.yaml."""

    features: classifier.Features
    regularization: float = Field(gt=0, description="against over-fitting")
    held_out: float = Field(gt=0, lt=0.6, description="share of the examples that are measured, not learned")
    sets: dict[str, labelled.AnySet]
    train: dict[str, Wanted] = Field(min_length=1)


@dataclass(frozen=True)
class Labelled:
    """An example with its label (1 positive) and the set it is from."""

    text: str
    key: str
    label: int
    source: str
    language: str


def classifiers(packages: Input, deduped: Input, models: Output, metrics: Output, *,
                classifiers: ClassifiersParams, seed: int) -> None:
    """Train and measure every classifier. Raises StageError: a set that cannot be read, a gate that is not passed."""
    started = time.monotonic()
    sets = labelled.Sets(classifiers.sets, packages, deduped, seed)
    made: dict[str, classifier.Classifier] = {}
    table: dict[str, Any] = {}
    for name, wanted in progress.track(sorted(classifiers.train.items()), what="classifiers", unit="classifier"):
        found = examples(name, wanted, sets)
        held = [e for e in found if held_out(e.key, classifiers.held_out, seed)]
        kept = [e for e in found if not held_out(e.key, classifiers.held_out, seed)]
        made[name] = classifier.train([e.text for e in kept], [e.label for e in kept], features=classifiers.features,
                                      pool=wanted.pool, regularization=classifiers.regularization, seed=seed)
        table[name] = measure(name, made[name], held, wanted.threshold) | {
            "examples": counts(kept), "weak": weak(wanted, classifiers.sets), "threshold": wanted.threshold,
            "min_auc": wanted.min_auc}
        made[name].save(models / name)
    for name, rows in over(made, classifiers, deduped).items():
        table[name]["corpus"] = rows
    gate(table)
    stage.write_json(metrics, table)
    stage.write_timing("classifiers", {"seconds": round(time.monotonic() - started, 2), "classifiers": len(made)})


def examples(name: str, wanted: Wanted, sets: labelled.Sets) -> list[Labelled]:
    """The examples of a classifier in a fixed order.

    A text in a positive and a negative set is left out: nobody knows what it is.
    """
    sides = []
    for label, chosen in ((0, wanted.negative), (1, wanted.positive)):
        sides.append({e.text: Labelled(e.text, e.key, label, source, e.language) for source, e in sets.chosen(chosen)})
    found = [e for side in sides for e in side.values() if not (e.text in sides[0] and e.text in sides[1])]
    if len({e.label for e in found}) < 2:
        raise StageError(f"classifiers: {name} has the same texts as positive and negative: correct its sets")
    return found


def held_out(key: str, share: float, seed: int) -> bool:
    """Whether what was made from `key` is measured: by its hash, so one key is on one side for every classifier."""
    return labelled.fraction(str(seed), "held out", key) < share


def measure(name: str, made: classifier.Classifier, held: Sequence[Labelled], threshold: float) -> dict[str, Any]:
    """How well `made` does on the held-out examples. Raises StageError where they hold one class alone."""
    from sklearn.metrics import roc_auc_score

    truth = np.array([e.label for e in held], dtype=np.int8)
    if len(set(truth.tolist())) < 2:
        raise StageError(f"classifiers: {name} has no held-out example of one class: raise classifiers.held_out or "
                         "give it more texts")
    scores = made.scores(e.text for e in held).astype(np.float64)
    called = scores >= threshold
    right = called == (truth == 1)
    languages = np.array([e.language for e in held])
    by_language = {}
    for language in sorted(set(languages.tolist())):
        of = languages == language
        both = len(set(truth[of].tolist())) == 2
        by_language[language] = share(right[of]) | {
            "auc": round(float(roc_auc_score(truth[of], scores[of])), 4) if both else None}
    return {
        "auc": round(float(roc_auc_score(truth, scores)), 4),
        "precision": share(truth[called] == 1), "recall": share(called[truth == 1]),
        "accuracy": share(right), "accuracy_by_language": by_language,
        "calibration_error": round(calibration_error(scores, truth), 4),
        "score_by_set": {source: round(float(scores[[e.source == source for e in held]].mean()), 4)
                         for source in sorted({e.source for e in held})},
    }


def share(right: np.ndarray) -> dict[str, Any]:
    """A share of true values with its binomial standard error; null where there is nothing to count."""
    if not len(right):
        return {"value": None, "standard_error": None, "examples": 0}
    value = float(right.mean())
    return {"value": round(value, 4), "standard_error": round(math.sqrt(value * (1 - value) / len(right)), 4),
            "examples": len(right)}


def calibration_error(scores: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015): over ten bins of the score, the mean distance to the truth."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return float(sum(abs(scores[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean()
                     for b in np.unique(bins)))


def counts(kept: Sequence[Labelled]) -> dict[str, dict[str, int]]:
    """Number of examples learned from, by label and set."""
    table: dict[str, Counter[str]] = {"negative": Counter(), "positive": Counter()}
    for example in kept:
        table["positive" if example.label else "negative"][example.source] += 1
    return {side: dict(sorted(found.items())) for side, found in table.items()}


def weak(wanted: Wanted, sets: dict[str, labelled.AnySet]) -> list[str]:
    """The sets whose labels are made by rule and not given."""
    return sorted(name for name in wanted.positive | wanted.negative if isinstance(sets[name], labelled.WEAK))


def over(made: dict[str, classifier.Classifier], params: ClassifiersParams, deduped: Path) -> dict[str, Any]:
    """For each classifier, by source of the corpus: documents, mean score, share at the threshold or above."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in made}
    for shard in documents.shards(deduped):
        for document in documents.read(shard):
            for name, one in made.items():
                found = scores[name].setdefault(str(document.metadata.get("source")), [])
                found.append(one.score(document.text))
    return {name: {source: {"documents": len(found), "mean": round(sum(found) / len(found), 4),
                            "positive": round(sum(s >= params.train[name].threshold for s in found) / len(found), 4)}
                   for source, found in sorted(by_source.items())} for name, by_source in scores.items()}


def gate(table: dict[str, Any]) -> None:
    """Raises StageError naming the first classifier whose area under the curve is too small."""
    for name, row in table.items():
        if row["auc"] < row["min_auc"]:
            raise StageError(f"classifier {name} has an AUC of {row['auc']} on held-out examples, below "
                             f"classifiers.train.{name}.min_auc = {row['min_auc']}: give it more or better examples")


if __name__ == "__main__":
    stage.run(classifiers)
