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
    """A run: how long, in what steps, by which optimizer, and what it must beat.

    A null value is set for the model's size before the run (tasks/pretrain/scaling.py).
    """

    tokens: int | None = Field(ge=1, description="training tokens; the run stops by them, never by the clock")
    sequence: int = Field(ge=16, le=131_072, description="tokens a sequence")
    within_documents: bool = Field(default=False, description="attention stays inside the document")
    batch: int | None = Field(ge=1, le=65_536, description="sequences a step, over all ranks")
    optimizer: Literal["muon", "adamw"] = Field(description="for the matrices; all else is AdamW's")
    matrix_rate: float | None = Field(gt=0, le=1, description="peak learning rate of the matrices under Muon")
    rate: float | None = Field(gt=0, le=1, description="peak learning rate of AdamW")
    momentum: float = Field(ge=0, lt=1, description="Muon's Nesterov momentum")
    weight_decay: float = Field(ge=0, lt=1, description="decoupled, on the matrices only")
    clip: float = Field(gt=0, description="largest gradient norm")
    warmup: float = Field(ge=0, le=1, description="share of the steps with a rising rate")
    decay: float = Field(ge=0, le=1, description="share of the steps, the last ones, with the rate falling to zero")
    precision: Literal["bf16", "fp32"] = Field(description="of the matrix products; weights stay fp32")
    zero_stage: int = Field(ge=0, le=3, description="DeepSpeed ZeRO stage")
    micro_batch: int | None = Field(default=None, ge=1, description="sequences a rank takes at once, gradients of the "
                                                                    "rest added up; null: its whole share of the batch")
    recompute: bool = Field(default=False, description="activations again in the backward pass instead of keeping them")
    sequence_parallel: int = Field(default=1, ge=1, description="ranks that share a sequence (Ulysses)")
    tensor_parallel: int = Field(default=1, ge=1, description="ranks that share the matrices (AutoTP)")
    offload: bool = Field(default=False, description="AdamW's state and step on the host; ZeRO 1 at least")
    score_steps: int = Field(ge=1, description="steps between points of the curve")
    score_tokens: int = Field(ge=1, description="held-out tokens scored at each point; the final score takes all")
    checkpoint_steps: int = Field(ge=1, description="steps between resume checkpoints")
    patience: int | None = Field(default=None, ge=1, description="points of the curve without gain that end the run; "
                                                                 "the best point's weights are kept. null: all steps")
    watch: Watch
    must_beat: list[Baseline] = Field(description="baselines whose held-out bits per byte the model must undercut")

    @model_validator(mode="after")
    def _phases(self) -> PretrainParams:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) and decay ({self.decay}) are shares of one run: at most 1")
        if self.within_documents and self.sequence_parallel > 1:
            raise ValueError(f"sequence_parallel = {self.sequence_parallel} shares whole causal sequences: not with "
                             "within_documents: true; set one of them back")
        if self.offload and (self.zero_stage == 0 or self.optimizer != "adamw"):
            raise ValueError(f"offload is ZeRO's, of AdamW: not with zero_stage = {self.zero_stage} and optimizer = "
                             f"{self.optimizer}; set zero_stage: 1 or more and optimizer: adamw")
        if self.patience and self.zero_stage == 3:
            raise ValueError("patience keeps a whole copy of the weights, which no rank has under zero_stage 3: set "
                             "patience: null, or zero_stage at most 2")
        return self

    @model_validator(mode="after")
    def _cut(self) -> PretrainParams:
        if self.tensor_parallel == 1:
            return self
        for wrong, what in (
                (self.optimizer != "adamw", f"optimizer = {self.optimizer}, which steps by whole ones; set adamw"),
                (self.zero_stage > 1, f"zero_stage = {self.zero_stage}; set 0 or 1"),
                (self.sequence_parallel > 1, f"sequence_parallel = {self.sequence_parallel}; set one of them to 1"),
                (self.patience is not None, f"patience = {self.patience}, which keeps a whole copy; set null")):
            if wrong:
                raise ValueError(f"tensor_parallel = {self.tensor_parallel} leaves each rank parts of the matrices: "
                                 f"not with {what}")
        return self

    def steps(self) -> int:
        """Optimizer steps of the run: whole batches, at least `tokens` tokens."""
        return -(-self.tokens // (self.batch * self.sequence))

    def rate_at(self, step: int) -> float:
        """Factor in (0, 1] on the peak rates at `step` (0-based): warm up, hold, fall linearly to zero (WSD)."""
        steps = self.steps()
        rising, falling = self.warmup * steps, self.decay * steps
        return min(1.0, (step + 1) / rising if rising else 1.0, (steps - step) / falling if falling else 1.0)
