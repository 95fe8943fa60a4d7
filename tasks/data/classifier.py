"""A small text classifier: logistic regression over hashed word and character n-grams, English and Chinese alike.

A text is read as a bounded number of passages spread over it, so a long one costs no more than a short one. A passage
becomes the set of its hashed features (Weinberger et al. 2009): runs of 1 to `words` words of the one tokenization
(tasks/data/words.py) and runs of `characters` characters, each set scaled to unit length. The passages' margins are
pooled into one, which Platt's sigmoid (Platt 1999) turns into a probability. A trained classifier is a folder of
weights.npy and model.json: numbers only, safe to load, and scikit-learn is needed to train alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from tasks import params, stage
from tasks.data import words
from tasks.stage import StageError

WEIGHTS, MODEL = "weights.npy", "model.json"
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth 6.4): multiply, keep the high bits
SALTS = np.random.default_rng(0).integers(1 << 63, size=16, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
CALIBRATION = 5  # one text in so many is kept from the weights and calibrates them
FEWEST = 10      # texts of each class


class Features(params.Section):
    """What a classifier sees of a text."""

    bits: int = Field(ge=8, le=22, description="log2 of the number of hashed features")
    words: int = Field(ge=0, le=4, description="longest run of words")
    characters: int = Field(ge=0, le=6, description="length of runs of characters; 0 for none")
    passage: int = Field(ge=50, le=100_000, description="characters of a passage at most")
    passages: int = Field(ge=1, le=64, description="passages read of a text at most, spread evenly over it")


Pool = Literal["mean", "max"]  # a text is as its passages on average, or as the one with the highest margin


class Calibrated(params.Section):
    """model.json: what is seen, how passages are pooled, and the line from a pooled margin to log-odds."""

    features: Features
    pool: Pool
    intercept: float = Field(allow_inf_nan=False)
    slope: float = Field(allow_inf_nan=False)
    offset: float = Field(allow_inf_nan=False)


class Classifier:
    """Weights float32[2**bits] and a calibration; gives the probability of the positive class.

    The probability is at the share of positives among the training texts.
    """

    def __init__(self, weights: np.ndarray, calibrated: Calibrated):
        self.weights, self.calibrated = weights, calibrated

    def margin(self, text: str) -> float:
        """Pooled log-odds of the passages, not calibrated."""
        pool = max if self.calibrated.pool == "max" else _mean
        return self.calibrated.intercept + pool(
            [float(self.weights[found].sum(dtype=np.float64)) / math.sqrt(max(len(found), 1))
             for found in passage_features(text, self.calibrated.features)])

    def score(self, text: str) -> float:
        """Calibrated probability of the positive class, in [0, 1]."""
        odds = self.calibrated.slope * self.margin(text) + self.calibrated.offset
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0

    def scores(self, texts: Iterable[str]) -> np.ndarray:
        """float32[n]: the score of each text."""
        return np.array([self.score(text) for text in texts], dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write weights.npy and model.json to `folder`; equal classifiers give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / WEIGHTS, self.weights)
        stage.write_json(folder / MODEL, self.calibrated.model_dump())


def load(folder: Path) -> Classifier:
    """The classifier that `save` left in `folder`. Raises StageError: absent, corrupt, or parts that do not fit."""
    remedy = "train it again by the stage classifiers (dvc repro)"
    try:
        calibrated = Calibrated.model_validate(json.loads((folder / MODEL).read_text("utf-8")))
        weights = np.load(folder / WEIGHTS, allow_pickle=False)
    except FileNotFoundError as error:
        raise StageError(f"{error.filename} is not there: {remedy}") from None
    except ValidationError as error:
        raise StageError(f"{folder / MODEL} is no classifier ({params.explain(error, MODEL)}): {remedy}") from None
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise StageError(f"{folder} holds no whole classifier ({stage.one_line(error)}): {remedy}") from None
    wanted = (1 << calibrated.features.bits,)
    if not isinstance(weights, np.ndarray) or weights.shape != wanted or weights.dtype != np.float32:
        found = f"{getattr(weights, 'dtype', type(weights).__name__)}{list(getattr(weights, 'shape', []))}"
        raise StageError(f"{folder / WEIGHTS} is {found}, {MODEL} says float32{list(wanted)}: {remedy}")
    if not np.isfinite(weights).all():
        raise StageError(f"{folder / WEIGHTS} holds values that are not finite: {remedy}")
    return Classifier(weights, calibrated)


def train(texts: Sequence[str], labels: Sequence[int], *, features: Features, pool: Pool, regularization: float,
          seed: int) -> Classifier:
    """Fit a classifier to `texts` and their labels (1 positive, 0 negative), the same one whatever the threads.

    regularization: weight of half the squared length of the weights against the sum of log losses.
    A fifth of the texts, by the hash of seed and text, calibrates and does not fit.
    Raises StageError: labels other than 0 and 1, lengths that differ, too few texts of a class.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    wanted = check(texts, labels)
    kept = np.array([calibrates(text, seed) for text in texts])
    for side in (kept, ~kept):
        if len(set(wanted[side])) < 2:
            raise StageError(f"a classifier's {len(texts)} texts leave one class out of the "
                             f"{'calibration' if side is kept else 'training'} part: give it more different texts")
    fitted = np.flatnonzero(~kept)
    # a sum's order, and so its last bit, depends on the number of threads
    with threadpool_limits(limits=1):
        table, owners = matrix([texts[i] for i in fitted], features)
        model = LogisticRegression(C=1 / regularization, tol=1e-6, max_iter=1000)
        model.fit(table, wanted[fitted][owners])
        raw = Calibrated(features=features, pool=pool, intercept=float(model.intercept_[0]), slope=1.0, offset=0.0)
        weights = model.coef_[0].astype(np.float32)
        margins = np.array([Classifier(weights, raw).margin(texts[i]) for i in np.flatnonzero(kept)])
        sigmoid = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(margins[:, None], wanted[kept])
    line = {"slope": float(sigmoid.coef_[0, 0]), "offset": float(sigmoid.intercept_[0])}
    return Classifier(weights, raw.model_copy(update=line))


def check(texts: Sequence[str], labels: Sequence[int]) -> np.ndarray:
    """`labels` as int8[n]. Raises StageError where they cannot train a classifier."""
    if len(texts) != len(labels):
        raise StageError(f"a classifier got {len(texts)} texts and {len(labels)} labels: one label a text")
    if odd := [label for label in labels if label not in (0, 1)]:
        raise StageError(f"a classifier's label is {odd[0]!r}: 1 is positive, 0 negative")
    wanted = np.array(labels, dtype=np.int8)
    positive = int(wanted.sum())
    if min(positive, len(texts) - positive) < FEWEST:
        raise StageError(f"a classifier got {positive} positive and {len(texts) - positive} negative texts: "
                         f"it takes {FEWEST} of each at least")
    return wanted


def calibrates(text: str, seed: int) -> bool:
    """Whether `text` is in the part that calibrates: decided by its hash, so equal texts are on one side."""
    digest = hashlib.blake2b(f"{seed}:{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % CALIBRATION == 0


def matrix(texts: Sequence[str], features: Features) -> tuple[Any, np.ndarray]:
    """(scipy CSR float64[passages, 2**bits] of unit rows, int[passages] which text each row is a passage of)."""
    from scipy.sparse import csr_array

    rows, owners = [], []
    for number, text in enumerate(texts):
        for found in passage_features(text, features):
            rows.append(found)
            owners.append(number)
    lengths = np.array([len(row) for row in rows])
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    columns = np.concatenate(rows).astype(np.int64) if rows else np.empty(0, np.int64)
    return csr_array((values, columns, bounds), shape=(len(rows), 1 << features.bits)), np.array(owners)


def passages(text: str, features: Features) -> Iterator[str]:
    """Equal pieces of a text, or, of a long one, pieces spread evenly from its beginning to its end."""
    count = max(min(features.passages, -(-len(text) // features.passage)), 1)
    size = min(features.passage, -(-len(text) // count))
    for number in range(count):
        start = number * (len(text) - size) // max(count - 1, 1)
        yield text[start:start + size]


@functools.lru_cache(maxsize=2)  # several classifiers score one text in turn
def passage_features(text: str, features: Features) -> tuple[np.ndarray, ...]:
    """For each passage the sorted, distinct numbers of its features (intp, below 2**bits)."""
    return tuple(hashed(passage, features) for passage in passages(text, features))


def hashed(passage: str, features: Features) -> np.ndarray:
    """The sorted, distinct feature numbers of one passage (intp, below 2**bits)."""
    shift = np.uint64(64 - features.bits)
    found = []
    if features.words:
        tokens = words.normal_words(passage)
        codes = np.array([zlib.crc32(token.encode("utf-8", "surrogatepass")) for token in tokens], dtype=np.uint64)
        found = [run(codes, n, SALTS[n]) for n in range(1, features.words + 1)]
    if features.characters:
        codes = np.frombuffer(passage.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        found.append(run(codes, features.characters, SALTS[8 + features.characters]))
    mixed = np.concatenate(found) if found else np.empty(0, np.uint64)
    return np.unique(mixed >> shift).astype(np.intp)


def run(codes: np.ndarray, n: int, salt: np.uint64) -> np.ndarray:
    """uint64 hashes of every run of n codes (uint64); empty where there are fewer."""
    count = max(len(codes) - n + 1, 0)
    mixed = np.full(count, salt)
    for i in range(n):
        mixed = (mixed ^ codes[i:i + count]) * MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed * MIX


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
