"""The model's held-out bits per byte beside the baselines', and the gate on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.pretrain import baselines, domains, scoring
from tasks.pretrain.settings import PretrainParams
from tasks.stage import StageError
from tasks.tokenizer import directory, shards


def compare(packed: Path, tokenizer: Path, nats: list[float]) -> dict[str, object]:
    """Held-out bits per byte of the model, from its nats [documents], and of every baseline on the same text; of the
    model and the n-grams by language, domain and source too."""
    train, held_out = shards.open_stream(packed, "train"), shards.open_stream(packed, "held_out")
    made, size = directory.load(tokenizer), held_out.index[:, 1]
    model, error = scoring.bits_per_byte(np.array(nats), size)
    texts = {split: "\n".join(made.decode(document[1:]) for document in stream.documents()).encode()
             for split, stream in (("train", train), ("held_out", held_out))}
    ngrams = baselines.ngrams(train, held_out, shards.meta(packed)["vocabulary"])
    scores = {name: scoring.bits_per_byte(found, size)[0] for name, found in ngrams.items()}
    scores |= baselines.compressors(texts["train"], texts["held_out"], int(size.sum()))
    return {
        "held_out_bpb": round(model, 5), "held_out_bpb_stderr": round(error, 5),
        "by_kind": domains.table({"held_out_bpb": np.array(nats)} | ngrams, size,
                                 shards.kinds(packed, "held_out", len(size))),
        "baselines_bpb": {name: round(value, 5) for name, value in scores.items()},
        "held_out": {"documents": len(size), "bytes": int(size.sum()), "tokens": int(held_out.index[:, 0].sum())},
        "train_tokens": int(train.index[:, 0].sum()),
    }


def gate(table: dict[str, object], settings: PretrainParams) -> None:
    """Raise StageError unless the model beats every baseline of `must_beat`."""
    for name in settings.must_beat:
        limit = table["baselines_bpb"][name]
        if table["held_out_bpb"] >= limit:
            found = table["held_out_bpb"]
            raise StageError(f"held-out bits per byte {found:.3f} are not below the {name}'s {limit:.3f}: "
                             "train on more tokens, or take it out of pretrain.must_beat")
