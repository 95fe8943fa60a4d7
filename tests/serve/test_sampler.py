"""Sampling against its definitions."""

import numpy as np
import pytest

from tasks.serve.engine.sampler import Sampling, adjusted, choose, likeliest, logprob, log_softmax

LOGITS = np.array([2.0, 1.0, 0.0, -1.0, 3.0], np.float32)


def draws(sampling, allowed=None, count=4000):
    generator = np.random.default_rng(0)
    return np.bincount([choose(LOGITS, sampling, generator, allowed) for _ in range(count)], minlength=5) / count


def test_temperature_one_is_the_softmax():
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum()
    assert np.abs(draws(Sampling(temperature=1)) - expected).max() < 0.025


def test_temperature_flattens_and_zero_is_greedy():
    expected = np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum()
    assert np.abs(draws(Sampling(temperature=2)) - expected).max() < 0.025
    assert draws(Sampling(temperature=0), count=3)[4] == 1


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    probabilities = np.sort(np.exp(LOGITS) / np.exp(LOGITS).sum())[::-1]  # .64 .23 .09 ...
    kept = draws(Sampling(temperature=1, top_p=0.8)) > 0
    assert probabilities[0] < 0.8 < probabilities[:2].sum() and kept.tolist() == [True, False, False, False, True]
    assert draws(Sampling(temperature=1, top_p=1e-9), count=20)[4] == 1


def test_top_k_and_the_mask():
    assert (draws(Sampling(temperature=1, top_k=2)) > 0).tolist() == [True, False, False, False, True]
    allowed = np.array([False, True, True, False, False])
    assert (draws(Sampling(temperature=1), allowed) > 0).tolist() == allowed.tolist()
    assert choose(LOGITS, Sampling(temperature=0), np.random.default_rng(), allowed) == 1


def test_penalties_and_bias_are_openais():
    sampling = Sampling(logit_bias={1: 5.0}, presence_penalty=0.5, frequency_penalty=0.25)
    found = adjusted(LOGITS, sampling, [4, 4, 0])
    assert found == pytest.approx([2 - 0.75, 6, 0, -1, 3 - 1.0])
    assert adjusted(LOGITS, Sampling(), [1]) is LOGITS


def test_logprobs():
    assert np.exp(log_softmax(LOGITS)).sum() == pytest.approx(1)
    entry = logprob(LOGITS, 2, 2)
    assert entry.logprob == pytest.approx(0 - np.log(np.exp(LOGITS).sum()), abs=1e-6)
    assert [token for token, _ in entry.top] == [4, 0]


def reference(logits, sampling):
    """The distribution by its definition, every token sorted, in float64."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    order = np.argsort(-weights, kind="stable")
    kept = order[:sampling.top_k] if sampling.top_k else order
    share = weights[kept].cumsum() / weights[kept].sum()
    kept = kept[:int((share[:-1] < sampling.top_p).sum()) + 1]
    out = np.zeros(len(logits))
    out[kept] = np.where(weights[kept] >= sampling.min_p, weights[kept], 0)
    return out / out.sum()


@pytest.mark.parametrize("sampling", [
    Sampling(top_p=0.9), Sampling(top_p=0.999, temperature=2.0), Sampling(top_k=50, top_p=0.9), Sampling(top_k=2000),
    Sampling(top_k=10 ** 9, top_p=0.5), Sampling(min_p=0.2), Sampling(top_p=0.95, min_p=0.05), Sampling()])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_cuts_over_a_large_vocabulary_are_those_of_a_whole_sort(sampling, spread):
    """Flat rows need more than the head of the vocabulary, steep ones little of it; draws cover what is kept alone."""
    logits = (np.random.default_rng(3).standard_normal(5000) * spread).astype(np.float32)
    expected, generator = reference(logits, sampling), np.random.default_rng(0)
    drawn = np.array([choose(logits, sampling, generator) for _ in range(1500)])
    assert (expected[drawn] > 0).all()
    head = np.argsort(-expected)[:50]
    found = np.isin(drawn, head).mean()
    assert abs(found - expected[head].sum()) < 0.06


def test_the_repetition_penalty_is_transformers():
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    found = adjusted(LOGITS, Sampling(repetition_penalty=1.5), [4, 3, 3], [0])
    expected = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[4, 3, 3, 0]]), torch.tensor(LOGITS[None]))[0]
    assert found == pytest.approx(expected.numpy())


def test_the_likeliest_are_sorted_and_ties_go_by_index():
    row = np.array([1.0, 3.0, 3.0, 0.0, 3.0])
    assert [list(likeliest(row, count)) for count in (0, 1, 2, 4, 9)] == [[], [1], [1, 2], [1, 2, 4, 0],
                                                                         [1, 2, 4, 0, 3]]
