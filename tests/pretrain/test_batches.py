"""Windows that keep documents to themselves: exact places, masked seams, and a model that cannot look across one."""

import numpy as np
import pytest
import torch

from tasks.model import ModelParams
from tasks.pretrain import model as models
from tasks.pretrain.batches import IGNORED, Windows

LENGTHS = [7, 1, 1, 30, 3, 20, 2, 40, 26, 35, 4, 31]
STARTS = np.concatenate([[0], np.cumsum(LENGTHS)])
TOKENS = np.random.default_rng(3).integers(1, 50, STARTS[-1]).astype("<u2")


def test_places_count_from_the_document_or_the_window_as_by_hand():
    windows = Windows(TOKENS, 32, seed=5, starts=STARTS)
    inputs, targets = windows.feed(1, 0, 1, 2)
    for row, number in enumerate((2, 3)):
        start = windows.start(number)
        expected, place = [], 0
        for at in range(start, start + 33):
            place = 0 if at in STARTS or at == start else place + 1
            expected.append(place)
        assert inputs["position_ids"][row].tolist() == expected[:-1]
        asked = [int(TOKENS[start + 1 + i]) if expected[i + 1] else IGNORED for i in range(32)]
        assert targets[row].tolist() == asked and inputs["input_ids"][row].tolist() == TOKENS[start:start + 32].tolist()


def test_without_boundaries_nothing_but_the_tokens_is_fed():
    windows = Windows(TOKENS, 32, seed=5)
    inputs, targets = windows.feed(0, 1, 2, 4)
    batch = windows.batch(0, 1, 2, 4)
    assert list(inputs) == ["input_ids"] and (inputs["input_ids"] == batch[:, :-1]).all()
    assert (targets == batch[:, 1:]).all() and IGNORED not in targets


@pytest.mark.parametrize("changes", [{}, {"sliding_window": 16}, {"qk_norm": True}])
@pytest.mark.parametrize("ours", [True, False])
def test_a_packed_windows_logits_are_those_of_each_document_alone(changes, ours):
    shape = ModelParams(base=None, hidden=64, intermediate=64, layers=2, heads=2, kv_heads=1, head_dim=32,
                        positions=64, rope_theta=10000.0, **changes)
    model = models.scratch(shape, 50, seed=1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)), alpha=0.1)
    if ours:
        models.use_products(model)
    inputs, _ = Windows(TOKENS, 48, seed=5, starts=STARTS).feed(0, 0, 1, 2)
    with torch.no_grad():
        packed = model(**{name: torch.from_numpy(one) for name, one in inputs.items()}, use_cache=False).logits
        model.set_attn_implementation("sdpa")
        for row, places in enumerate(inputs["position_ids"]):
            edges = [*np.flatnonzero(places == 0), 48]
            assert len(edges) > 2
            for first, last in zip(edges, edges[1:]):
                alone = model(input_ids=torch.from_numpy(inputs["input_ids"][row:row + 1, first:last]),
                              use_cache=False).logits
                torch.testing.assert_close(packed[row:row + 1, first:last], alone, atol=2e-5, rtol=1e-4)
