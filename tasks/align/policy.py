"""Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300): advantages, log-probabilities, the loss."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftModel


@dataclass(frozen=True)
class Learned:
    """An output that is learned from: its prompt, its tokens, and how much better than its group it was."""

    prompt: tuple[int, ...]
    output: list[int]
    advantage: float


def advantages(rewards: Sequence[float]) -> list[float]:
    """A group's rewards less their mean, over their standard deviation (of the group, n in the denominator): outcome
    supervision, section 4.1.2. Zero where all are alike: such a group teaches nothing."""
    if max(rewards) == min(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    deviation = (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5
    return [(reward - mean) / deviation for reward in rewards]


def token_logprobs(model: PeftModel, batch: Sequence[Learned], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probability in nats of each output token, float32 [B, longest], 0 beyond an output's end; mask, bool).

    Neighbours with one prompt share a row, so that the prompt is computed once: each output stands behind it at the
    positions that follow it, and sees the prompt and itself. The head runs on the positions that predict an output.
    """
    rows = [list(of) for _, of in itertools.groupby(batch, lambda each: each.prompt)]
    length = max(len(of[0].prompt) + sum(len(each.output) for each in of) for of in rows)
    ids = torch.full((len(rows), length), pad)
    places = torch.zeros(ids.shape, dtype=torch.long)
    branch = torch.full(ids.shape, -1)  # 0: the prompt, n: its output n, -1: padding
    predicting: list[tuple[int, int]] = []
    for row, of in enumerate(rows):
        end = asked = len(of[0].prompt)
        ids[row, :end] = torch.tensor(of[0].prompt)
        places[row, :end] = torch.arange(end)
        branch[row, :end] = 0
        for number, each in enumerate(of, 1):
            start, end = end, end + len(each.output)
            ids[row, start:end] = torch.tensor(each.output)
            places[row, start:end] = torch.arange(asked, asked + end - start)
            branch[row, start:end] = number
            predicting += [(row, asked - 1), *((row, at) for at in range(start, end - 1))]
    seen = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    hidden_from = torch.zeros(seen.shape).masked_fill_(~seen.tril(), float("-inf"))[:, None]
    llama = model.get_base_model()
    states = llama.model(ids, attention_mask=hidden_from, position_ids=places, use_cache=False).last_hidden_state
    row_of, at = torch.tensor(predicting).unbind(1)
    scores = torch.log_softmax(llama.lm_head(states[row_of, at]).float(), -1)
    targets = torch.tensor([token for each in batch for token in each.output])
    lengths = torch.tensor([len(each.output) for each in batch])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.zeros(mask.shape).masked_scatter(mask, scores.gather(-1, targets[:, None])[:, 0]), mask


def loss(logprobs: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, advantage: torch.Tensor,
         mask: torch.Tensor, clip: float, beta: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(each output's loss [B], its divergence from the reference [B], share of its tokens whose gain is cut [B]).

    Equation 3, negated: the mean over an output's tokens of min(ratio A, clip(ratio) A) - beta KL, where KL is
    equation 4's unbiased estimator ref / p - ln(ref / p) - 1, never below zero. logprobs, old, reference: nats [B, T];
    advantage [B]; mask bool [B, T].
    """
    gain = advantage[:, None]
    ratio = (logprobs - old).exp()
    cut = ratio.clamp(1 - clip, 1 + clip)
    behind = reference - logprobs
    divergence = behind.exp() - behind - 1
    each = torch.minimum(ratio * gain, cut * gain) - beta * divergence
    length = mask.sum(1)
    clipped = (ratio * gain > cut * gain) & mask

    def mean(values: torch.Tensor) -> torch.Tensor:
        return values.where(mask, 0.0).sum(1) / length

    return -mean(each), mean(divergence), clipped.sum(1) / length
