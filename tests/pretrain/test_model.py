"""The trained model is a stock Llama: the same logits whichever attention ran, and after a round trip to disk."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM
from transformers import MistralForCausalLM, PreTrainedTokenizerFast, Qwen3ForCausalLM

from tasks.model import Extension, ModelParams
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


WINDOW, NORM = {"sliding_window": 16}, {"qk_norm": True}
KINDS = [({}, LlamaForCausalLM), ({"tied": False}, LlamaForCausalLM), (WINDOW, MistralForCausalLM),
         (NORM, Qwen3ForCausalLM), (WINDOW | NORM | {"tied": False}, Qwen3ForCausalLM)]


def of(changes):
    return ModelParams(**SHAPE.model_dump() | changes)


@pytest.mark.parametrize("changes, kind", KINDS)
def test_every_shape_trains_to_the_logits_of_the_stock_class_it_is_saved_as(tokenizer, tmp_path, changes, kind):
    model = awake(module.build(of(changes), tokenizer, seed=1))
    stock = model.config._attn_implementation
    module.use_products(model)
    ids = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(2))
    trained = logits(model, ids)
    model.set_attn_implementation(stock)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is kind and loaded.config._attn_implementation == "sdpa"
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is changes.get("tied", True)
    torch.testing.assert_close(trained, logits(loaded, ids), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [WINDOW, WINDOW | NORM])
def test_a_token_beyond_the_windows_of_all_layers_has_no_influence(tokenizer, changes):
    model = awake(module.build(of(changes), tokenizer, seed=1))
    module.use_products(model)
    ids = torch.arange(64)[None]
    changed = ids.clone()
    changed[0, 0] = 99
    one, other = logits(model, ids)[0], logits(model, changed)[0]
    reach = 2 * 15  # of two layers, each back over 15 tokens before the one itself
    assert (one[:reach + 1] != other[:reach + 1]).any(-1).all() and torch.equal(one[reach + 1:], other[reach + 1:])


def test_a_window_still_starts_out_reading_the_tokens_before_and_qk_norm_from_nothing(tokenizer):
    model = module.build(of(WINDOW), tokenizer, seed=1).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        weights = model(input_ids=ids, output_attentions=True).attentions[0]
    places = torch.arange(2, 64)
    assert all(weights[:, head, places, places - head - 1].mean() > 0.85 for head in range(module.LOOK_BACK))
    assert not module.build(of(NORM), tokenizer, seed=1).model.layers[0].self_attn.o_proj.weight.any()


@pytest.mark.parametrize("changes, length", [({}, 48), ({"tied": False}, 48), (NORM, 48), (WINDOW, 16)])
def test_flops_are_those_that_torch_counts_and_the_norms(tokenizer, changes, length):
    model = awake(module.build(of(changes), tokenizer, seed=1))
    module.use_products(model)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(length)[None], use_cache=False).logits.sum().backward()
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert counter.get_total_flops() == length * (module.flops_per_token(model, length) - 6 * norms)


def test_a_window_bounds_the_flops_and_the_cache(tokenizer):
    plain, narrow = (module.build(of(changes), tokenizer, seed=1) for changes in ({}, WINDOW))
    assert module.flops_per_token(narrow, 64) == module.flops_per_token(plain, 16)
    for model, kept in ((plain, 40), (narrow, 15)):  # transformers leaves out the next token's own place
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(input_ids=torch.arange(40)[None], past_key_values=cache)
        held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        assert held == module.cache_bytes(model.config, kept, element=4)
    assert module.cache_bytes(narrow.config, 40) == module.cache_bytes(narrow.config, 16)


def test_bytes_are_those_of_the_file_and_of_the_cache(tokenizer, tmp_path):
    model = module.build(of({"tied": False}), tokenizer, seed=1)
    model.save_pretrained(tmp_path)
    told = module.bytes_of(model, 64)
    file = tmp_path / "model.safetensors"
    assert told["weights"] == file.stat().st_size - 8 - int.from_bytes(file.read_bytes()[:8], "little")
    assert told["cache_per_token"] * 64 == told["cache"] == 2 * 2 * 2 * 32 * 2 * 64


def base(folder, tokenizer, **changes):
    """A saved base of the shape, with its tokenizer."""
    awake(module.build(of(changes), tokenizer, seed=1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_base_takes_more_positions_and_another_rotary_base(tokenizer, tmp_path):
    base(tmp_path / "base", tokenizer)
    longer = module.load(tmp_path / "base", Extension(positions=128, rope_theta=50000.0))
    same = module.load(tmp_path / "base")
    assert longer.config.max_position_embeddings == 128 and same.config.max_position_embeddings == 64
    expected = 50000.0 ** (-torch.arange(0, 32, 2) / 32)
    torch.testing.assert_close(longer.model.rotary_emb.inv_freq, expected)
    longer.save_pretrained(tmp_path / "longer")
    assert AutoConfig.from_pretrained(tmp_path / "longer").rope_parameters["rope_theta"] == 50000.0
    for one, other in zip(same.parameters(), longer.parameters()):
        assert torch.equal(one, other)


def test_a_base_that_cannot_be_gone_on_from_is_one_line(tokenizer, tmp_path):
    base(tmp_path / "base", tokenizer)
    with pytest.raises(StageError, match="extend.positions = 32 is below the 64"):
        module.load(tmp_path / "base", Extension(positions=32, rope_theta=1e5))
    scaled = module.load(tmp_path / "base")
    scaled.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    scaled.save_pretrained(tmp_path / "scaled")
    with pytest.raises(StageError, match="rotary angles of type 'linear'"):
        module.load(tmp_path / "scaled", Extension(positions=128, rope_theta=1e5))
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(StageError, match="holds a 'gpt2' model: pretraining goes on from llama, mistral and qwen3"):
        module.load(tmp_path / "gpt2")


def test_a_tokenizer_of_other_words_than_the_bases_is_one_line(tokenizer, tmp_path):
    base(tmp_path, tokenizer)
    other = learn(["quite other words in here, their pairs are not the same ones at all " * 9] * 9,
                  TokenizerParams(vocab=300, min_frequency=2, sample_characters=1000), 64)
    shape = of({"base": str(tmp_path)})
    assert module.build(shape, tokenizer, seed=1).config.vocab_size == 300
    with pytest.raises(StageError, match="the tokenizer does not match model.base"):
        module.build(shape, other, seed=1)


def test_lengths_that_do_not_fit_are_one_line():
    config = module.configuration(of(WINDOW), 300)
    module.check(of(WINDOW), config, 64)
    with pytest.raises(StageError, match=r"pretrain.sequence = 65 is above the model's 64 positions"):
        module.check(of(WINDOW), config, 65)
    longer = of({"base": "there", "extend": Extension(positions=64, rope_theta=1e5)})
    with pytest.raises(StageError, match=r"above the model's 64 positions \(extend.positions\)"):
        module.check(longer, config, 65)
    with pytest.raises(StageError, match="model.sliding_window = 32 is above pretrain.sequence = 16"):
        module.check(of({"sliding_window": 32}), config, 16)
    with pytest.raises(ValueError, match=r"sliding_window \(65\) is above positions \(64\)"):
        of({"sliding_window": 65})
    with pytest.raises(ValueError, match="extend changes a base's context"):
        of({"extend": Extension(positions=128, rope_theta=1e5)})
