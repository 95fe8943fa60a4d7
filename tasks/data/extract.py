"""Turns crawled pages into documents, and joins the text corpora to them.

`python -m tasks.data.extract data/crawl data/sources data/extracted data/rejected/extract metrics/extract.json`
reads the WARC files (one datatrove rank a file), decodes, takes the main content of pages and the text of PDF and
EPUB as Markdown, and writes documents with url, source, licence and language; what is dropped goes to the rejects with
its reason.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from selectolax.lexbor import LexborHTMLParser

from tasks import params, stage
from tasks.data import executor, retention
from tasks.data.documents import WriteShards
from tasks.data.pages import Extract, ReadPages
from tasks.data.remembered import Remembered
from tasks.stage import Input, Output, StageError


class ExtractParams(params.Section):
    """`extract:` of params.yaml."""

    method: Literal["auto", "fast", "careful"] = Field(description="see tasks/data/extractors.py")
    characters: int = Field(ge=1, description="a shorter document is dropped")
    page_bytes: int = Field(ge=1024, le=1 << 30, description="a larger page is dropped")
    skip: list[str] = Field(description="CSS selectors of what is not content on these sites")

    @field_validator("skip")
    @classmethod
    def selectors(cls, skip: list[str]) -> list[str]:
        """Refuse a selector here that would else cost every page."""
        for selector in skip:
            try:
                LexborHTMLParser("<p>x</p>").css(selector)
            except Exception as error:
                raise ValueError(f"{selector!r} is not a CSS selector ({error})") from None
        return skip


def extract(crawl: Input, sources: Input, extracted: Output, rejected: Output, metrics: Output, *,
            extract: ExtractParams, runtime: params.Runtime) -> None:
    """Write documents and rejects, one shard of each an input file. Raises StageError where nothing is to be read."""
    started = time.monotonic()
    files = inputs(crawl, sources)
    origins = json.loads((crawl / "origins.json").read_text(encoding="utf-8"))
    step = Extract(extract.method, extract.characters, extract.skip)
    steps = [ReadPages(files, origins, extract.page_bytes), Remembered(step, "extract", extract),
             WriteShards(extracted, rejected)]
    table = retention.table(executor.run("extract", steps, len(files), runtime))
    if not table["kept"]:
        raise StageError(f"extract kept none of {table['read']} documents ({table['dropped']}): "
                         "lower extract.characters, or look at the pages")
    stage.write_json(metrics, table)
    stage.write_timing("extract", {"seconds": round(time.monotonic() - started, 2), "documents": table["read"]})


def inputs(crawl: Path, sources: Path) -> list[Path]:
    """The files to read in order: crawled and ready WARC files, text shards. Raises StageError where there is none."""
    ready = sorted([*sources.glob("*/warc/*.warc.gz"), *sources.glob("*/warc/*.warc")])
    found = sorted(crawl.glob("*.warc.gz")) + ready + sorted(sources.glob("*/text/*.jsonl"))
    if not found:
        raise StageError(f"neither {crawl} holds WARC files nor {sources} text: run the crawl, or add a corpus")
    return found


if __name__ == "__main__":
    stage.run(extract)
