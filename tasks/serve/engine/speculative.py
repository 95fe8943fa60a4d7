"""Speculative decoding: guess the next tokens cheaply, check them all in one step of the model (Leviathan et al. 2023).

A guess stands only where the token chosen from the model's own row, with the request's own generator, is that very
token; so no output changes, greedy or sampled. What is refused is overwritten in memory by what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tasks.serve.engine.backend import Backend
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.request import Sequence

MOST = 8      # tokens guessed for one sequence
ROWS = 32     # of a step, guesses included: beyond, a row costs as much time as it saves
READ = 256    # tokens of prompts that a draft model reads in one step


class Speculator(Protocol):
    """Something that guesses."""

    def propose(self, sequences: list[Sequence]) -> None:
        """Set `draft` of decoding sequences."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept of a sequence that has ended."""
        ...


def allowance(sequence: Sequence, others: int, context: int) -> int:
    """How many tokens may be guessed for a sequence that decodes with `others` beside it."""
    request = sequence.request
    return max(0, min(MOST, (ROWS - others - 1) // (others + 1), request.max_tokens - sequence.produced - 1,
                      context - len(sequence.tokens) - 1))


@dataclass
class Index:
    """Where each n-gram of a sequence was last followed by something."""

    indexed: int = 0
    after: dict[tuple[int, ...], int] = field(default_factory=dict)


class PromptLookup:
    """Guesses that the text repeats itself: what followed the last tokens where they stood before (Saxena 2023)."""

    GRAMS = (3, 2)  # tried in this order

    def __init__(self, context: int) -> None:
        self.context = context
        self.indices: dict[int, Index] = {}

    def propose(self, sequences: list[Sequence]) -> None:
        """See Speculator.propose. Each token is indexed once, so the cost of a step does not grow with the context."""
        for sequence in sequences:
            index, tokens = self.indices.setdefault(sequence.number, Index()), sequence.tokens
            for end in range(max(index.indexed, 1), len(tokens)):
                for size in self.GRAMS:
                    if end >= size:
                        index.after[tuple(tokens[end - size:end])] = end
            index.indexed = len(tokens)
            found = next((index.after[gram] for size in self.GRAMS
                          if (gram := tuple(tokens[-size:])) in index.after), None)
            if found is not None:
                sequence.draft = tokens[found:found + allowance(sequence, len(sequences) - 1, self.context)]

    def forget(self, sequence: Sequence) -> None:
        """See Speculator.forget."""
        self.indices.pop(sequence.number, None)


@dataclass
class Follower:
    """What the draft model holds of a sequence."""

    blocks: list[int] = field(default_factory=list)
    computed: int = 0


class DraftModel:
    """Guesses by a smaller model of the same vocabulary, greedily, all sequences together.

    Raises ModelError where the vocabularies differ or the draft's backend does not page its memory.
    """

    def __init__(self, backend: Backend, target: Backend, *, length: int = 4) -> None:
        if backend.vocabulary != target.vocabulary:
            raise ModelError(f"the draft model has {backend.vocabulary} tokens, the model {target.vocabulary}: "
                             f"choose a draft with the same tokenizer")
        if backend.block_size >= backend.context:
            raise ModelError("the draft model's backend keeps whole slots: serve it with a paged one (cpu, torch)")
        self.backend, self.length = backend, length
        self.context = min(backend.context, target.context)
        self.memory = Blocks(backend.blocks, backend.block_size)
        self.followers: dict[int, Follower] = {}

    def propose(self, sequences: list[Sequence]) -> None:
        """See Speculator.propose. A sequence that the draft has not wholly read yet gets no guess."""
        budget, reading, guesses = READ, [], {}
        for sequence in sequences:
            follower = self.followers.setdefault(sequence.number, Follower())
            follower.computed = min(follower.computed, len(sequence.tokens) - 1)  # what was refused is forgotten
            wanted = min(self.length, allowance(sequence, len(sequences) - 1, self.context))
            count = min(len(sequence.tokens) - follower.computed, budget)
            if wanted > 0 and count > 0 and self.memory.grow(follower.blocks, len(sequence.tokens) + wanted):
                reading.append((follower, sequence.tokens[follower.computed:follower.computed + count]))
                budget -= count
                if follower.computed + count == len(sequence.tokens):
                    guesses[len(reading) - 1] = (sequence, wanted)
        if not reading:
            return
        best = self.step(reading)
        while guesses:
            for row, (sequence, _) in guesses.items():
                sequence.draft.append(int(best[row]))
            going = [row for row, (sequence, wanted) in guesses.items() if len(sequence.draft) < wanted]
            reading = [(reading[row][0], [int(best[row])]) for row in going]
            guesses = {new: guesses[row] for new, row in enumerate(going)}
            best = self.step(reading) if reading else best

    def step(self, reading: list[tuple[Follower, list[int]]]) -> np.ndarray:
        """Read each follower's next tokens; the greedy token after each, int64 [followers]."""
        counts = np.array([len(tokens) for _, tokens in reading])
        table = np.zeros((len(reading), max(len(follower.blocks) for follower, _ in reading)), np.int32)
        for row, (follower, _) in enumerate(reading):
            table[row, :len(follower.blocks)] = follower.blocks
        positions = np.concatenate([np.arange(follower.computed, follower.computed + len(tokens))
                                    for follower, tokens in reading])
        logits = self.backend.step(np.concatenate([np.array(tokens, np.int64) for _, tokens in reading]), positions,
                                   np.repeat(np.arange(len(reading)), counts), table, counts.cumsum() - 1)
        for follower, tokens in reading:
            follower.computed += len(tokens)
        return logits.argmax(1)

    def forget(self, sequence: Sequence) -> None:
        """See Speculator.forget."""
        follower = self.followers.pop(sequence.number, None)
        if follower:
            self.memory.release(follower.blocks)
