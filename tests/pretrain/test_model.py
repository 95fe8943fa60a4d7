"""The trained model is a stock Llama: the same logits whichever attention ran, and after a round trip to disk."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.model import ModelParams
from tasks.pretrain import model as module
from tasks.stage import StageError
from tasks.tokenizer.train import TokenizerParams, learn

SHAPE = ModelParams(base=None, hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, head_dim=32, positions=64,
                    rope_theta=10000.0)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return learn(["some text to merge, a session that flushes its pending rows and commits them " * 9] * 9,
                 TokenizerParams(vocab=300, min_frequency=2, sample_characters=1000), 64)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def awake(model):
    """Give the zero-started matrices values, so that every block counts."""
    draw = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return model


@pytest.mark.parametrize("length", [1, 7, 64])
def test_products_give_the_logits_and_gradients_of_stock_attention(tokenizer, length):
    model = awake(module.build(SHAPE, tokenizer, seed=1))
    ids = torch.randint(0, 300, (3, length), generator=torch.Generator().manual_seed(2))
    found = []
    for swap in (False, True):
        if swap:
            module.use_products(model)
        model.zero_grad()
        output = model(input_ids=ids, use_cache=False).logits
        output.square().mean().backward()
        found.append([output.detach(), *(p.grad.clone() for p in model.parameters())])
    for stock, ours in zip(*found):
        torch.testing.assert_close(ours, stock, atol=2e-5, rtol=1e-4)


def test_no_token_sees_a_later_one(tokenizer):
    model = awake(module.build(SHAPE, tokenizer, seed=1))
    module.use_products(model)
    ids = torch.arange(20)[None]
    changed = ids.clone()
    changed[0, 12:] = 99
    one, other = logits(model, ids), logits(model, changed)
    assert torch.equal(one[:, :12], other[:, :12]) and not torch.equal(one[:, 12:], other[:, 12:])


def test_a_saved_model_is_a_stock_llama_with_the_chains_ends(tokenizer, tmp_path):
    model = awake(module.build(SHAPE, tokenizer, seed=1))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LlamaForCausalLM and loaded.config.architectures == ["LlamaForCausalLM"]
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.generation_config.eos_token_id == [0, 2] and loaded.config.eos_token_id == 2
    ids = torch.arange(30)[None]
    assert torch.equal(logits(loaded, ids), logits(model.eval(), ids))


def test_the_seed_decides_the_weights_and_later_blocks_begin_as_the_identity(tokenizer):
    one, same, other = (module.build(SHAPE, tokenizer, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        first = one.model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        table = one.model.norm(first) @ one.lm_head.weight.T
    torch.testing.assert_close(logits(one, ids), table)


def test_a_base_is_continued_and_grows_with_its_tokenizer(tokenizer, tmp_path):
    base = awake(module.scratch(SHAPE, 270, seed=1))
    base.save_pretrained(tmp_path)
    model = module.build(SHAPE.model_copy(update={"base": str(tmp_path)}), tokenizer, seed=3)
    assert model.get_input_embeddings().num_embeddings == 300
    ids = torch.arange(30)[None]
    assert torch.equal(logits(model, ids)[..., :270], logits(base, ids))
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(StageError, match="model.base = .* cannot be loaded"):
        module.load(tmp_path)


def test_flops_and_parameters_by_hand(tokenizer):
    model = module.build(SHAPE, tokenizer, seed=1)
    block = 64 * 128 + 2 * 64 * 64 + 128 * 64 + 3 * 64 * 128 + 2 * 64
    assert module.parameters(model) == 300 * 64 + 2 * block + 64
    assert module.flops_per_token(model, 16) == 6 * module.parameters(model) + 12 * 2 * 4 * 32 * 16


@pytest.mark.parametrize("heads, kv_heads, hidden, size, least",
                         [(3, 1, 192, 64, 0.9), (4, 2, 64, 32, 0.85), (2, 2, 128, 16, 0.6)])
def test_the_first_heads_start_out_reading_the_tokens_before(tokenizer, heads, kv_heads, hidden, size, least):
    shape = SHAPE.model_copy(update={"hidden": hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": size})
    model = module.build(shape, tokenizer, seed=1).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        weights = model(input_ids=ids, output_attentions=True).attentions[0]
    for head in range(module.LOOK_BACK):
        back = head + 1
        places = torch.arange(back, 64)
        assert weights[:, head, places, places - back].mean() > least
        assert (weights[:, head, places].argmax(-1) == places - back).float().mean() > 0.97
