"""Stage `mixture`: how often each document is trained on, by source, language and domain.

    python -m tasks.data.mixture data/clean data/corpus metrics/mixture.json

A document's weight is the product of its source's, its language's and its domain's (1 where none is named), bounded by
`max_epochs`, and is written to `metadata.epochs`: 2.0 is two passes, 1.25 a second pass for a quarter of such documents
(tasks/data/epochs.py). Every document stands in the corpus once; packing repeats it. Those of weight 0 leave, counted.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import documents, executor, retention
from tasks.data.epochs import copies
from tasks.params import Runtime, Section
from tasks.stage import Input, Output, StageError

GROUPS = ("source", "language", "domain")
Weights = dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class MixtureParams(Section):
    """Weights by name; what is not named has weight 1."""

    max_epochs: float = Field(gt=0, le=100, description="no document more often; about 4 are as good as new text")
    source: Weights
    language: Weights
    domain: Weights
    bytes_per_token: float = Field(gt=0, description="of the tokenizer to come, for the estimate of tokens")

    def epochs(self, metadata: Mapping[str, Any]) -> float:
        """How often a document with this metadata is trained on, before its fraction is decided."""
        product = 1.0
        for group in GROUPS:
            product *= getattr(self, group).get(str(metadata.get(group)), 1.0)
        return round(min(product, self.max_epochs), 6)


class Weigh(PipelineStep):
    """Sets `metadata.epochs`, and the reason `weight` where that is 0; counts each group before and after."""

    type, name = "mixture", "weights"

    def __init__(self, params: MixtureParams):
        super().__init__()
        self.params = params

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, weighed."""
        sums: Counter[str] = Counter()
        for document in data:
            epochs = document.metadata["epochs"] = self.params.epochs(document.metadata)
            repeats = copies(document.id, epochs)
            if not epochs:
                document.metadata["reason"] = "weight"
            length, size = len(document.text), len(document.text.encode("utf-8", "surrogatepass"))
            for group in (*(f"{key}/{document.metadata.get(key)}" for key in GROUPS), "all/all"):
                sums.update({f"documents/{group}": 1, f"characters/{group}": length, f"copies/{group}": repeats,
                             f"characters_trained/{group}": repeats * length, f"bytes_trained/{group}": repeats * size})
            yield document
        for label, amount in sums.items():
            self.stat_update(label, value=amount)


def mixture(clean: Input, corpus: Output, metrics: Output, *, mixture: MixtureParams, runtime: Runtime) -> None:
    """Write every document of `clean` (shards) that has a weight to `corpus`, once, with its epochs.

    Raises StageError for a weight of a source that is not there, and where no document is left to train on.
    """
    started = time.monotonic()
    shards = documents.shards(clean)
    with tempfile.TemporaryDirectory(f".partial-{os.getpid()}", ".weightless", corpus.parent) as dropped:
        steps = [documents.ReadShards(clean), Weigh(mixture), documents.WriteShards(corpus, Path(dropped))]
        counts = executor.run("mixture", steps, len(shards), runtime)
    table = retention.table(counts)
    groups = grouped(counts, mixture.bytes_per_token)
    if absent := set(mixture.source) - groups["source"].keys():
        raise StageError(f"mixture.source weighs {min(absent)}, a source without documents here (there are "
                         f"{', '.join(groups['source'])}): correct its name or take it out")
    if not counts["copies/all/all"]:
        raise StageError(f"the mixture leaves nothing of {table['read']} documents to train on: raise its weights")
    stage.write_json(metrics, table | groups)
    stage.write_timing("mixture", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


def grouped(counts: Counter[str], bytes_per_token: float) -> dict[str, dict[str, dict[str, float]]]:
    """{"all", "source", "language", "domain"} -> group -> documents and characters once, copies and characters as
    trained on, epochs (their ratio), estimated tokens, and the shares of characters before and after.

    Raises StageError unless every grouping sums to the whole.
    """
    table: dict[str, dict[str, dict[str, float]]] = {"all": {}} | {group: {} for group in GROUPS}
    for key in sorted(counts):
        label, _, group = key.partition("/")
        if label == "documents":
            kind, _, name = group.partition("/")
            documents_, characters, copied, trained, size = (int(counts[f"{label}/{group}"]) for label in (
                "documents", "characters", "copies", "characters_trained", "bytes_trained"))
            table[kind][name] = {
                "documents": documents_, "characters": characters, "copies": copied, "characters_trained": trained,
                "epochs": round(trained / max(1, characters), 4), "tokens_estimate": round(size / bytes_per_token),
                "share_before": round(characters / max(1, int(counts["characters/all/all"])), 6),
                "share_after": round(trained / max(1, int(counts["characters_trained/all/all"])), 6)}
    for group in GROUPS:
        for label in ("documents", "characters", "copies", "characters_trained"):
            found = sum(row[label] for row in table[group].values())
            if found != int(counts[f"{label}/all/all"]):
                raise StageError(f"the {label} of all of {group} add up to {found}, not to "
                                 f"{int(counts[f'{label}/all/all'])}; this is a fault of the stage")
    return table


if __name__ == "__main__":
    stage.run(mixture)
