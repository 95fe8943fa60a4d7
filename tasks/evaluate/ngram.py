"""What counting gets on the language scores: token bigram and trigram of the training text, asked the same items.

The counts are those of the pretraining curve's baselines (tasks/pretrain/baselines.py, interpolated Kneser-Ney), over
the tokens of the evaluated model's own tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data import documents
from tasks.evaluate.baselines import hit
from tasks.pretrain.baselines import NGram
from tasks.tokenizer.shards import Stream

READ = 32 << 20     # bytes of training text that are counted, from its beginning: bounds memory
BATCH = 64          # documents tokenized at a time
ORDERS = {"bigram": 2, "trigram": 3}
Item = dict[str, Any]


class Counted:
    """The models of ORDERS over the text of `corpus` (a folder of shards), as `tokenizer` cuts it."""

    def __init__(self, corpus: Path, tokenizer: Any, vocabulary: int, separator: int) -> None:
        self.encode = lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.separator = separator
        rows = [np.array([separator, *ids], np.int64) for texts in beginning(corpus) for ids in self.encode(texts)]
        index = np.array([[len(row), 0] for row in rows], np.int64)
        stream = Stream(np.concatenate(rows), index)
        self.models = {name: NGram(stream, order, vocabulary) for name, order in ORDERS.items()}

    def nats(self, model: NGram, text: str) -> float:
        """Negative log-likelihood of a text after the document mark."""
        return model.nats(np.array([self.separator, *self.encode([text])[0]], np.int64)) if text else 0.0

    def held_out(self, items: Sequence[Item]) -> dict[str, float]:
        """Bits per byte of the held-out texts."""
        total = sum(len(item["text"].encode()) for item in items)
        return {name: sum(self.nats(model, item["text"]) for item in items) / math.log(2) / total
                for name, model in self.models.items()}

    def choice(self, items: Sequence[Item], by_length: bool) -> dict[str, float]:
        """Accuracy on multiple choice: the likeliest continuation, `by_length` of each character."""
        return {name: sum(self.picked(model, item, by_length) for item in items) / len(items)
                for name, model in self.models.items()}

    def picked(self, model: NGram, item: Item, by_length: bool) -> float:
        """Whether the right choice is the likeliest."""
        before = self.nats(model, item["prompt"])

        def score(text: str) -> float:
            value = before - self.nats(model, item["prompt"] + text)
            return value / len(text) if by_length else value

        return hit(item, score)


def beginning(corpus: Path) -> Iterator[list[str]]:
    """The texts of `corpus`, a batch at a time, until READ bytes have been read."""
    read, texts = 0, []
    for shard in documents.shards(corpus):
        for document in documents.read(shard):
            if read > READ:
                break
            texts.append(document.text)
            read += len(document.text.encode("utf-8", "replace"))
            if len(texts) == BATCH:
                yield texts
                texts = []
    if texts:
        yield texts
