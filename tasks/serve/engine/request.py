"""What a client asks of the engine, and what it hears back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tasks.serve.engine.grammar import Matcher
from tasks.serve.engine.sampler import Sampling, TokenLogprob
from tasks.serve.engine.text import TextStream

NUMBERS = itertools.count()


@dataclass(frozen=True)
class Request:
    """One prompt and how to continue it. `logprobs` None asks for none, n for the n best beside each token."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    grammar: str | None = None


@dataclass
class Delta:
    """What one step added to a sequence: certain text, tokens with log-probabilities, and the end if it came."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None


class Sequence:
    """A request in the engine: its tokens, its place in memory, its text so far."""

    def __init__(self, request: Request, listener: Callable[[Delta], None]) -> None:
        self.number = next(NUMBERS)
        self.request, self.listener = request, listener
        self.tokens = list(request.prompt)
        self.computed = 0            # tokens whose keys and values are in memory
        self.reported = 0            # prompt tokens whose log-probabilities have been told
        self.blocks: list[int] = []
        self.text = TextStream(request.stop)
        self.generator = np.random.default_rng(request.sampling.seed)
        self.matcher: Matcher | None = None
        self.cancelled = False
        self.arrived = time.perf_counter()
        self.first_token = 0.0

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.request.prompt):]

    @property
    def waiting_tokens(self) -> int:
        """Tokens that must be computed before the next one can be chosen."""
        return len(self.tokens) - self.computed
