"""The params of quantization. Free of torch, so that a stage can read them before it loads."""

from __future__ import annotations

from pydantic import Field

from tasks import params


class GateParams(params.Section):
    """How much held-out text the gate reads, and its limits."""

    windows: int = Field(ge=1, le=10_000, description="windows of `quantize.length` tokens")
    max_perplexity_ratio: float = Field(gt=1, description="int4 perplexity over full-precision perplexity")
    min_agreement: float = Field(ge=0, le=1, description="least share of positions with the same most likely token")


class QuantizeParams(params.Section):
    """Group size, calibration, and the two searches of AWQ."""

    group: int = Field(ge=8, le=1024, multiple_of=8, description="weights that share one scale and zero point")
    languages: list[str] = Field(min_length=1, description="languages of calibration and gate text")
    windows: int = Field(ge=1, le=10_000, description="calibration windows")
    length: int = Field(ge=16, le=8192, description="tokens of a window")
    scales: int = Field(ge=1, le=100, description="points of the scale search; 1 scales nothing")
    clips: int = Field(ge=1, le=100, description="points of the clip search; 1 clips nothing")
    narrowest: float = Field(gt=0, le=1, description="smallest share of a group's range the clip search tries")
    damping: float | None = Field(gt=0, le=1, description="share of the mean input power added where errors are "
                                                          "handed on (GPTQ); null hands none on")
    gate: GateParams
