"""Pack documents into token streams with document boundaries: what pretraining and its baselines read.

    python -m tasks.tokenizer.pack data/corpus data/evalsets/held_out.jsonl models/tokenizer data/packed \\
        metrics/pack.json

Training documents are laid out in a seeded order, each as often as its `metadata.epochs` says, its copies evenly far
apart; held-out ones in the order of their file. A document that spells a special token ("<|im_end|>") is text like any
other: it is packed as the bytes it is, never as the token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from tasks import params, stage
from tasks.data import documents
from tasks.data.epochs import copies
from tasks.progress import track
from tasks.stage import Input, Output, StageError
from tasks.tokenizer import directory, shards


class PackParams(params.Section):
    """How documents become a stream."""

    batch_documents: int = Field(ge=1, le=100_000, description="documents tokenized together")


def pack(corpus: Input, held_out: Input, tokenizer: Input, packed: Output, metrics: Output, *, pack: PackParams,
         seed: int) -> None:
    """Write packed/{train,held_out}.{bin,idx}, held_out.about.jsonl and meta.json. Raises StageError where a split
    holds no document."""
    made = directory.load(tokenizer)
    kind = shards.token_type(len(made))
    packed.mkdir(parents=True)
    kept = [document for document in documents.read(held_out) if document.text]
    texts = {"train": in_order(corpus, seed), "held_out": [(document.id, document.text) for document in kept]}
    about: dict[str, object] = {
        "tokenizer": directory.fingerprint(tokenizer), "vocabulary": len(made), "dtype": kind.str,
        "separator": made.bos_token_id}
    for split in shards.SPLITS:
        if not texts[split]:
            empty = corpus if split == "train" else held_out
            raise StageError(f"{empty} holds no document with text: nothing to pack")
        rows = tokenize(made, [text for _, text in texts[split]], pack.batch_documents, split)
        about[split] = shards.write(packed, split, rows, kind)
    shards.write_kinds(packed, "held_out", ({kind: str(document.metadata.get(kind) or "unknown")
                                             for kind in shards.KINDS} for document in kept))
    stage.write_json(packed / "meta.json", about)
    stage.write_json(metrics, {
        split: {key: about[split][key] for key in ("documents", "tokens", "bytes")}
        | {"bytes_per_token": round(about[split]["bytes"] / about[split]["tokens"], 4)}
        | repeated([name for name, _ in texts[split]], shards.open_stream(packed, split).index[:, 0])
        for split in shards.SPLITS})


def repeated(names: list[str], lengths: np.ndarray) -> dict[str, int]:
    """Of a stream's documents, by name and tokens [n]: how many are distinct, and the tokens of further copies."""
    _, first = np.unique(np.array(names), return_index=True)
    return {"distinct_documents": len(first), "repeated_tokens": int(lengths.sum() - lengths[first].sum())}


def in_order(corpus: Path, seed: int) -> list[tuple[str, str]]:
    """(id, text) of the corpus's documents, each once for each of its epochs (1 where it names none).

    A document's hash of (seed, id) is its place in the stream, so neighbours in a site are parted. The stream is cut
    into as many equal parts as the document has copies, and each part holds one at that place, so that a document of
    n copies comes back after an n-th of the stream.
    """
    found: list[tuple[int, int, str, str]] = []
    for shard in track(documents.shards(corpus), what="read", unit="shard"):
        for document in documents.read(shard):
            if document.text:
                place = int.from_bytes(hashlib.sha256(f"{seed}:{document.id}".encode()).digest(), "big")
                count = copies(document.id, document.metadata.get("epochs", 1))
                found += [((place + (copy << 256)) // count, copy, document.id, document.text)
                          for copy in range(count)]
    return [(name, text) for *_, name, text in sorted(found, key=lambda entry: entry[:3])]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], batch: int,
             split: str) -> Iterator[tuple[np.ndarray, int]]:
    """(separator and tokens int64 [n], UTF-8 bytes of the text) for each text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    bar = track(total=len(texts), what=f"tokenize {split}", unit="doc")
    for first in range(0, len(texts), batch):
        part = texts[first:first + batch]
        for text, encoded in zip(part, backend.encode_batch_fast(part, add_special_tokens=False)):
            yield np.array([tokenizer.bos_token_id, *encoded.ids], dtype=np.int64), len(text.encode())
        bar.update(len(part))
    bar.close()


if __name__ == "__main__":
    stage.run(pack)
