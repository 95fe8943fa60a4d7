"""The search action: BM25 over the paragraphs of the training corpus; the best one's telling sentences come back.

Latin words are matched lower-cased, Chinese by character pairs. Ties are broken by document id, so a query has one
answer. The text that comes back is data from the outside: the loop never reads it as an instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from tasks.agents.tools import ActionError

SHORTEST, LONGEST = 160, 1_500  # characters of a paragraph: shorter ones (headings, signatures) join the next
SNIPPET = 320                   # characters that the model is shown
QUERY = 60                      # characters of a query
WORD = re.compile(r"[a-z0-9_]+|[\u3400-\u9fff]+")
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")


class Index:
    """BM25 (bm25s, Lucene's variant) over the paragraphs of a corpus directory."""

    def __init__(self, corpus: Path) -> None:
        """Read every `*.jsonl` under `corpus`. Raises ActionError where there is no text or a line is broken."""
        import bm25s

        self.ids: list[str] = []
        self.texts: list[str] = []
        for identity, text in documents(corpus):
            for paragraph in paragraphs(text):
                self.ids.append(identity)
                self.texts.append(paragraph)
        if not self.texts:
            raise ActionError(f"{corpus} holds no text to search")
        self.bm25 = bm25s.BM25(method="lucene")
        self.bm25.index([words(text) for text in self.texts], show_progress=False)

    def search(self, query: str) -> str:
        """`sentences (from document id)` of the best paragraph, or a line saying that nothing matched."""
        wanted = [word for word in words(query) if word in self.bm25.vocab_dict]
        if not wanted:
            return "nothing found"
        scores = self.bm25.get_scores(wanted)
        best = int(np.argmax(scores))    # the first of equals: paragraphs stand in document order
        return f"{snippet(self.texts[best], set(wanted))} (from {self.ids[best]})"

    def action(self) -> Callable[..., str]:
        """The action function over this index."""
        def search(query: Annotated[str, Field(min_length=1, max_length=QUERY)]) -> str:
            """find text in the documents"""
            return self.search(query)
        return search


def documents(corpus: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each document under a corpus directory, files and lines in order."""
    for shard in sorted(corpus.rglob("*.jsonl")):
        with shard.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    document = json.loads(line)
                    yield str(document["id"]), str(document["text"])
                except (json.JSONDecodeError, KeyError, TypeError):
                    raise ActionError(f"{shard}:{number} is no document ({{'text', 'id'}} as JSON)") from None


def paragraphs(text: str) -> Iterator[str]:
    """Blocks between blank lines, short ones joined to what follows, long ones cut at LONGEST."""
    held = ""
    for block in re.split(r"\n\s*\n", text):
        held = f"{held}\n{block.strip()}".strip()
        if len(held) < SHORTEST:
            continue
        for start in range(0, len(held), LONGEST):
            yield held[start:start + LONGEST]
        held = ""
    if held:
        yield held


def words(text: str) -> list[str]:
    """Terms of a text: lower-cased words, and overlapping pairs of Chinese characters."""
    terms: list[str] = []
    for run in WORD.findall(text.lower()):
        if run[0] < "\u3400" or len(run) == 1:
            terms.append(run)
        else:
            terms.extend(run[at:at + 2] for at in range(len(run) - 1))
    return terms


def snippet(text: str, wanted: set[str]) -> str:
    """The run of sentences, at most SNIPPET characters, that holds the most of the wanted terms."""
    sentences = [part.strip() for part in SENTENCE.split(text) if part and part.strip()]
    hits = [len(wanted.intersection(words(sentence))) for sentence in sentences]
    start = max(range(len(sentences)), key=lambda at: (hits[at], -at))
    chosen = sentences[start]
    for following in sentences[start + 1:]:
        if len(chosen) + len(following) + 1 > SNIPPET:
            break
        chosen = f"{chosen} {following}"
    return chosen if len(chosen) <= SNIPPET else chosen[:SNIPPET].rsplit(" ", 1)[0] + " ..."
