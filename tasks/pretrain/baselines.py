"""What the model must beat on the same held-out text: token n-grams and general compressors.

The n-grams count the very training tokens the model had to draw from, all of them, and predict the very held-out
tokens it is scored on. `gzip` and `xz` compress the held-out text alone, the documents joined by newlines;
`xz_after_train` is what the held-out text adds to an xz archive when the training text, as much of it as the window
holds, precedes it.
"""

from __future__ import annotations

import gzip
import lzma

import numpy as np

from tasks.tokenizer.shards import Stream

WINDOW = 32 << 20  # bytes of training text xz_after_train may look back on


class NGram:
    """An interpolated Kneser-Ney model (Kneser and Ney 1995; Chen and Goodman 1999) of `order` 1 to 3 over tokens.

    An order's discount is n1 / (n1 + 2 n2) of its own counts of counts, each with one added, so that it is never
    nothing and every token keeps a chance. Lower orders count distinct left
    neighbours; n-grams that open with the document separator, which has none, keep their plain counts. A bare
    unigram discounts its counts towards uniform.
    """

    def __init__(self, stream: Stream, order: int, vocabulary: int):
        self.order, self.vocabulary = order, vocabulary
        self.tables: list[tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray, np.ndarray]] = []
        starts = np.zeros(len(stream.tokens), dtype=bool)
        starts[stream.starts()[:-1]] = True
        plain = [self._count(stream.tokens, starts, n) for n in range(1, order + 1)]
        separator = int(stream.tokens[0])
        for n in range(1, order + 1):
            keys, counts = plain[n - 1]
            if n < order:
                suffixes, left = np.unique(plain[n][0] % vocabulary**n, return_counts=True)
                opening = (keys // vocabulary ** (n - 1) == separator) if n > 1 else np.zeros(len(keys), dtype=bool)
                counts = np.where(opening, counts, _look_up(suffixes, left, keys))
                keys, counts = keys[counts > 0], counts[counts > 0]
            once, twice = int((counts == 1).sum()) + 1, int((counts == 2).sum()) + 1
            contexts, first = np.unique(keys // vocabulary, return_index=True)
            self.tables.append((keys, counts, once / (once + 2 * twice), contexts,
                                np.add.reduceat(counts, first), np.diff(np.append(first, len(keys)))))

    def _count(self, tokens: np.ndarray, starts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Distinct n-grams as base-vocabulary numbers, sorted, and their counts; none crosses into a document."""
        length = len(tokens) - n + 1
        keys = np.zeros(length, dtype=np.int64)
        whole = np.ones(length, dtype=bool)
        for place in range(n):
            keys = keys * self.vocabulary + tokens[place:place + length]
            if place or n == 1:
                whole &= ~starts[place:place + length]
        return np.unique(keys[whole], return_counts=True)

    def nats(self, tokens: np.ndarray) -> float:
        """Negative log-likelihood, in nats, of a document's tokens [n] after its separator."""
        tokens = tokens.astype(np.int64)
        words = tokens[1:]
        chance = np.full(len(words), 1 / self.vocabulary)
        for n, (keys, counts, discount, contexts, totals, kinds) in enumerate(self.tables, 1):
            context = np.zeros(len(words), dtype=np.int64)
            for back in range(n - 1, 0, -1):
                # a context that would begin before the document matches nothing: -1 stays below every key
                earlier = np.concatenate([np.full(max(0, back - 1), -1), tokens[:len(tokens) - back]])[:len(words)]
                context = np.where((context < 0) | (earlier < 0), -1, context * self.vocabulary + earlier)
            total = _look_up(contexts, totals, context)
            seen = _look_up(keys, counts, np.where(context < 0, -1, context * self.vocabulary + words))
            kind = _look_up(contexts, kinds, context)
            mixed = (np.maximum(seen - discount, 0) + discount * kind * chance) / np.maximum(total, 1)
            chance = np.where(total > 0, mixed, chance)
        return float(-np.log(chance).sum())


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`values` of the sorted `keys` at `wanted`, 0 where absent."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def ngrams(train: Stream, held_out: Stream, vocabulary: int) -> dict[str, np.ndarray]:
    """Nats float64 [documents] of each held-out document under the token unigram, bigram and trigram."""
    return {name: np.array([model.nats(document) for document in held_out.documents()])
            for name, model in ((name, NGram(train, order, vocabulary)) for order, name in
                                enumerate(("unigram", "bigram", "trigram"), 1))}


def compressors(train: bytes, held_out: bytes, size: int) -> dict[str, float]:
    """Bits per byte of `held_out`, over `size` bytes, under gzip -9, xz -9e, and xz with the training text before."""
    before = train[-WINDOW:]
    return {name: 8 * length / size for name, length in {
        "gzip": len(gzip.compress(held_out, 9, mtime=0)),
        "xz": len(lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)),
        "xz_after_train": _xz(before + held_out) - _xz(before),
    }.items()}


def _xz(data: bytes) -> int:
    """Length of `data` under xz -6 with a window that holds all of it."""
    window = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": max(1 << 16, 1 << (len(data) - 1).bit_length())}
    return len(lzma.compress(data, filters=[window]))
