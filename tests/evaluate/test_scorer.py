"""Trees of sequences, and scoring by them: each beginning once, every value that of its sequence alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.evaluate import scorer, tree
from tasks.serve.engine import backend as backends
from tasks.serve.engine.blocks import Blocks

VOCABULARY = 97


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(directory, the model in torch)."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model")
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.2)).eval()
    made.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder, made


@pytest.fixture(scope="module", params=["cpu", "torch"])
def backend(request, model):
    made = backends.load(backends.read_files(model[0]), threads=1, slots=8, kv="fp32", backend=request.param)
    yield made
    made.close()


def scored(backend, sequences, first, pool=None):
    pool = pool or Blocks(backend.blocks, backend.block_size)
    results = {}
    scorer.score(backend, pool, sequences, first, lambda at, found: results.__setitem__(at, found))
    assert pool.available == pool.count, "every block was given back"
    return [results[at] for at in range(len(sequences))]


def drawn(count, seed=0):
    """Sequences that begin alike at all sorts of places, some equal, some the beginning of another."""
    draw = random.Random(seed)
    sequences = [[draw.randrange(VOCABULARY) for _ in range(draw.choice([2, 17, 40]))]]
    for _ in range(count - 1):
        base = draw.choice(sequences)
        sequences.append(base[:draw.randrange(1, len(base) + 1)]
                         + [draw.randrange(VOCABULARY) for _ in range(draw.randrange(1, 30))])
    return [*sequences, sequences[-1]]


def test_values_are_those_of_torch(backend, model):
    sequences = drawn(40)
    first = [1 + at % (len(sequence) - 1) for at, sequence in enumerate(sequences)]
    for sequence, begin, (values, greedy) in zip(sequences, first, scored(backend, sequences, first)):
        logits = model[1](torch.tensor([sequence[:-1]])).logits[0].detach().double()
        wanted = logits.log_softmax(-1)[torch.arange(begin - 1, len(sequence) - 1), sequence[begin:]]
        assert np.abs(values - wanted.numpy()).max() < 2e-5
        assert greedy.tolist() == (logits.argmax(-1)[begin - 1:] == torch.tensor(sequence[begin:])).tolist()


def test_a_small_pool_and_long_sequences_change_no_bit(model):
    cpu = backends.load(backends.read_files(model[0]), threads=1, slots=8, kv="fp32", backend="cpu")
    sequences = [*drawn(30, 1), [1] * 250, [1] * 249 + [2]]
    first = [1] * len(sequences)
    whole = scored(cpu, sequences, first)
    for part in ([scored(cpu, [one], [1])[0] for one in sequences], scored(cpu, sequences, first, Blocks(64, 16))):
        for (values, greedy), (others, other) in zip(whole, part):
            assert values.tobytes() == others.tobytes() and (greedy == other).all()
    cpu.close()


def test_each_beginning_is_computed_once(model, monkeypatch):
    cpu = backends.load(backends.read_files(model[0]), threads=1, slots=8, kv="fp32", backend="cpu")
    asked = []
    monkeypatch.setattr(cpu, "step", lambda tokens, *rest: asked.append((len(tokens), len(rest[3]))) or np.zeros(
        (len(rest[3]), VOCABULARY), np.float32))
    header = list(range(90))
    scored(cpu, [header + [1, 2, 3], header + [1, 2, 4], header + [5, 6]], [90, 92, 91])
    # 90 shared, then 1 2 (its end predicts 3 and 4) and 5; the head at 89, 90 (of 1), 91 and 90 (of 5)
    assert sum(tokens for tokens, _ in asked) == 90 + 2 + 1 and sum(rows for _, rows in asked) == 1 + 2 + 1
    cpu.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12), st.integers(1, 5))
def test_a_tree_holds_each_beginning_once_and_every_sequence(sequences, most):
    nodes, ends = tree.build(sequences, most)
    assert sum(len(node.tokens) for node in nodes) == len({tuple(s[:n]) for s in sequences
                                                           for n in range(1, len(s) + 1)})
    assert all(1 <= len(node.tokens) <= most for node in nodes)
    for sequence, node in zip(sequences, ends):
        said = []
        while node is not None:
            said, node = list(node.tokens) + said, node.parent
        assert said == sequence


def test_copied_blocks_hold_what_their_sources_hold(backend):
    tokens, at = np.arange(20), np.arange(20)
    table = np.array([[0, 1, 2]], np.int32)
    last = np.array([0])

    def following(blocks):
        return backend.step(np.array([7]), np.array([20]), last, np.array([blocks], np.int32), last)

    backend.step(tokens, at, np.zeros(20, np.int64), table, last)
    backend.copy(np.array([1], np.int32), np.array([5], np.int32))
    assert (following([0, 5]) == following([0, 1])).all()


def test_blocks_that_are_not_there_are_refused(model):
    cpu = backends.load(backends.read_files(model[0]), threads=1, slots=1, kv="fp32", backend="cpu")
    for sources, targets, line in (([0], [99], "blocks are 0 to"), ([1], [1], "no block both"),
                                   ([1, 2], [3], "as many")):
        with pytest.raises(ValueError, match=line):
            cpu.copy(np.array(sources, np.int32), np.array(targets, np.int32))
    cpu.close()
