"""A model directory as the server reads it: checked, never written to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTEXT = 2048  # tokens of one sequence the server holds at most, whatever longer the model could


class ModelError(RuntimeError):
    """A model directory cannot be served; the message is one line with the file and the remedy."""


@dataclass(frozen=True)
class ModelFiles:
    """A model directory read and checked: its config, the ids that end a turn, the sums of what manifest.json lists."""

    directory: Path
    config: dict[str, Any]
    stop_ids: frozenset[int]
    sums: dict[str, str] = field(default_factory=dict)

    @property
    def context(self) -> int:
        return min(self.config["max_position_embeddings"], CONTEXT)


def read_files(directory: Path) -> ModelFiles:
    """Check `directory` (never written to). Raises ModelError where a file is missing, torn or changed."""
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            raise ModelError(f"{directory} is no model directory: {name} is missing (dvc repro makes it)")
    if not any((directory / name).is_file() for name in ("model.onnx", "model.safetensors")):
        raise ModelError(f"{directory} holds neither model.onnx nor model.safetensors")
    config = read_json(directory / "config.json")
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                "max_position_embeddings"):
        if not isinstance(config.get(key), int):
            raise ModelError(f"{directory / 'config.json'}: {key} is missing or no integer")
    sums = {}
    if (directory / "manifest.json").is_file():
        sums = read_json(directory / "manifest.json").get("sha256")
        if not isinstance(sums, dict) or not sums:
            raise ModelError(f"{directory / 'manifest.json'} lists no sha256 of any file: export the model again")
    for name, expected in sorted(sums.items()):
        check_sum(directory / name, expected)
    stops = [config.get("eos_token_id")]
    if (directory / "generation_config.json").is_file():
        stops.append(read_json(directory / "generation_config.json").get("eos_token_id"))
    flat = {token for stop in stops for token in (stop if isinstance(stop, list) else [stop]) if token is not None}
    return ModelFiles(directory, config, frozenset(flat), sums)


def require_llama(files: ModelFiles) -> None:
    """Raise ModelError where config.json names another family: its norms or its window would be passed over."""
    family = files.config.get("model_type")
    if family != "llama":
        raise ModelError(f"{files.directory / 'config.json'}: model_type is {family!r}: this server computes llama "
                         "models only; pretrain with model.qk_norm: false and model.sliding_window: null, or serve it "
                         "with transformers or vLLM")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError where the file is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable JSON: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return value


def sha256(path: Path) -> str:
    """The file's sha256, in hexadecimal. Raises ModelError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None


def check_sum(path: Path, expected: str) -> None:
    """Raise ModelError where the file's sha256 is not `expected`: truncated or changed since it was exported."""
    found = sha256(path)
    if found != expected:
        raise ModelError(f"{path} is damaged: sha256 {found[:12]}..., manifest.json says {expected[:12]}...: "
                         f"restore it (dvc checkout) or export it again")
