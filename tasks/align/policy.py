"""Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300): advantages, log-probabilities, the loss."""

from __future__ import annotations

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

    Rows are padded on the right alone, so causal attention needs no other mask; the head runs on output positions.
    """
    rows = [[*each.prompt, *each.output] for each in batch]
    ids = torch.full((len(rows), max(map(len, rows))), pad)
    predicted = torch.zeros(ids.shape, dtype=torch.bool)
    mask = torch.zeros(len(rows), max(len(each.output) for each in batch), dtype=torch.bool)
    for at, (row, each) in enumerate(zip(rows, batch, strict=True)):
        ids[at, :len(row)] = torch.tensor(row)
        predicted[at, len(each.prompt) - 1:len(row) - 1] = True
        mask[at, :len(each.output)] = True
    llama = model.get_base_model()
    hidden = llama.model(ids, attention_mask=None, use_cache=False).last_hidden_state
    scores = torch.log_softmax(llama.lm_head(hidden[predicted]).float(), -1)
    targets = ids.roll(-1, 1)[predicted]
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
