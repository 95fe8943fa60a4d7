"""Packed rows against stock attention under a written-out block mask; NEFTune's noise against its equation."""

import pytest
import torch
from torch.nn import functional

from tasks.finetune import noise, packing, training
from tasks.finetune.masking import Example

EXAMPLES = [Example("a", list(range(10, 17)), [0, 0, 1, 1, 0, 1, 1]), Example("b", [30, 31], [0, 1]),
            Example("c", list(range(50, 62)), [1] * 12), Example("d", [9], [1])]


def stock_loss(model):
    """transformers' own attention over the row with a 4-d mask of blocks and positions from 0 in each."""
    model.set_attn_implementation("eager")
    sizes = [len(each.ids) for each in EXAMPLES]
    owner = torch.tensor([n for n, size in enumerate(sizes) for _ in range(size)])
    seen = (owner[:, None] == owner[None]) & torch.ones(len(owner), len(owner)).tril().bool()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    ids = torch.tensor([sum((each.ids for each in EXAMPLES), [])])
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    logits = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[0]
    at = [(start + n - 1, each.ids[n]) for each, start in zip(EXAMPLES, torch.tensor([0, *sizes]).cumsum(0).tolist())
          for n in range(1, len(each.ids)) if each.learned[n]]
    return functional.cross_entropy(logits[[where for where, _ in at]], torch.tensor([token for _, token in at]))


def test_packed_is_the_block_mask_in_loss_and_gradients(llama):
    weights = list(llama.parameters())
    expected = stock_loss(llama)
    right = torch.autograd.grad(expected, weights)
    packing.use(llama)
    for packed in (True, False):
        found = training.loss_of(llama, EXAMPLES, 3, packed)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5), packed
        for mine, theirs in zip(torch.autograd.grad(found, weights), right, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-3)


def test_a_conversation_never_reads_its_neighbour(llama):
    """What stands in one row's conversation changes no hidden state of another: exactly, not nearly."""
    packing.use(llama)
    other = [Example("a", [99] * 7, EXAMPLES[0].learned), *EXAMPLES[1:]]
    with torch.no_grad():
        states = [packing.hidden(llama, llama.model.embed_tokens(row.ids), row)
                  for row in map(packing.pack, (EXAMPLES, other))]
    assert torch.equal(states[0][:, 7:], states[1][:, 7:]) and not torch.equal(states[0][:, :7], states[1][:, :7])


def test_a_packed_row_has_no_padding_and_every_position():
    row = packing.pack(EXAMPLES)
    assert row.ids.shape == (1, 22) and row.positions[0, 7:10].tolist() == [0, 1, 0] and row.shape == (4, 12)
    assert row.labels[0].tolist() == [-100, -100, 12, 13, -100, 15, 16, -100, 31, -100, *range(51, 62), -100]


def test_the_noise_is_neftunes():
    """Uniform within alpha / sqrt(L d), by each conversation's own length, the same for a key and no other."""
    embeddings = torch.zeros(2, 400, 32)
    lengths = torch.tensor([[400.0] * 400, [25.0] * 400])
    made = noise.noisy(embeddings, lengths, 5.0, 3)
    for row, length in ((0, 400), (1, 25)):
        bound = 5.0 / (length * 32) ** 0.5
        assert made[row].abs().max() <= bound and made[row].abs().max() > 0.99 * bound
        assert made[row].var().item() == pytest.approx(bound**2 / 3, rel=0.05) and abs(made[row].mean()) < bound / 50
    assert torch.equal(made, noise.noisy(embeddings, lengths, 5.0, 3))
    assert not torch.equal(made, noise.noisy(embeddings, lengths, 5.0, 4))


def test_packed_and_padded_noise_go_by_the_conversation_not_the_row(llama, monkeypatch):
    seen = {}
    monkeypatch.setattr(noise, "noisy", lambda embeddings, lengths, alpha, key:
                        seen.setdefault(embeddings.shape[:2], lengths.reshape(-1)) is None or embeddings)
    packing.use(llama)
    for packed in (True, False):
        training.loss_of(llama, EXAMPLES, 3, packed, alpha=5.0)
    sizes = [7.0, 2.0, 12.0, 1.0]
    assert seen[1, 22].tolist() == [size for size in sizes for _ in range(int(size))]
    assert seen[4, 12].view(4, 12)[:, 0].tolist() == sizes
