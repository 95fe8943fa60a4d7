"""The `model` section: the shape of the model trained from scratch, or the directory to start from instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from tasks import dial, params
from tasks.stage import StageError


class Extension(params.Section):
    """What a base's context becomes before it is trained on (a length phase): both of these, or nothing."""

    positions: int = Field(ge=32, le=1_048_576, description="longest context, in tokens; not below the base's")
    rope_theta: float = Field(gt=1, description="base of the rotary angles, raised where the context grows")


class ModelParams(params.Section):
    """A Llama's shape; a null value is set by `size`. With `base` set, shape and tokenizer are the base's, only `extend`
    changes them, and the other values are not used."""

    base: str | None = Field(description="from_pretrained directory to start from; null starts from scratch")
    size: int | None = Field(default=None, ge=1, le=dial.DEEPEST, description="the dial: layers, and all that follows")
    hidden: int = Field(ge=64, le=16384, multiple_of=64, description="width of the residual stream")
    intermediate: int = Field(ge=64, le=65536, multiple_of=64, description="width inside the SwiGLU block")
    layers: int = Field(ge=1, le=256)
    heads: int = Field(ge=1, le=256, description="query heads")
    kv_heads: int = Field(ge=1, le=256, description="key and value heads; divides heads")
    head_dim: int = Field(ge=16, le=256, multiple_of=16)
    positions: int = Field(ge=32, le=1_048_576, description="longest context, in tokens")
    rope_theta: float = Field(gt=1, description="base of the rotary angles")
    tied: bool = Field(default=True, description="the head is the embedding; false gives it weights of its own")
    qk_norm: bool = Field(default=False, description="RMSNorm on each head's queries and keys: saved as Qwen3")
    sliding_window: int | None = Field(default=None, ge=16, description="tokens that attention reaches back over, the "
                                       "token itself counted: saved as Mistral or Qwen3; null reaches all")
    extend: Extension | None = Field(default=None, description="a new context for the base; null keeps its own")

    @model_validator(mode="before")
    @classmethod
    def _by_size(cls, values: Any) -> Any:
        return dial.settle(values) if isinstance(values, dict) else values

    @field_validator("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("give it, or model.size")
        return value

    @model_validator(mode="after")
    def _grouped(self) -> ModelParams:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.sliding_window and self.sliding_window > self.positions:
            raise ValueError(f"sliding_window ({self.sliding_window}) is above positions ({self.positions}): lower it, "
                             "or give null for attention without a window")
        if self.extend and self.base is None:
            raise ValueError("extend changes a base's context: without a base, set positions and rope_theta")
        return self

    def base_directory(self) -> Path | None:
        """The base as a directory, or None for a start from scratch. Raises StageError where it is no model."""
        if self.base is None:
            return None
        path = Path(self.base)
        if not (path / "config.json").is_file():
            raise StageError(f"model.base = {self.base}: no config.json there; give a model directory or null")
        return path
