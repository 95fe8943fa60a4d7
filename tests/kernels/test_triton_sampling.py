"""Greedy and sampled tokens in Triton against a sort in float64 and Philox in integers."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

from kernels.sampling import reference  # noqa: E402
from kernels.sampling import triton as sampling  # noqa: E402


def run(device, logits, cases, seeds, step=0):
    """Tokens of rows logits [n, vocabulary] under cases (temperature, top_k, top_p)."""
    temperature, top_k, top_p = zip(*cases)
    on = (logits, torch.tensor(temperature), torch.tensor(top_k, dtype=torch.int32),
          torch.tensor(top_p, dtype=torch.float32), torch.tensor(seeds), torch.full((len(cases),), step,
                                                                                      dtype=torch.int32))
    return sampling.sample(*(tensor.to(device) for tensor in on)).tolist()


@pytest.mark.parametrize("vocabulary", [1, 333, 9000])
def test_greedy_takes_the_first_of_equals(device, vocabulary):
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0))
    logits[1, [vocabulary // 3, vocabulary - 1]] = 50
    logits[2] = -7
    logits[3] = -torch.inf
    logits[3, vocabulary // 2] = -1e30
    assert sampling.greedy(logits.to(device)).tolist() == [int(row.argmax()) for row in logits.numpy()]


def test_draws_are_philox_of_seed_and_step(device):
    cases = [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.5, 0, 0.9), (1.0, 40, 0.5), (1.0, 0, 1e-6), (1.0, 1, 1.0)]
    seeds = [0, 1, 2 ** 40 + 17, 123456789, 5, 6]
    logits = torch.randn(len(cases), 5000, generator=torch.Generator().manual_seed(1)) * 2
    for step, rows in ((0, 6), (9, 2)):
        expected = [reference.draw(reference.kept(row, *case), reference.uniform(seed, step))
                    for row, case, seed in zip(logits.numpy()[:rows], cases, seeds)]
        assert run(device, logits[:rows], cases[:rows], seeds[:rows], step) == expected


def test_equal_logits_at_the_threshold_are_kept_in_order(device):
    # ten equal tokens of 0.1 each: 0.35 is reached by the fourth; seed 8's point draws the last kept of each
    cases, seeds = [(1.0, 3, 1.0), (1.0, 0, 0.35), (1.0, 6, 0.35)], [8, 8, 8]
    assert 0.95 < reference.uniform(8, 0) < 1
    assert run(device, torch.zeros(3, 10), cases, seeds) == [2, 3, 2]


def test_frequencies_of_the_reference_follow_the_probabilities():
    logits = np.array([1.0, 0.0, -1.0, 0.5, -np.inf, 2.0], np.float32)
    probabilities = reference.kept(logits, 0.8, 4, 1.0)
    rows = 3000
    found = np.bincount([reference.draw(probabilities, reference.uniform(seed, 0)) for seed in range(rows)],
                        minlength=6)
    shown = probabilities > 0
    assert shown.tolist() == [True, True, False, True, False, True] and (found[~shown] == 0).all()
    expected = probabilities[shown] * rows
    assert ((found[shown] - expected) ** 2 / expected).sum() < 16.3   # chi-square, 3 degrees of freedom, p = 0.001


def test_a_row_is_drawn_the_same_in_any_batch(device):
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(3))
    cases, seeds = [(0.9, 20, 0.8)] * 2, [11, 12]
    whole = run(device, logits, cases, seeds)
    assert [run(device, logits[i:i + 1], cases[:1], seeds[i:i + 1])[0] for i in range(2)] == whole


def test_the_philox_reference_against_the_papers_vectors():
    # Salmon et al.'s known answers: counter and key 0 give 6627e8d5 as the first word
    assert reference.uniform(0, 0) == 0x6627E8D5 * 4.6566127342e-10


def test_other_shapes_and_dtypes_are_refused(device):
    with pytest.raises(ValueError, match="contiguous logits"):
        sampling.greedy(torch.zeros(3, 0, device=device))
    one = torch.ones(1, device=device)
    with pytest.raises(ValueError, match="seeds must be torch.int64"):
        sampling.sample(torch.zeros(1, 4, device=device), one, one.int(), one, one, one.int())
