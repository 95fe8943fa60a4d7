"""The same architecture with random weights, asked the same language items: what a score is before any training.

It is measured, since it is not chance: on BLiMP such a model has .538, for one of two choices is often the shorter. Its
answers are kept under .resume/ by all that they depend on, so models of one architecture and tokenizer share them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tasks.serve.engine.directory import read_json

SEED = 0
FOLDER = Path(".resume/untrained")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def describe(model: Path, folder: Path) -> Path:
    """Put the config and the tokenizer of `model` into `folder`, without what quantized it: all that decides the
    untrained model."""
    config = read_json(model / "config.json")
    for key in ("quantization_config", "_name_or_path", "torch_dtype"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}, sort_keys=True), encoding="utf-8")
    for name in TOKENIZER:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    return folder


def draw(folder: Path) -> None:
    """Write random weights of SEED, by the architecture's own initialization, for the config in `folder`, in bf16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made.to(torch.bfloat16).save_pretrained(folder)


class Untrained(LM):
    """The untrained model in the image of what `folder` describes; `make` opens a directory. It is drawn and opened
    at the first question, and not at all where every answer is known."""

    def __init__(self, folder: Path, make: Callable[[Path], Any]) -> None:
        super().__init__()
        self.folder, self.make, self.lm = folder, make, None

    def ask(self, kind: str, requests: list[Instance]) -> list[Any]:
        """The answers of the opened model."""
        if self.lm is None:
            draw(self.folder)
            self.lm = self.make(self.folder)
        return getattr(self.lm, kind)(requests)

    def loglikelihood(self, requests: list[Instance], **kwargs: Any) -> list[tuple[float, bool]]:
        return self.ask("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance], **kwargs: Any) -> list[float]:
        return self.ask("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance], **kwargs: Any) -> list[str]:
        return self.ask("generate_until", requests)

    @property
    def tokenizer_name(self) -> str:
        return "untrained"


def folder() -> tempfile.TemporaryDirectory:
    """Where the weights lie while they are asked."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=FOLDER, prefix="weights-")
