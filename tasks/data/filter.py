"""Stage `filter`: keeps pages in the languages asked for that read like text, each dropped one with its one reason.

    python -m tasks.data.filter data/extracted data/packages/lid data/filtered data/rejected/filter \\
        metrics/filter.json

The language is found by fastText (tasks/data/language.py) and written to `metadata.language`; paragraphs in languages
without thresholds are cut (tasks/data/mixed.py), then lines that are no text (tasks/data/lines.py); then the rules of
tasks/data/quality.py run with that language's thresholds. What is cut is counted in `metadata.cut` and in the
retention table; a dropped document has the value and the limit of its rule in `metadata.rule`.
"""

from __future__ import annotations

import re
import time

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from pydantic import Field

from tasks import stage
from tasks.data import documents, executor, lines, mixed, retention
from tasks.data.language import Detector, ScriptDetector, detector
from tasks.data.measures import Page
from tasks.data.quality import Rules, Verdict, judge
from tasks.data.remembered import Remembered
from tasks.params import Runtime, Section
from tasks.stage import Input, Output

SURROGATES = re.compile("[\ud800-\udfff]")


class FilterParams(Section):
    """What is kept: the languages named, above a certainty, by the thresholds of each."""

    min_language_score: float = Field(ge=0, le=1, description="fastText's probability of the language it found")
    paragraphs: mixed.Paragraphs
    languages: dict[str, Rules] = Field(min_length=1, description="ISO 639 code -> thresholds")


class Quality(PipelineStep):
    """Sets `metadata.language`, cuts, and sets `metadata.reason` on the documents that a rule drops.

    Counts `cut/foreign_paragraphs`, `cut/lines` and the characters of both, of the documents that are kept.
    """

    type, name = "filter", "quality"

    def __init__(self, detector: Detector | ScriptDetector, params: FilterParams):
        super().__init__()
        self.detector, self.params = detector, params
        self.stop_words = {code: frozenset(rules.stop_words) for code, rules in params.languages.items()}

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Every document, judged."""
        for document in data:
            self.judge(document)
            if "reason" not in document.metadata:
                for name, value in document.metadata.get("cut", {}).items():
                    self.stat_update(f"cut/{name}", value=value)
            yield document

    def judge(self, document: Document) -> None:
        """Cut `document` and write into its metadata the language found, what was cut, and why it is dropped, if so.

        A dropped document keeps its text whole, so that its reason can be looked into.
        """
        text = SURROGATES.sub("\ufffd", document.text)
        document.text = text
        kept, cuts, verdict = self.judged(text, document.metadata)
        if cuts:
            document.metadata["cut"] = cuts
        if verdict:
            document.metadata["reason"] = verdict.reason
            document.metadata["rule"] = {"value": verdict.value, "limit": verdict.limit}
        else:
            document.text = kept

    def judged(self, text: str, metadata: dict) -> tuple[str, dict[str, int], Verdict | None]:
        """(text without what is cut, what was cut, why the document is dropped or None); writes the language found
        into `metadata`."""
        allowed = ", ".join(sorted(self.params.languages))
        language, score = self.found(text, metadata)
        if not language:
            return text, {}, Verdict("empty", 0, 1)
        left = mixed.split(text, self.params.languages, self.stop_words.get(language, frozenset()), self.detector,
                           self.params.paragraphs)
        cuts = {"foreign_paragraphs": left.paragraphs, "foreign_characters": left.characters} if left.paragraphs else {}
        if language not in self.params.languages and not left.known:
            return text, cuts, Verdict("language", language, allowed)
        share = (len(left.text) if language in self.params.languages else left.known) / len(text)
        if share < self.params.paragraphs.min_kept:
            return text, cuts, Verdict("mixed", round(share, 4), self.params.paragraphs.min_kept)
        if left.paragraphs:
            language, score = self.found(left.text, metadata)
        if language not in self.params.languages:
            return text, cuts, Verdict("language", language, allowed)
        if score < self.params.min_language_score:
            return text, cuts, Verdict("language_score", round(score, 4), self.params.min_language_score)
        rules = self.params.languages[language]
        whole = lines.cut(left.text, rules)
        if whole.lines:
            cuts |= {"lines": whole.lines, "line_characters": whole.characters}
        return whole.text, cuts, judge(Page(whole.text), rules)

    def found(self, text: str, metadata: dict) -> tuple[str, float]:
        """The detector's answer, written into `metadata`."""
        language, score = self.detector.detect(text)
        if language:
            metadata["language"] = language
            metadata["language_score"] = round(score, 3)
        return language, score


def filter(extracted: Input, lid: Input, kept: Output, rejected: Output, metrics: Output, *,
           filter: FilterParams, runtime: Runtime) -> None:
    """Judge every document of `extracted` (shards) with the fastText model in `lid`.

    Raises StageError where nothing is left, so that no later stage runs on an empty corpus.
    """
    started = time.monotonic()
    shards = documents.shards(extracted)
    steps = [documents.ReadShards(extracted), Remembered(Quality(detector(lid), filter), "filter", lid, filter),
             documents.WriteShards(kept, rejected)]
    table = retention.table(executor.run("filter", steps, len(shards), runtime))
    if not table["kept"]:
        raise stage.StageError(f"the filter dropped all {table['read']} documents {table['dropped']}: "
                               "loosen filter.languages or check the sources")
    stage.write_json(metrics, table)
    stage.write_timing("filter", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


if __name__ == "__main__":
    stage.run(filter)
