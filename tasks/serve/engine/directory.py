"""A model directory as the server reads it: checked, never written to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = 2048  # tokens of one sequence the server holds at most, whatever longer the model could


class ModelError(RuntimeError):
    """A model directory cannot be served; the message is one line with the file and the remedy."""


@dataclass(frozen=True)
class ModelFiles:
    """A model directory read and checked: its config and the ids that end a turn."""

    directory: Path
    config: dict[str, Any]
    stop_ids: frozenset[int]

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
    if (directory / "manifest.json").is_file():
        for name, expected in sorted(read_json(directory / "manifest.json").get("sha256", {}).items()):
            check_sum(directory / name, expected)
    stops = {config.get("eos_token_id")}
    if (directory / "generation_config.json").is_file():
        stops.add(read_json(directory / "generation_config.json").get("eos_token_id"))
    flat = {token for stop in stops for token in (stop if isinstance(stop, list) else [stop]) if token is not None}
    return ModelFiles(directory, config, frozenset(flat))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError where the file is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable JSON: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return value


def check_sum(path: Path, expected: str) -> None:
    """Raise ModelError where the file's sha256 is not `expected`: truncated or changed since it was exported."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    if found != expected:
        raise ModelError(f"{path} is damaged: sha256 {found[:12]}..., manifest.json says {expected[:12]}...: "
                         f"restore it (dvc checkout) or export it again")
