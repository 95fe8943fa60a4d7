"""The tokenizer: any text comes back, digits stand alone, the chat's tokens are one token each, bytes are stable."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tasks import chat, params
from tasks.model import ModelParams
from tasks.stage import StageError
from tasks.tokenizer import train as module
from tasks.tokenizer.train import TokenizerParams

TEXTS = ["The session flushes 12 pending rows, then commits them. " * 20, "曹操引兵追赶，玄德败走。曹操大喜。" * 30,
         "def flush(self, objects=None):\n    return self._flush(objects)\n" * 20]
SHAPE = ModelParams(base=None, hidden=64, intermediate=64, layers=1, heads=1, kv_heads=1, head_dim=64, positions=64,
                    rope_theta=10000.0)


def corpus(folder, texts=TEXTS):
    folder.mkdir()
    (folder / "00000.jsonl").write_text("".join(
        json.dumps({"text": text, "id": f"{i:03d}", "metadata": {}}) + "\n" for i, text in enumerate(texts)))
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    home = tmp_path_factory.mktemp("tokenizer")
    module.train(corpus(home / "corpus"), home / "made", home / "metrics.json",
                 tokenizer=TokenizerParams(vocab=340, min_frequency=2, sample_characters=100_000), model=SHAPE)
    return home / "made"


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_unicode_comes_back(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_merges_were_learnt_and_digits_were_not(tokenizer):
    for text in ("曹操大喜。", "The session flushes pending rows"):
        assert len(ids(tokenizer, text)) <= len(text.encode()) / 2
    assert [tokenizer.decode([token]) for token in ids(tokenizer, "x120")][1:] == ["1", "2", "0"]


def test_specials_are_single_tokens_with_the_documented_roles(tokenizer):
    assert [ids(tokenizer, special) for special in chat.SPECIALS] == [[0], [1], [2], [3]]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (chat.BOS, chat.END, chat.PAD)
    assert len(tokenizer) == 340


def test_the_template_travels_with_the_directory(tokenizer):
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False,
                                          add_generation_prompt=True)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_same_corpus_gives_the_same_bytes(directory, tmp_path):
    module.train(corpus(tmp_path / "corpus"), tmp_path / "made", tmp_path / "metrics.json",
                 tokenizer=TokenizerParams(vocab=340, min_frequency=2, sample_characters=100_000), model=SHAPE)
    for path in directory.iterdir():
        assert path.read_bytes() == (tmp_path / "made" / path.name).read_bytes()


def test_a_vocabulary_the_text_cannot_fill_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"of tokenizer.vocab = 60000"):
        module.train(corpus(tmp_path / "corpus"), tmp_path / "made", tmp_path / "m.json",
                     tokenizer=TokenizerParams(vocab=60000, min_frequency=2, sample_characters=100_000), model=SHAPE)


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(StageError, match="holds no text"):
        module.sample(corpus(tmp_path / "corpus", [""]), 1000)


def test_the_sample_is_whole_documents_up_to_the_limit(tmp_path):
    folder = corpus(tmp_path / "corpus", [str(i) * 600 for i in range(10)])
    chosen = module.sample(folder, 1000)
    assert len(chosen) == 2 and all(len(text) == 600 for text in chosen)
    assert chosen == module.sample(folder, 1000)


def test_a_base_keeps_its_vocabulary_and_gains_what_the_chain_needs(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    base = tmp_path / "base"
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(base)
    (base / "config.json").write_text("{}")
    made = module.adopt(base)
    assert ids(made, "ab") == ids(PreTrainedTokenizerFast(tokenizer_object=backend), "ab")
    assert len(made) == 256 + 4
    assert made.bos_token == chat.BOS and made.eos_token == chat.END and made.pad_token == chat.PAD
    assert len(ids(made, chat.START)) == len(ids(made, chat.END)) == 1
    assert made.chat_template == chat.TEMPLATE


@pytest.mark.parametrize("content", [None, "not json"])
def test_a_base_without_a_readable_tokenizer_is_refused(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(StageError, match="model.base"):
        module.adopt(tmp_path)


def test_a_base_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(StageError, match="no config.json"):
        SHAPE.model_copy(update={"base": str(tmp_path)}).base_directory()


@pytest.mark.parametrize(("change", "key"), [({"vocab": 10}, "vocab"), ({"vocabulary": 4096}, "vocabulary")])
def test_a_wrong_key_or_value_is_named(change, key):
    values = {"tokenizer": {"vocab": 400, "min_frequency": 2, "sample_characters": 1000} | change}
    with pytest.raises(params.ParamsError, match=f"tokenizer.{key}"):
        params.section(TokenizerParams, "tokenizer", values)


def test_query_heads_must_divide_among_the_key_heads():
    with pytest.raises(params.ParamsError, match="multiple of kv_heads"):
        params.section(ModelParams, "model", {"model": SHAPE.model_dump() | {"heads": 3, "kv_heads": 2}})
