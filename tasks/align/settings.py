"""The params of alignment by verifiable rewards. Free of torch, so that a stage can read them before it loads."""

from __future__ import annotations

from pydantic import Field, model_validator

from tasks import params
from tasks.finetune.settings import LoraParams


class MixParams(params.Section):
    """How many prompts of each kind: calls of the tool families, calls of the calculator, answers after a result."""

    calls: int = Field(ge=0, le=10_000)
    arithmetic: int = Field(ge=0, le=10_000)
    answers: int = Field(ge=0, le=10_000)

    @model_validator(mode="after")
    def some(self) -> MixParams:
        """Raises ValueError where nothing is asked."""
        if not self.calls + self.arithmetic + self.answers:
            raise ValueError("all kinds are 0: nothing would be asked")
        return self


class GrpoParams(params.Section):
    """Group relative policy optimization: how much is sampled, how far a step may go."""

    steps: int = Field(ge=1, le=1_000_000, description="samplings, each followed by `passes` updates")
    prompts: MixParams = Field(description="of each step, from the exercises' training split")
    checked: MixParams = Field(description="held-out prompts that are answered greedily before and after")
    group: int = Field(ge=2, le=4096, description="outputs sampled for each prompt")
    tokens: int = Field(ge=4, le=65536, description="of an output at most; one that does not end by then is faulty")
    passes: int = Field(ge=1, le=64, description="updates on the same outputs; beyond the first the ratio leaves 1")
    clip: float = Field(gt=0, lt=1, description="the ratio's gain is cut at 1 - clip and 1 + clip")
    beta: float = Field(ge=0, description="weight of the divergence from the model it started from")
    learning_rate: float = Field(gt=0, lt=1, description="AdamW's for the adapters, falling linearly to zero")
    max_norm: float = Field(gt=0, description="largest gradient norm")
    batch: int = Field(ge=1, le=65536, description="outputs in memory together; changes the result by rounding alone")
    systems: list[str] = Field(min_length=1, description="system turns drawn from; an empty one is no system turn")
    keep_every: int = Field(ge=1, description="steps between resume checkpoints")
    min_gain: float = Field(ge=-1, le=1, description="gate: least change of the held-out prompts' mean reward")
    lora: LoraParams
