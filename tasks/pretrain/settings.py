"""The `pretrain` section: what a run of pretraining is, apart from where it runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks import params

Baseline = Literal["unigram", "bigram", "trigram", "gzip", "xz", "xz_after_train"]


class Watch(params.Section):
    """When a run goes back to its last checkpoint and skips the batches since (watchman.py)."""

    spike: float = Field(gt=1, description="robust z-score of a loss against the last 256")
    rollbacks: int = Field(ge=0, description="in one run; one more fault stops it")


class PretrainParams(params.Section):
    """A run: how long, in what steps, by which optimizer, and what it must beat."""

    tokens: int = Field(ge=1, description="training tokens; the run stops by them, never by the clock")
    sequence: int = Field(ge=16, le=131_072, description="tokens a sequence")
    batch: int = Field(ge=1, le=65_536, description="sequences a step, over all ranks")
    optimizer: Literal["muon", "adamw"] = Field(description="for the matrices; all else is AdamW's")
    matrix_rate: float = Field(gt=0, le=1, description="peak learning rate of the matrices under Muon")
    rate: float = Field(gt=0, le=1, description="peak learning rate of AdamW")
    momentum: float = Field(ge=0, lt=1, description="Muon's Nesterov momentum")
    weight_decay: float = Field(ge=0, lt=1, description="decoupled, on the matrices only")
    clip: float = Field(gt=0, description="largest gradient norm")
    warmup: float = Field(ge=0, le=1, description="share of the steps with a rising rate")
    decay: float = Field(ge=0, le=1, description="share of the steps, the last ones, with the rate falling to zero")
    precision: Literal["bf16", "fp32"] = Field(description="of the matrix products; weights stay fp32")
    zero_stage: int = Field(ge=0, le=3, description="DeepSpeed ZeRO stage")
    score_steps: int = Field(ge=1, description="steps between points of the curve")
    score_tokens: int = Field(ge=1, description="held-out tokens scored at each point; the final score takes all")
    checkpoint_steps: int = Field(ge=1, description="steps between resume checkpoints")
    watch: Watch
    must_beat: list[Baseline] = Field(description="baselines whose held-out bits per byte the model must undercut")

    @model_validator(mode="after")
    def _phases(self) -> PretrainParams:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) and decay ({self.decay}) are shares of one run: at most 1")
        return self

    def steps(self) -> int:
        """Optimizer steps of the run: whole batches, at least `tokens` tokens."""
        return -(-self.tokens // (self.batch * self.sequence))

    def rate_at(self, step: int) -> float:
        """Factor in (0, 1] on the peak rates at `step` (0-based): warm up, hold, fall linearly to zero (WSD)."""
        steps = self.steps()
        rising, falling = self.warmup * steps, self.decay * steps
        return min(1.0, (step + 1) / rising if rising else 1.0, (steps - step) / falling if falling else 1.0)
