"""A tiny Llama with a byte tokenizer that carries the chain's chat template: everything a fine-tuning test needs."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks import chat


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the chat specials first."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*chat.SPECIALS, *letters])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(list(chat.SPECIALS))
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=chat.BOS, eos_token=chat.END, pad_token=chat.PAD)
    made.chat_template = chat.TEMPLATE
    return made


def tiny_llama(vocabulary: int, positions: int = 1024) -> LlamaForCausalLM:
    """Two layers of width 32 with grouped heads and a tied head, whose rows are long enough to tell tokens apart."""
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=positions, tie_word_embeddings=True, bos_token_id=0,
        eos_token_id=2, pad_token_id=3)).eval()
    with torch.no_grad():
        made.model.embed_tokens.weight.mul_(20)
    return made


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def llama(tokenizer):
    return tiny_llama(len(tokenizer))


@pytest.fixture
def base(tmp_path, llama, tokenizer):
    """A model directory."""
    from tasks.finetune import checkpoint

    checkpoint.save(llama, tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def corpus(tmp_path):
    """A corpus of one shard that states facts."""
    import json

    folder = tmp_path / "corpus"
    folder.mkdir()
    text = "\n\n".join(f"Engine{n}.connect{n}(url)\n\nOpen connection number {n} to the database server named here."
                       for n in range(60))
    line = {"id": "a", "metadata": {"language": "en"}, "text": text}
    (folder / "00000.jsonl").write_text(json.dumps(line) + "\n")
    return folder
