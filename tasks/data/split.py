"""Which documents are held out: decided by the hash of a document's text alone, so a corpus that grows moves none.

A document kept from training once stays so in every later refresh, unless the size limits below cut it off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from datatrove.data import Document
from pydantic import Field

from tasks.params import Section


class SplitParams(Section):
    """How much is held out. Training reads every other document, the ones cut off by the limits included."""

    fraction: float = Field(ge=0, lt=0.5, description="share of documents, by hash, that may be held out")
    max_documents: int = Field(ge=1, le=1_000_000, description="at most so many, the lowest hashes first")
    max_characters: int = Field(ge=1000, description="at most so much text in all; scoring time grows with it")
    max_document_characters: int = Field(ge=1000, description="longer documents are never held out")


def position(text: str) -> float:
    """A document's place in [0, 1), uniform: the first 8 bytes of the sha256 of its UTF-8 text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def held_out(documents: Iterable[Document], split: SplitParams) -> list[Document]:
    """The held-out documents of a corpus, in the order of their ids."""
    below = [(position(document.text), document.id, document) for document in documents
             if len(document.text) <= split.max_document_characters]
    chosen: list[Document] = []
    characters = 0
    for place, _, document in sorted(below, key=lambda entry: entry[:2]):
        if place >= split.fraction or len(chosen) == split.max_documents:
            break
        if characters + len(document.text) <= split.max_characters:
            chosen.append(document)
            characters += len(document.text)
    return sorted(chosen, key=lambda document: document.id)
