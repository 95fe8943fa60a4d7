"""Reward model: a Bradley-Terry head on the tuned model, learned from preference pairs.

    python -m tasks.finetune.reward models/T/sft models/T/reward metrics/reward/T.json --track T

The loss is equation 1 of Ouyang et al. 2022 (arXiv:2203.02155) for two answers: -log sigmoid(r(chosen) - r(rejected)).
What is written is a stock `AutoModelForSequenceClassification` directory with one label, whose logit at a
conversation's last token is the reward. All weights learn, in fp32: a reward model is as small as what it judges.
It is short enough that a killed run starts again and ends in the same bytes.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks import params, progress, stage
from tasks.finetune import environment
from tasks.stage import Input, Output, StageError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerBase

    from tasks.finetune.pairs import Pair

CHANCE = 0.5
MAX_NORM = 1.0
SHOWN = 32  # pairs scored at once


class RewardParams(params.Section):
    """Pairs and schedule of the reward model."""

    pairs: int = Field(ge=1, le=1_000_000, description="pairs trained on, from the exercises' training split")
    checked: int = Field(ge=8, le=10_000, description="pairs of held-out arguments that accuracy is measured on")
    systems: list[str] = Field(min_length=1, description="system turns drawn from; an empty one is no system turn")
    length: int = Field(ge=16, le=1_000_000, description="tokens of the longest conversation; longer ones are left out")
    batch: int = Field(ge=1, le=4096, description="pairs a step")
    epochs: int = Field(ge=1, le=100)
    learning_rate: float = Field(gt=0, lt=1, description="AdamW's, falling linearly to zero")


def reward(tuned: Input, model: Output, metrics: Output, *, reward: RewardParams, seed: int,
           runtime: params.Runtime) -> None:
    """Train a reward model from `tuned` into the directory `model`.

    Raises StageError: unusable input, no pair that fits, loss not finite, the gate: the 95 % interval of the held-out
    pairs ranked right must lie above chance.
    """
    started = time.monotonic()
    environment.prepare(runtime, environment.LONG_SPIN)
    from tasks.finetune import checkpoint
    from tasks.finetune.pairs import pairs
    from tasks.finetune.preference import fitting

    llama = checkpoint.load_model(tuned)
    tokenizer = checkpoint.load_tokenizer(tuned, llama.config.vocab_size)
    if tokenizer.pad_token_id is None:
        raise StageError(f"{tuned}: the tokenizer has no padding token, by which a conversation's last token is found")
    # seed + 3: other exercises than fine-tuning, preference and alignment drew
    learned, overlong = fitting(pairs(reward.pairs, "train", seed + 3, reward.systems, tokenizer), tokenizer,
                                reward.length)
    checked, _ = fitting(pairs(reward.checked, "held_out", seed + 3, reward.systems, tokenizer), tokenizer,
                         reward.length)
    if not learned or not checked:
        raise StageError(f"no pair has at most reward.length = {reward.length} tokens: allow longer ones")
    judge = headed(llama, tokenizer.pad_token_id)
    before = ranked(judge, tokenizer, checked)
    losses = fit(judge, tokenizer, learned, reward, seed)
    after = ranked(judge, tokenizer, checked)
    checkpoint.require_finite(judge, model)
    judge.save_pretrained(model)
    tokenizer.save_pretrained(model)
    stage.write_json(metrics, {"pairs": len(learned), "held_out_pairs": len(checked), "overlong": overlong,
                               "steps": len(losses), "loss_first": losses[0], "loss_last": losses[-1],
                               "before": before, "after": after, "limits": {"low": CHANCE}})
    stage.write_timing(f"reward-{tuned.parent.name}", {"seconds": round(time.monotonic() - started, 1)})
    if after["low"] <= CHANCE:
        raise StageError(f"{after['accuracy']:.3f} of {len(checked)} held-out pairs are ranked right, 95 % interval "
                         f"{after['low']:.3f} to {after['high']:.3f}: not above chance ({CHANCE}); train on more "
                         "reward.pairs or check more reward.checked")


def headed(llama: LlamaForCausalLM, pad: int) -> LlamaForSequenceClassification:
    """`llama` with one score, all zero at first, instead of its vocabulary."""
    import torch
    from transformers import LlamaForSequenceClassification

    config = llama.config.__class__.from_dict(llama.config.to_dict() | {"num_labels": 1, "pad_token_id": pad,
                                                                        "architectures": None})
    made = LlamaForSequenceClassification(config).to(llama.dtype)
    made.model.load_state_dict(llama.model.state_dict())
    with torch.no_grad():
        made.score.weight.zero_()  # every conversation is worth as much: the loss begins at ln 2
    return made


def scores(judge: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: list[str]
           ) -> torch.Tensor:
    """The reward of each rendered conversation, float32 [len(texts)]."""
    import torch

    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = torch.full((len(encoded), max(map(len, encoded))), tokenizer.pad_token_id)
    for row, tokens in enumerate(encoded):
        ids[row, :len(tokens)] = torch.tensor(tokens)
    # padding stands on the right alone, behind the token that is read
    return judge(ids, attention_mask=None, use_cache=False).logits[:, 0].float()


def loss_of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Mean of -log sigmoid(chosen - rejected), rewards [B] each."""
    from torch.nn import functional

    return -functional.logsigmoid(chosen - rejected).mean()


def fit(judge: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerBase, learned: list[Pair],
        reward: RewardParams, seed: int) -> list[float]:
    """Train `judge` in place; the loss of every step. Raises StageError where it is not finite."""
    import torch

    order = [pair for epoch in range(reward.epochs)
             for pair in random.Random(f"reward {seed} {epoch}").sample(learned, len(learned))]
    steps = [order[start:start + reward.batch] for start in range(0, len(order), reward.batch)]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=reward.learning_rate, weight_decay=0.0)
    losses = []
    judge.train()
    with progress.track(total=len(steps), what="reward", unit="step") as bar:
        for step, part in enumerate(steps):
            for group in optimizer.param_groups:
                group["lr"] = reward.learning_rate * (1 - step / len(steps))
            both = scores(judge, tokenizer, [pair.prompt + end for pair in part
                                             for end in (pair.chosen, pair.rejected)]).view(-1, 2)
            loss = loss_of(both[:, 0], both[:, 1])
            if not torch.isfinite(loss):
                raise StageError(f"the loss is {loss.item()} at step {step}: lower reward.learning_rate "
                                 f"({reward.learning_rate})")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(judge.parameters(), MAX_NORM)
            optimizer.step()
            losses.append(round(loss.item(), 6))
            bar.update(1)
    judge.eval()
    return losses


def ranked(judge: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerBase, checked: list[Pair]
           ) -> dict[str, Any]:
    """Share of pairs whose chosen end has the higher reward (a tie is wrong), its 95 % interval (Wilson 1927), the
    share by fault, and the mean margin."""
    import torch
    from scipy.stats import binomtest

    from tasks.finetune.preference import share_right

    margins: dict[str, list[float]] = {}
    judge.eval()
    with torch.inference_mode():
        for start in range(0, len(checked), SHOWN):
            part = checked[start:start + SHOWN]
            both = scores(judge, tokenizer, [pair.prompt + end for pair in part
                                             for end in (pair.chosen, pair.rejected)]).view(-1, 2)
            for pair, margin in zip(part, (both[:, 0] - both[:, 1]).tolist(), strict=True):
                margins.setdefault(pair.fault, []).append(margin)
    every = [margin for fault in margins.values() for margin in fault]
    bounds = binomtest(sum(margin > 0 for margin in every), len(every)).proportion_ci(method="wilson")
    return {"accuracy": share_right(every), "low": round(float(bounds.low), 6), "high": round(float(bounds.high), 6),
            "margin": round(sum(every) / len(every), 6),
            "by_fault": {fault: share_right(found) for fault, found in sorted(margins.items())}}


if __name__ == "__main__":
    stage.run(reward)
