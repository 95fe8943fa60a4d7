"""Stage `filter`: keeps pages in the languages asked for that read like text, each dropped one with its one reason.

    python -m tasks.data.filter data/extracted data/packages/lid data/filtered data/rejected/filter \\
        metrics/filter.json

The language is found by fastText (tasks/data/language.py) and written to `metadata.language`; then the rules of
tasks/data/quality.py run with that language's thresholds. Pages in a language without thresholds are dropped.
"""

from __future__ import annotations

import time
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import documents, executor, retention
from tasks.data.language import Detector, ScriptDetector, detector
from tasks.data.quality import Page, Rules, judge
from tasks.params import Runtime, Section
from tasks.stage import Input, Output


class FilterParams(Section):
    """What is kept: the languages named, above a certainty, by the thresholds of each."""

    min_language_score: float = Field(ge=0, le=1, description="fastText's probability of the language it found")
    languages: dict[str, Rules] = Field(min_length=1, description="ISO 639 code -> thresholds")


class Quality(PipelineStep):
    """Sets `metadata.language`, and `metadata.reason` on the documents that a rule drops."""

    type, name = "filter", "quality"

    def __init__(self, detector: Detector | ScriptDetector, params: FilterParams):
        super().__init__()
        self.detector, self.params = detector, params

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, judged."""
        for document in data:
            if reason := self.judged(document.text, document.metadata):
                document.metadata["reason"] = reason
            yield document

    def judged(self, text: str, metadata: dict) -> str | None:
        """Why `text` is dropped, or None; writes the language found into `metadata`."""
        language, score = self.detector.detect(text)
        if not language:
            return "empty"
        metadata["language"] = language
        metadata["language_score"] = round(score, 3)
        if language not in self.params.languages:
            return "language"
        if score < self.params.min_language_score:
            return "language_score"
        return judge(Page(text, language), self.params.languages[language])


def filter(extracted: Input, lid: Input, kept: Output, rejected: Output, metrics: Output, *,
           filter: FilterParams, runtime: Runtime) -> None:
    """Judge every document of `extracted` (shards) with the fastText model in `lid`.

    Raises StageError where nothing is left, so that no later stage runs on an empty corpus.
    """
    started = time.monotonic()
    shards = documents.shards(extracted)
    steps = [documents.ReadShards(extracted), Quality(detector(lid), filter), documents.WriteShards(kept, rejected)]
    table = retention.table(executor.run("filter", steps, len(shards), runtime))
    if not table["kept"]:
        raise stage.StageError(f"the filter dropped all {table['read']} documents {table['dropped']}: "
                               "loosen filter.languages or check the sources")
    stage.write_json(metrics, table)
    stage.write_timing("filter", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


if __name__ == "__main__":
    stage.run(filter)
