"""Stage `safety`: drops pages unwanted for where they come from or what they say, masks personal data in the rest.

    python -m tasks.data.safety data/deduped models/classifiers data/safe data/rejected/safety metrics/safety.json

In this order, the cheapest first, one reason a page: `domain` and `words` (lists, tasks/data/blocklists.py), then the
classifiers that params name (`toxic`, `adult`; tasks/data/classifier.py), whose scores stay in `metadata.scores`. Then
personal data becomes placeholders such as <email> (tasks/data/pii.py), in rejects too, and `metadata.masked` counts it.
"""

from __future__ import annotations

import time
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field, field_validator

from tasks import stage
from tasks.data import blocklists, classifier, documents, executor, pii, retention
from tasks.data.remembered import Remembered
from tasks.params import Runtime, Section
from tasks.stage import Input, Output


class WordParams(Section):
    """Lists of words beside our own, and how much of them a page may hold."""

    lists: list[blocklists.ListFile]
    max_density: float = Field(gt=0, description="weight of listed words in 1,000 words of a page")
    min_different: int = Field(ge=1, description="a page with fewer different ones is about that word, or quotes it")


class ClassifierParams(Section):
    """What one classifier decides."""

    reason: str = Field(pattern="^[a-z_]+$", description="of the pages it drops")
    max_score: float = Field(ge=0, le=1, description="probability above which a page is dropped; 1 drops none")


class SafetyParams(Section):
    """What is unwanted and what is masked."""

    domains: list[blocklists.ListFile] = Field(description="lists of domains beside our own")
    words: WordParams
    classifiers: dict[str, ClassifierParams] = Field(description="folder below the classifiers' -> what it decides")
    mask: list[str] = Field(description="classes of personal data")

    @field_validator("mask")
    @classmethod
    def known(cls, mask: list[str]) -> list[str]:
        """Refuse a class that nothing finds."""
        if unknown := sorted(set(mask) - set(pii.CLASSES)):
            raise ValueError(f"no such class: {', '.join(unknown)} (known: {', '.join(pii.CLASSES)})")
        return mask


class Safety(PipelineStep):
    """Sets reason, scores and masked of every document, and masks its text; counts `masked/<class>` of the kept."""

    type, name = "filter", "safety"

    def __init__(self, folder: Path, params: SafetyParams):
        super().__init__()
        self.params = params
        self.domains = blocklists.Domains(params.domains)
        self.words = blocklists.Words(params.words.lists)
        self.classifiers = {name: classifier.load(folder / name) for name in params.classifiers}

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, judged and masked."""
        for document in data:
            reason = self.judged(document.text, document.metadata)
            document.text, masked = pii.mask(document.text, self.params.mask)
            document.metadata["masked"] = masked
            if reason:
                document.metadata["reason"] = reason
            else:
                for kind, number in masked.items():
                    self.stat_update(f"masked/{kind}", value=number)
            yield document

    def judged(self, text: str, metadata: dict) -> str | None:
        """Why `text` is dropped, or None; writes the classifiers' scores into `metadata`."""
        if self.domains.listed(str(metadata.get("url") or "")):
            return "domain"
        density, different = self.words.density(text)
        if density > self.params.words.max_density and different >= self.params.words.min_different:
            return "words"
        scores = {name: round(model.score(text), 4) for name, model in self.classifiers.items()}
        metadata["scores"] = metadata.get("scores", {}) | scores
        for name, limit in self.params.classifiers.items():
            if scores[name] > limit.max_score:
                return limit.reason
        return None


def safety(deduped: Input, classifiers: Input, kept: Output, rejected: Output, metrics: Output, *,
           safety: SafetyParams, runtime: Runtime) -> None:
    """Judge and mask every document of `deduped` (shards) with the classifiers below the folder `classifiers`.

    Raises StageError: a list or classifier that cannot be used, or nothing left.
    """
    started = time.monotonic()
    shards = documents.shards(deduped)
    lists = [Path(one.path) for one in [*safety.domains, *safety.words.lists]]
    step = Remembered(Safety(classifiers, safety), "safety", classifiers, safety, *lists, blocklists.OWN)
    steps = [documents.ReadShards(deduped), step, documents.WriteShards(kept, rejected)]
    counts = executor.run("safety", steps, len(shards), runtime)
    table = retention.table(counts)
    if not table["kept"]:
        raise stage.StageError(f"safety dropped all {table['read']} documents {table['dropped']}: "
                               "loosen safety.words or safety.classifiers, or check the sources")
    masked = {kind: int(counts.get(f"masked/{kind}", 0)) for kind in safety.mask}
    stage.write_json(metrics, table | {"masked": masked})
    stage.write_timing("safety", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


if __name__ == "__main__":
    stage.run(safety)
