"""Packed rows against stock attention under a written-out block mask; NEFTune's noise against its equation."""

import pytest
import torch
from torch.nn import functional

from tasks.finetune import noise, packing, training
from tasks.finetune.masking import Example

EXAMPLES = [Example("a", list(range(10, 17)), [0, 0, 1, 1, 0, 1, 1]), Example("b", [30, 31], [0, 1]),
            Example("c", list(range(50, 62)), [1] * 12), Example("d", [9], [1])]
HEADS = [list(range(70, 79)), [80, 81, 82]]
SHARED = [Example("a", HEADS[at] + [own + n for n in range(size)], [0] * (len(HEADS[at]) + 1) + [1] * (size - 1),
                  len(HEADS[at])) for at, own, size in ((0, 10, 6), (0, 30, 3), (1, 50, 8), (0, 20, 4), (0, 33, 2))]


def stock_loss(model, examples=EXAMPLES):
    """transformers' own attention over the row with a 4-d mask of blocks and positions from 0 in each."""
    model.set_attn_implementation("eager")
    sizes = [len(each.ids) for each in examples]
    owner = torch.tensor([n for n, size in enumerate(sizes) for _ in range(size)])
    seen = (owner[:, None] == owner[None]) & torch.ones(len(owner), len(owner)).tril().bool()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    ids = torch.tensor([sum((each.ids for each in examples), [])])
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    logits = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[0]
    at = [(start + n - 1, each.ids[n]) for each, start in zip(examples, torch.tensor([0, *sizes]).cumsum(0).tolist())
          for n in range(1, len(each.ids)) if each.learned[n]]
    return functional.cross_entropy(logits[[where for where, _ in at]], torch.tensor([token for _, token in at]))


@pytest.mark.parametrize("examples", [EXAMPLES, SHARED, EXAMPLES + SHARED], ids=["own", "shared", "mixed"])
def test_packed_is_the_block_mask_in_loss_and_gradients(llama, examples):
    """Also where several conversations read one beginning that stands in the row once."""
    weights = list(llama.parameters())
    expected = stock_loss(llama, examples)
    right = torch.autograd.grad(expected, weights)
    packing.use(llama)
    for packed in (True, False):
        found = training.loss_of(llama, examples, 3, packed)
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
    assert row.ids.shape == (1, 22) and row.positions[0, 7:10].tolist() == [0, 1, 0] and row.mask is None
    assert row.labels[0].tolist() == [-100, -100, 12, 13, -100, 15, 16, -100, 31, -100, *range(51, 62), -100]


def test_neighbours_hold_their_common_beginning_once():
    row = packing.pack(SHARED)
    a, b = HEADS
    assert row.ids[0].tolist() == [*a, *range(10, 16), *range(30, 33), *b, *range(50, 58), *a, *range(20, 24), 33, 34]
    assert row.positions[0].tolist() == [*range(15), *range(9, 12), *range(11), *range(13), 9, 10]
    assert row.labels[0].tolist() == [-100] * 10 + [*range(11, 16), -100, 31, 32] + [-100] * 4 + [
        *range(51, 58)] + [-100] * 10 + [21, 22, 23, -100, 34]


def test_batches_keep_conversations_of_one_beginning_together():
    """Every one once, its kin beside it, in another order for another key; without packing they are shuffled."""
    examples = [Example("x", [head, head + 1, own], [0, 0, 1], 2) for own in range(4) for head in range(100, 160, 10)]
    lone = [Example("y", [n], [1]) for n in range(5)]
    steps = training.grouped(examples + lone, 8, "a")
    flat = [each for step in steps for each in step]
    assert [len(step) for step in steps] == [8, 8, 8, 5]
    assert sorted((each.ids for each in flat)) == sorted(each.ids for each in examples + lone)
    heads = [each.ids[0] if each.head else -1 - each.ids[0] for each in flat]
    assert len([1 for one, other in zip(heads, heads[1:]) if one != other]) == 6 + 5 - 1
    assert flat != [each for step in training.grouped(examples + lone, 8, "b") for each in step]


def test_the_first_token_of_an_answer_weighs_more(llama):
    """Against the weighted mean by hand: two answers of three tokens each in one conversation, one of one."""
    examples = [Example("a", [10, 11, 12, 13, 14, 15, 16, 17], [0, 1, 1, 1, 0, 1, 1, 1]), Example("b", [20, 21], [0, 1])]
    nats, weights = [], []
    with torch.no_grad():
        for each in examples:
            scores = llama(torch.tensor([each.ids])).logits[0].log_softmax(-1)
            for at, one in enumerate(each.learned):
                if one:
                    nats.append(-scores[at - 1, each.ids[at]].item())
                    weights.append(1 if each.learned[at - 1] else 6)
    assert weights == [6, 1, 1, 6, 1, 1, 6]
    packing.use(llama)
    for packed in (True, False):
        found = training.loss_of(llama, examples, 3, packed, decision=6.0)
        assert found.item() == pytest.approx(sum(a * b for a, b in zip(nats, weights)) / 22, rel=1e-5)


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
