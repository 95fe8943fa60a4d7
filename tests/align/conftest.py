"""A tiny Llama whose heads the CPU kernels take, with a byte tokenizer that carries the chain's chat template."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.finetune.conftest import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def llama(tokenizer):
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0,
        eos_token_id=2, pad_token_id=3)).eval()
    with torch.no_grad():
        made.model.embed_tokens.weight.mul_(5)  # so flat that samples differ
    return made


@pytest.fixture
def base(tmp_path, llama, tokenizer):
    """A model directory."""
    from tasks.finetune import checkpoint

    checkpoint.save(llama, tokenizer, tmp_path / "base")
    return tmp_path / "base"
