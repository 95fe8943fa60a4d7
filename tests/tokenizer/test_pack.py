"""Packed shards: documents come back whole, boundaries and byte counts are right, corruption is named."""

import json

import numpy as np
import pytest

from tasks import chat
from tasks.data.epochs import copies
from tasks.stage import StageError
from tasks.tokenizer import directory, shards, train
from tasks.tokenizer import pack as module
from tasks.tokenizer.train import TokenizerParams, learn

TEXTS = ["one two three four " * 9, "曹操大喜 12\n" * 7, f"literal {chat.END} and {chat.BOS} are text"]
HELD_OUT = ["held out, one two", "é"]


def write(path, texts):
    path.write_text("".join(json.dumps({"text": t, "id": f"{i:02d}", "metadata": {}}) + "\n"
                            for i, t in enumerate(texts)))
    return path


@pytest.fixture
def packed(tmp_path):
    learn(TEXTS * 9, TokenizerParams(vocab=300, min_frequency=2, sample_characters=1000), 64).save_pretrained(
        tmp_path / "tokenizer")
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus" / "00000.jsonl", [*TEXTS, ""])
    module.pack(tmp_path / "corpus", write(tmp_path / "held_out.jsonl", HELD_OUT), tmp_path / "tokenizer",
                tmp_path / "packed", tmp_path / "metrics.json", pack=module.PackParams(batch_documents=2), seed=1)
    return tmp_path / "packed"


def decoded(packed, split):
    made, stream = directory.load(packed.parent / "tokenizer"), shards.open_stream(packed, split)
    documents = stream.documents()
    assert all(document[0] == made.bos_token_id for document in documents)
    assert all((document[1:] > 3).all() for document in documents), "a special token inside a document"
    return [made.decode(document[1:]) for document in documents], stream


def test_documents_come_back_in_a_seeded_order_without_the_empty_one(packed):
    texts, stream = decoded(packed, "train")
    assert sorted(texts) == sorted(TEXTS)
    assert stream.index[:, 1].tolist() == [len(text.encode()) for text in texts]
    assert stream.index[:, 0].sum() == len(stream.tokens)


def test_held_out_documents_keep_their_order_and_bytes(packed):
    texts, stream = decoded(packed, "held_out")
    assert texts == HELD_OUT
    assert stream.index[:, 1].tolist() == [17, 2]
    assert shards.kinds(packed, "held_out", 2) == [dict.fromkeys(shards.KINDS, "unknown")] * 2


def test_the_batch_size_changes_no_byte(packed, tmp_path):
    module.pack(tmp_path / "corpus", tmp_path / "held_out.jsonl", tmp_path / "tokenizer", tmp_path / "again",
                tmp_path / "m.json", pack=module.PackParams(batch_documents=100), seed=1)
    for path in packed.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def corpus_of(folder, epochs):
    """A folder of one shard: document n with its epochs, texts all different."""
    folder.mkdir()
    (folder / "00000.jsonl").write_text("".join(json.dumps(
        {"text": f"one two {n}", "id": f"d{n:03d}", "metadata": {} if times is None else {"epochs": times}}) + "\n"
        for n, times in enumerate(epochs)))
    return folder


def test_documents_repeat_by_their_epochs_far_apart_and_the_rest_keeps_its_order(tmp_path):
    plain = [name for name, _ in module.in_order(corpus_of(tmp_path / "plain", [None] * 90), 7)]
    epochs = [[None, 1, 2.0, 4.0, 0.0, 2.5][n % 6] for n in range(90)]
    laid = module.in_order(corpus_of(tmp_path / "mixed", epochs), 7)
    names = [name for name, _ in laid]
    for n, times in enumerate(epochs):
        places = [place for place, name in enumerate(names) if name == f"d{n:03d}"]
        times = 1 if times is None else times
        assert len(places) in (int(times), -int(-times // 1)) and len(places) == copies(f"d{n:03d}", times)
        for here, there in zip(places, places[1:]):  # evenly: an n-th of the stream, give or take its unevenness
            assert abs((there - here) / len(names) - 1 / len(places)) < 0.15
    assert len(plain) == 90 and sorted(plain) != plain  # one epoch each: the order of the hashes, as ever
    single = {f"d{n:03d}" for n, times in enumerate(epochs) if times in (None, 1)}
    assert [name for name in names if name in single] == [name for name in plain if name in single]
    assert all(text == f"one two {int(name[1:])}" for name, text in laid)


def test_repeated_tokens_are_counted_and_whole_epochs_are_the_stream_again(packed, tmp_path):
    made = {}
    for name, epochs in (("once", [1] * 20), ("thrice", [3.0] * 20)):
        corpus_of(tmp_path / name, epochs)
        module.pack(tmp_path / name, tmp_path / "held_out.jsonl", tmp_path / "tokenizer", tmp_path / f"{name}-packed",
                    tmp_path / f"{name}.json", pack=module.PackParams(batch_documents=7), seed=1)
        made[name] = json.loads((tmp_path / f"{name}.json").read_text())["train"]
    assert made["once"]["repeated_tokens"] == 0 and made["once"]["distinct_documents"] == 20
    assert made["thrice"]["repeated_tokens"] == 2 * made["once"]["tokens"]
    assert made["thrice"]["tokens"] == 3 * made["once"]["tokens"] and made["thrice"]["distinct_documents"] == 20
    once, thrice = ((tmp_path / f"{name}-packed/train.bin").read_bytes() for name in ("once", "thrice"))
    assert thrice == 3 * once


def test_the_tokenizer_learns_from_each_document_once(tmp_path):
    once, often = (train.sample(corpus_of(tmp_path / name, epochs), 10**6)
                   for name, epochs in (("a", [1] * 9), ("b", [4.0] * 9)))
    assert once == often and len(once) == 9


@pytest.mark.parametrize("epochs", [-1, "two", None])
def test_epochs_that_are_none_are_named(tmp_path, epochs):
    corpus_of(tmp_path / "corpus", [1])
    (tmp_path / "corpus/00000.jsonl").write_text(json.dumps({"text": "x", "id": "a", "metadata": {"epochs": epochs}}))
    with pytest.raises(StageError, match="document a has epochs"):
        module.in_order(tmp_path / "corpus", 1)


@pytest.mark.parametrize("name", ["train.bin", "train.idx"])
def test_one_flipped_bit_is_found_and_named(packed, name):
    data = bytearray((packed / name).read_bytes())
    data[len(data) // 2] ^= 1
    (packed / name).write_bytes(data)
    with pytest.raises(StageError, match=f"{name} is corrupt"):
        shards.open_stream(packed, "train")


def test_a_missing_shard_and_a_broken_meta_are_named(packed):
    (packed / "train.bin").unlink()
    with pytest.raises(StageError, match="train.bin is missing"):
        shards.open_stream(packed, "train")
    (packed / "meta.json").write_text("[]")
    with pytest.raises(StageError, match="meta.json is missing or broken"):
        shards.open_stream(packed, "held_out")


def test_large_vocabularies_take_four_bytes(tmp_path):
    assert shards.token_type(65536).itemsize == 2 and shards.token_type(65537).itemsize == 4
    entry = shards.write(tmp_path, "train", [(np.array([70000, 1]), 3)], shards.token_type(70001))
    assert (tmp_path / "train.bin").read_bytes() == (70000).to_bytes(4, "little") + (1).to_bytes(4, "little")
    assert (entry["documents"], entry["tokens"], entry["bytes"]) == (1, 2, 3)


def test_no_held_out_text_and_no_tokenizer_are_refused(packed, tmp_path):
    kept = {"pack": module.PackParams(batch_documents=2), "seed": 1}
    with pytest.raises(StageError, match="holds no document with text"):
        module.pack(tmp_path / "corpus", write(tmp_path / "none.jsonl", [""]), tmp_path / "tokenizer",
                    tmp_path / "out", tmp_path / "m.json", **kept)
    with pytest.raises(StageError, match="not a tokenizer directory"):
        module.pack(tmp_path / "corpus", tmp_path / "held_out.jsonl", tmp_path / "corpus", tmp_path / "out",
                    tmp_path / "m.json", **kept)
