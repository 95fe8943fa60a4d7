"""GRPO's parts by hand: the group's advantages, the clipped gain, the divergence, and the gradient they give."""

import math

import pytest
import torch

from tasks.align import policy
from tasks.align.policy import Learned
from tasks.finetune import lora
from tasks.finetune.settings import LoraParams

LORA = LoraParams(rank=4, alpha=8, targets=["q_proj", "v_proj", "down_proj"], max_merge_error=1e-3)


def test_advantages_are_the_group_s_standard_scores():
    assert policy.advantages([1.0, 0.0, 0.0, 1.0]) == [1.0, -1.0, -1.0, 1.0]
    # mean 0.25, deviation sqrt(3) / 4
    assert policy.advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3])
    assert policy.advantages([0.7, 0.7, 0.7]) == [0.0, 0.0, 0.0]


def logs(*rows):
    return torch.tensor(rows).log()


def test_the_loss_by_hand():
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    now = logs([0.5, 0.2], [0.5, 0.2], [0.5, 0.9])
    old = logs([0.4, 0.4], [0.4, 0.4], [0.5, 0.1])
    ratio_1, ratio_2 = 1.25, 0.5
    losses, divergence, clipped = policy.loss(now, old, now, torch.tensor([1.0, -1.0, 2.0]), mask, 0.2, 0.1)
    # a gain above 1.2 is cut, a loss below 0.8 is cut, the others pull as they are; the padding of row 3 says nothing
    assert losses.tolist() == pytest.approx([-(1.2 + ratio_2) / 2, (ratio_1 + 0.8) / 2, -2.0])
    assert divergence.tolist() == [0.0, 0.0, 0.0] and clipped.tolist() == [0.5, 0.5, 0.0]


def test_the_divergence_is_equation_4():
    now, reference = logs([0.5, 0.25]), logs([0.25, 0.5])
    losses, divergence, _ = policy.loss(now, now, reference, torch.tensor([0.0]), torch.ones(1, 2).bool(), 0.2, 3.0)
    by_hand = ((0.5 - math.log(0.5) - 1) + (2 - math.log(2) - 1)) / 2
    assert divergence.item() == pytest.approx(by_hand) and losses.item() == pytest.approx(3 * by_hand)


def test_the_gradient_at_the_sampled_policy_is_the_advantage_a_token():
    logprobs = logs([0.5, 0.2, 0.3], [0.4, 0.4, 0.4]).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    still, gains = logprobs.detach(), torch.tensor([1.5, -2.0])
    losses, _, _ = policy.loss(logprobs, still, still, gains, mask, 0.2, 0.4)
    losses.sum().backward()
    assert logprobs.grad.tolist() == [pytest.approx([-0.5] * 3), pytest.approx([1.0, 1.0, 0.0])]


def test_log_probabilities_are_the_model_s_own_row_by_row(llama):
    adapted = lora.adapt(llama, LORA, [], seed=0)
    batch = [Learned((5, 6, 7), [8, 9], 1.0), Learned((9,), [5, 6, 7, 8, 2], 1.0)]
    with torch.no_grad():
        found, mask = policy.token_logprobs(adapted, batch, pad=3)
        for row, each in enumerate(batch):
            table = torch.log_softmax(adapted(torch.tensor([[*each.prompt, *each.output]])).logits[0], -1)
            right = [table[len(each.prompt) - 1 + at, token].item() for at, token in enumerate(each.output)]
            assert found[row][mask[row]].tolist() == pytest.approx(right, abs=1e-4)
            assert not found[row][~mask[row]].any() and mask[row].sum() == len(each.output)


def test_outputs_of_one_prompt_compute_it_once_and_learn_the_same(llama):
    adapted = lora.adapt(llama, LORA, [], seed=0)
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    with torch.no_grad():
        for weight in weights:
            weight.normal_(0, 0.2)
    group = [Learned((5, 6, 7, 8), [8, 9], 1.0), Learned((5, 6, 7, 8), [8, 9, 10, 2], 1.0),
             Learned((5, 6, 7, 8), [11], 1.0)]
    other = Learned((9, 5), [6, 7, 2], 1.0)
    computed = []
    adapted.get_base_model().model.embed_tokens.register_forward_hook(lambda _, args, out: computed.append(args[0]))

    def learned(batches):
        """(log-probabilities of each output, gradients of their sum of squares)."""
        adapted.zero_grad()
        said = []
        for batch in batches:
            found, mask = policy.token_logprobs(adapted, batch, pad=3)
            found.square().sum().backward()
            said += [row[kept].tolist() for row, kept in zip(found, mask, strict=True)]
        return said, [weight.grad.clone() for weight in weights]

    alone = learned([[each] for each in [*group, other]])
    computed.clear()
    together = learned([[*group, other]])
    assert [ids.shape for ids in computed] == [(2, 4 + 2 + 4 + 1)]
    for one, another in zip(alone[0], together[0], strict=True):
        assert another == pytest.approx(one, abs=1e-5)
    for one, another in zip(alone[1], together[1], strict=True):
        torch.testing.assert_close(another, one, atol=1e-4, rtol=1e-4)
