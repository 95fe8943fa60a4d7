"""What the stages of quantization read: a small model, a corpus, held-out text."""

import json

import pytest

from tasks.finetune import checkpoint

from tests.finetune.conftest import byte_tokenizer
from tests.quantize.test_formats import small_llama


@pytest.fixture
def inputs(tmp_path):
    """A model directory, a corpus and held-out text."""
    tokenizer = byte_tokenizer()
    checkpoint.save(small_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "chat")
    (tmp_path / "corpus").mkdir()
    for file, words in (("corpus/00000.jsonl", "to be or not to be "), ("held_out.jsonl", "that is the question ")):
        line = {"id": "a", "metadata": {"language": "en"}, "text": words * 20}
        (tmp_path / file).write_text(json.dumps(line) + "\n" + json.dumps(line | {"id": "b"}) + "\n")
    return tmp_path
