"""Continuous batching: which sequences run in the next step, with how many tokens each.

Every running sequence that has its prompt behind it decodes one token; beside them prompts are read in chunks, oldest
first, up to CHUNK tokens a step, so that a long prompt never stops the others. A chunk's borders depend on its own
sequence alone. When memory runs short the youngest running sequence goes back to the queue, to be computed again.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.request import Sequence

CHUNK = 256


class Scheduler:
    """The queue, the running sequences (oldest first) and the memory they share."""

    def __init__(self, blocks: Blocks, slots: int) -> None:
        self.blocks, self.slots = blocks, slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def plan(self) -> list[tuple[Sequence, int]]:
        """Admit what fits, then (sequence, tokens) of the next step; empty when there is nothing to do."""
        while self.waiting and len(self.running) < self.slots:
            first = self.waiting[0]
            if not self.blocks.grow(first.blocks, min(len(first.tokens), CHUNK)):
                break
            self.running.append(self.waiting.popleft())
        planned, budget = [], CHUNK
        for sequence in list(self.running):
            if sequence not in self.running:
                continue
            count = min(sequence.waiting_tokens, CHUNK)
            prefill = sequence.computed < len(sequence.request.prompt) or count > 1
            if prefill and planned and budget < count:
                continue
            if not self.make_room(sequence, sequence.computed + count):
                continue
            budget -= count if prefill else 0
            planned.append((sequence, count))
        return [(sequence, count) for sequence, count in planned if sequence in self.running]

    def make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Give `sequence` blocks for `tokens` tokens, at the cost of younger ones; False when it lost its own."""
        while not self.blocks.grow(sequence.blocks, tokens):
            youngest = self.running[-1]
            self.preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def preempt(self, sequence: Sequence) -> None:
        """Free a running sequence's memory and queue it first; its tokens are kept and computed again."""
        self.running.remove(sequence)
        self.blocks.release(sequence.blocks)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence and free its memory at once."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.blocks.release(sequence.blocks)


def arrays(planned: list[tuple[Sequence, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, sequences int64 [n] and block_table int32 of a plan, as Backend.step takes them."""
    tokens = [t for s, count in planned for t in s.tokens[s.computed:s.computed + count]]
    positions = np.concatenate([np.arange(s.computed, s.computed + count) for s, count in planned])
    sequences = np.repeat(np.arange(len(planned)), [count for _, count in planned])
    table = np.zeros((len(planned), max(len(s.blocks) for s, _ in planned)), np.int32)
    for row, (sequence, _) in enumerate(planned):
        table[row, :len(sequence.blocks)] = sequence.blocks
    return np.array(tokens, np.int64), positions, sequences, table
