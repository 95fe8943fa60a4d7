"""A cache of few bits, as the gate scores it: what attention sees is what the operator's reference reads back."""

import copy

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kernels.attention import reference
from tasks.quantize import kv

from tests.quantize.test_formats import small_llama


@pytest.mark.parametrize("bits", [8, 4])
def test_the_first_layer_by_hand(bits):
    """Attention of layer 0 from plain products over rounded keys and values, in float64."""
    model = small_llama()
    ids = torch.arange(3, 23)[None]
    attention = model.model.layers[0].self_attn
    caught = {}
    attention.o_proj.register_forward_pre_hook(lambda _, given: caught.update(out=given[0][0]))
    with torch.no_grad():
        kv.rounded_cache(model, bits)(ids)
        hidden = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids))
        q, k, v = (projection(hidden).view(1, 20, -1, 16).transpose(1, 2)
                   for projection in (attention.q_proj, attention.k_proj, attention.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *model.model.rotary_emb(hidden, torch.arange(20)[None]))
        k, v = (reference.read_back(x, bits).double().repeat_interleave(2, dim=1) for x in (k, v))
        mask = torch.full((20, 20), -torch.inf, dtype=torch.float64).triu(1)
        expected = ((q.double() @ k.transpose(2, 3) / 4 + mask).softmax(-1) @ v)[0].transpose(0, 1).flatten(1)
    assert torch.allclose(caught["out"].double(), expected, atol=1e-5)


def test_fewer_bits_cost_more_and_eight_cost_little():
    model, ids = small_llama(), torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = model(ids).logits
        errors = [(kv.rounded_cache(copy.deepcopy(model), bits)(ids).logits - full).abs().mean() for bits in (8, 4)]
    assert 0 < errors[0] < errors[1] / 4 and errors[0] < 0.01 * full.std()


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match="a cache of 3 bits"):
        kv.rounded_cache(small_llama(), 3)
