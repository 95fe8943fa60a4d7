"""The `model` section: the shape of the model trained from scratch, or the directory to start from instead."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from tasks import params
from tasks.stage import StageError


class ModelParams(params.Section):
    """A Llama's shape. With `base` set, shape and tokenizer are the base's and the other values are not used."""

    base: str | None = Field(description="from_pretrained directory to start from; null starts from scratch")
    hidden: int = Field(ge=64, le=16384, multiple_of=64, description="width of the residual stream")
    intermediate: int = Field(ge=64, le=65536, multiple_of=64, description="width inside the SwiGLU block")
    layers: int = Field(ge=1, le=256)
    heads: int = Field(ge=1, le=256, description="query heads")
    kv_heads: int = Field(ge=1, le=256, description="key and value heads; divides heads")
    head_dim: int = Field(ge=16, le=256, multiple_of=16)
    positions: int = Field(ge=32, le=1_048_576, description="longest context, in tokens")
    rope_theta: float = Field(gt=1, description="base of the rotary angles")

    @model_validator(mode="after")
    def _grouped(self) -> ModelParams:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self

    def base_directory(self) -> Path | None:
        """The base as a directory, or None for a start from scratch. Raises StageError where it is no model."""
        if self.base is None:
            return None
        path = Path(self.base)
        if not (path / "config.json").is_file():
            raise StageError(f"model.base = {self.base}: no config.json there; give a model directory or null")
        return path
