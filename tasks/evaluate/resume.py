"""Answers that survive their process: what a model was asked once is not asked again.

Requests go to the model in partitions; the answers of a partition are appended to `answers.jsonl` in one write when it
is done. A run that was killed reads them back and asks the rest. A folder belongs to one digest of all that an answer
depends on: the model's files, the decoding's parameters, this code, the libraries and the processor's instructions;
within it a request's key covers the kind of question, the prompt as the template rendered it, its arguments and the
whole item. So nothing stale is ever read, and a change of one item asks for that item alone.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tasks.evaluate import kept

FOLDER = Path(".resume/evaluate")
PARTITION = 256     # requests whose answers a killed run may lose
ROOT = Path(__file__).resolve().parents[2]
CODE = ("kernels/**/*.py", "kernels/**/*.h", "kernels/**/*.cpp", "tasks/serve/engine/*.py", "tasks/evaluate/*.py",
        "tasks/chat.py", "tasks/exercises.py")
LIBRARIES = ("lm_eval", "numpy", "torch", "tokenizers", "transformers", "llguidance")


def digest(model: Path, decoding: dict[str, Any]) -> str:
    """Hex digest of what the answers of `model` depend on beside the questions. `decoding`: plain JSON values."""
    found = hashlib.sha256()
    for path in sorted(path for path in model.iterdir() if path.is_file()):
        with path.open("rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    for path in sorted({path for pattern in CODE for path in ROOT.glob(pattern)}):
        found.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    libraries = {name: version(name) for name in LIBRARIES}
    found.update(json.dumps([decoding, libraries, platform.python_version(), instructions()], sort_keys=True).encode())
    return found.hexdigest()


def instructions() -> str:
    """The processor's instruction set as the kernels use it; other ones round otherwise."""
    from kernels.build import CompilerMissing
    from kernels.step.session import isa

    try:
        return isa()
    except CompilerMissing:
        return platform.machine()


class ResumedLM(LM):
    """`lm`, asked only what `folder` holds no answer to. `asked` counts what it was asked, `known` what it was not."""

    def __init__(self, lm: LM, folder: Path, partition: int = PARTITION) -> None:
        super().__init__()
        self.lm, self.partition, self.asked, self.known = lm, partition, 0, 0
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "answers.jsonl"
        self.answers = {one: tuple(answer) if isinstance(answer, list) else answer
                        for one, answer in kept.read(self.path).items()}

    def loglikelihood(self, requests: list[Instance], **kwargs: Any) -> list[tuple[float, bool]]:
        return [(value, greedy) for value, greedy in self.ask("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance], **kwargs: Any) -> list[float]:
        return self.ask("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance], **kwargs: Any) -> list[str]:
        return self.ask("generate_until", requests)

    def apply_chat_template(self, *given: Any, **more: Any) -> str:
        return self.lm.apply_chat_template(*given, **more)

    @property
    def tokenizer_name(self) -> str:
        return self.lm.tokenizer_name

    def ask(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """The answer of each request, from the folder or from the model; equal requests are asked once."""
        keys = [key(kind, request) for request in requests]
        missing = {one: request for one, request in zip(keys, requests) if one not in self.answers}
        self.known += len(requests) - len(missing)
        # what begins alike stays in one partition, so that it is still computed once
        order = sorted(missing, key=lambda one: [part for part in missing[one].args if isinstance(part, str)])
        for start in range(0, len(order), self.partition):
            part = order[start:start + self.partition]
            answers = getattr(self.lm, kind)([missing[one] for one in part])
            self.asked += len(part)
            kept.append(self.path, zip(part, answers, strict=True))
            self.answers.update(zip(part, answers))
        return [self.answers[one] for one in keys]


def key(kind: str, request: Instance) -> str:
    """Hex digest of a request: its kind, what is asked, and the item it comes from."""
    asked = json.dumps([kind, request.args, request.doc], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(asked.encode()).hexdigest()
