"""Outputs of the current policy, sampled by the engine that serves: continuous batching, shared prompts computed once.

The policy is a frozen model and its adapters, so a step's new weights are handed over as an adapter of a megabyte: the
engine opens the model's own directory, packed once for its kernels, and adds the adapter. Opening it anew for each
step costs tens of milliseconds and leaves nothing behind of the last one's. Keys and values are fp32, so that what is
sampled is what the loss computes.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.serve.engine.directory import ModelError, read_files
from tasks.serve.engine.request import Delta, Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.start import Options, start
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics
from tasks.stage import StageError

if TYPE_CHECKING:
    from peft import PeftModel

    from tasks.align.prompts import Prompt

SLOTS = 64       # sequences decoded together
ADAPTER = "policy"


@dataclass
class Output:
    """Sampled tokens (the end mark among them where it came), and the engine's log-probability of each, nats."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def outputs(directory: Path, adapted: PeftModel, prompts: list[Prompt], tokens: int, sampling: list[Sampling],
            threads: int) -> list[Output]:
    """One output for each of `prompts` (as many `sampling`s), in their order, of the model in `directory` with the
    adapters of `adapted`. Raises StageError where the engine cannot serve it or fails."""
    written = [Output() for _ in prompts]
    faults: list[str] = []
    done = threading.Semaphore(0)

    def listener(output: Output) -> Callable[[Delta], None]:
        def listen(delta: Delta) -> None:
            output.ids += delta.tokens
            output.logprobs += [found.logprob for found in delta.logprobs]
            if delta.error:
                faults.append(delta.error)
            if delta.finish:
                done.release()
        return listen

    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder, save_embedding_layers=False)
        try:
            engine = start(read_files(directory), Vocabulary(directory), Metrics(), Options(kv="fp32"),
                           threads=threads, slots=SLOTS, queue=len(prompts))
        except ModelError as error:
            raise StageError(str(error)) from None
        try:
            engine.add_adapter(ADAPTER, Path(folder))
            engine.submit([Request(prompt.ids, tokens, each, logprobs=0, adapter=ADAPTER)
                           for prompt, each in zip(prompts, sampling, strict=True)], list(map(listener, written)))
            for _ in prompts:
                done.acquire()
        except ModelError as error:
            raise StageError(f"lora: the engine cannot serve these adapters: {error}") from None
        finally:
            engine.close()
    if faults:
        raise StageError(f"the engine failed on {len(faults)} of {len(prompts)} prompts: {faults[0]}")
    return written


def seeded(*key: int) -> Sampling:
    """Sampling at temperature 1, as the loss takes the policy, whose draws depend on `key` alone: the run's seed, the
    step, the prompt's and the output's number."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return Sampling(seed=int.from_bytes(digest[:6], "big"))


GREEDY = Sampling(temperature=0)
