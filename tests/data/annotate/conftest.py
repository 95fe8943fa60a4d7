"""A folder with real-looking documents, kept and rejected, in English and Chinese, and an Annotation over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.data.annotate import items
from tasks.data.annotate.annotation import Annotation, folder
from tasks.data.annotate.labels import QUALITY


def kept(data):
    """24 documents, a third of them Chinese, with scores over the whole range."""
    english = [data.document(f"en:{n:02d}", f"Chapter {n}. " + "The engine opens a connection. " * 5, "en",
                             scores={"fluency": n / 16, "toxicity": 1 - n / 16}) for n in range(16)]
    return english + [data.document(f"zh:{n:02d}", data.chinese(n), "zh") for n in range(8)]


def dropped(data):
    """12 rejects of four reasons."""
    reasons = ("short_lines", "broken_encoding", "ads", "unheard_of")
    return [data.document(f"no:{n:02d}", f"Reject number {n}: buy now!", "en", reason=reasons[n % 4])
            for n in range(12)]


@pytest.fixture
def chain(workspace, data):
    """A working directory as the chain leaves it."""
    data.write_shards(Path("data/deduped"), kept(data))
    data.write_shards(Path("data/rejected/filter"), dropped(data))
    data.write_shards(Path("data/rejected/dedup"), [data.document("twin", "Seen before.", "en", reason="near")])
    data.write_shards(Path("data/rejected/safety"), [data.document("rude", "An insult.", "en", reason="toxic")])
    Path("params.yaml").write_text("seed: 7\n")
    return workspace


@pytest.fixture
def annotation(chain):
    """The quality task with 20 items."""
    place = folder(QUALITY)
    found = items.chosen(place / "items.jsonl", QUALITY, 20, 7, items.documents_of_chain(QUALITY))
    return Annotation(QUALITY, found, place, 7)
