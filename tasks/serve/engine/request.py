"""What a client asks of the engine, and what it hears back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.serve.engine.grammar import Matcher, Stepwise
from tasks.serve.engine.prefix import Chain
from tasks.serve.engine.sampler import Sampling, TokenLogprob
from tasks.serve.engine.text import TextStream

NUMBERS = itertools.count()


@dataclass(frozen=True)
class Request:
    """One prompt and how to continue it. `logprobs` None asks for none, n for the n best beside each token.

    `adapter` names a registered LoRA adapter. With `embed` nothing is generated: the prompt's hidden states are
    pooled ("mean" of all tokens, or the "last" one's) into Delta.embedding.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    grammar: str | Stepwise | None = None
    adapter: str | None = None
    embed: bool = False
    pooling: str = "mean"


@dataclass
class Delta:
    """What one step added to a sequence: certain text, tokens with log-probabilities, and the end if it came.

    embedding: float32 [hidden size] of length 1, where one was asked for.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None
    embedding: np.ndarray | None = None


class Sequence:
    """A request in the engine: its tokens, its place in memory, its text so far."""

    def __init__(self, request: Request, listener: Callable[[Delta], None], *, adapter: int = -1) -> None:
        self.number = next(NUMBERS)
        self.request, self.listener = request, listener
        self.adapter = adapter       # the backend's index; -1 is the model itself
        self.tokens = list(request.prompt)
        self.computed = 0            # tokens whose keys and values are in memory
        self.reported = 0            # prompt tokens whose log-probabilities have been told
        self.cached_tokens = 0       # prompt tokens found in the prefix cache on first admission
        self.row = -1                # of the scheduler's block table, while running
        self.blocks: list[int] = []
        self.published = 0           # blocks offered to the prefix cache
        self.chain: Chain | None = None
        self.draft: list[int] = []   # tokens guessed to follow, checked in the next step
        self.text = TextStream(request.stop)
        self.generator = np.random.default_rng(request.sampling.seed)
        # greedy and nothing else: the likeliest token as it stands in the model's row
        self.plain = replace(request.sampling, seed=None, top_p=1.0, top_k=0) == Sampling(temperature=0)
        self.matcher: Matcher | None = None
        self.pooled = 0.0            # sum of the hidden states so far, of an embedding
        self.ended = False
        self.arrived = time.perf_counter()
        self.first_token = 0.0

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.request.prompt):]

    @property
    def produced(self) -> int:
        """How many tokens have been generated."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that must be computed before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether all but the last generated token is computed."""
        return self.produced > 0 and self.waiting_tokens == 1

    @property
    def whole(self) -> bool:
        """Whether every prompt position must run through the model, so that the prefix cache is of no use."""
        request = self.request
        return request.embed or (request.prompt_logprobs and self.reported < len(request.prompt) - 1)
