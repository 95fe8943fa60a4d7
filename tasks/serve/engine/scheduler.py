"""Continuous batching: which sequences run in the next step, with how many tokens each.

Every sequence that has its prompt behind it decodes one token (and has its draft checked); beside them prompts are read
in chunks, first come first served, several to a step: BUSY tokens of them while others decode, so that a long prompt
does not slow those down, else IDLE. Chunks end at block borders. When memory runs short the youngest running sequence
goes back to the queue, to be computed again.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.prefix import Chain
from tasks.serve.engine.request import Sequence

CHUNK, IDLE, BUSY = 256, 512, 128


class Scheduler:
    """The queue, the running sequences (oldest first) and the memory they share."""

    def __init__(self, blocks: Blocks, slots: int, context: int) -> None:
        self.blocks, self.slots = blocks, slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.grain = min(blocks.size, CHUNK)
        self.paged = blocks.size < context    # a block that is a whole slot is nobody's prefix
        self.table = np.zeros((slots, blocks.needed(context)), np.int32)
        self.rows = list(range(slots))        # of the table, unused
        self.preemptions = self.queried = self.hits = 0   # since metrics were last told; the latter two in tokens

    def plan(self) -> list[tuple[Sequence, int]]:
        """(sequence, tokens) of the next step, drafts included; empty when there is nothing to do."""
        before = self.preemptions
        planned = [(sequence, count) for sequence in list(self.running) if (count := self.decode(sequence))]
        budget = max(BUSY if planned else IDLE, self.grain)
        reading = [sequence for sequence in self.running if not sequence.decoding]
        if self.preemptions == before:
            reading += self.admit(budget - sum(sequence.waiting_tokens for sequence in reading))
        for sequence in reading:
            count = self.chunk(sequence, budget)
            if not count:
                break
            budget -= count
            planned.append((sequence, count))
        return [(sequence, count) for sequence, count in planned if sequence.row >= 0]

    def decode(self, sequence: Sequence) -> int:
        """Rows that a decoding sequence takes: its last token and its draft; 0 where it does not decode now."""
        if sequence.row < 0 or not sequence.decoding:
            return 0
        if sequence.draft and not self.grow(sequence, len(sequence.tokens) + len(sequence.draft)):
            sequence.draft = []
        while not self.grow(sequence, len(sequence.tokens)):
            self.preempt(self.running[-1])
            if sequence.row < 0:
                return 0
        return 1 + len(sequence.draft)

    def chunk(self, sequence: Sequence, budget: int) -> int:
        """How many of its tokens a sequence reads now: to its end, or to a border within the budget."""
        left = sequence.waiting_tokens
        count = min(left, budget, CHUNK)
        if count < left:
            count -= (sequence.computed + count) % self.grain
        return max(count, 0)

    def admit(self, budget: int) -> list[Sequence]:
        """Let waiting sequences run, in order, while slots, memory for their whole prompt and the budget last."""
        admitted: list[Sequence] = []
        reading = [sequence for sequence in self.running if not sequence.decoding]
        promised = {key for sequence in reading if sequence.chain for key in sequence.chain.keys[sequence.published:]}
        for sequence in list(self.waiting):
            if budget <= 0 or not self.rows:
                break
            keys = self.usable(sequence)
            found = self.blocks.matched(keys)
            following = next((n for n, key in enumerate(keys[found:]) if key not in promised), len(keys) - found)
            if following and 2 * following > len(keys) - found:
                continue    # most of what it lacks is being computed for another: a step later it is there
            fresh = self.blocks.needed(len(sequence.tokens)) - sum(
                self.blocks.holders[self.blocks.published[key]] > 0 for key in keys[:found])
            spare = len(self.running) if self.paged else 0    # each may want a block soon
            if self.running and fresh + spare > self.blocks.available or fresh > self.blocks.available:
                break
            self.start(sequence, keys[:found])
            promised.update(sequence.chain.keys[found:] if sequence.chain else ())
            budget -= sequence.waiting_tokens
            admitted.append(sequence)
        return admitted

    def usable(self, sequence: Sequence) -> list[bytes]:
        """Keys of the blocks that a waiting sequence could share; its last token is always computed."""
        if not self.paged:
            return []
        if sequence.chain is None:
            sequence.chain = Chain(sequence.request.adapter or "", self.blocks.size)
        keys = sequence.chain.cover(sequence.tokens)
        return [] if sequence.whole else keys[:(len(sequence.tokens) - 1) // self.blocks.size]

    def start(self, sequence: Sequence, keys: list[bytes]) -> None:
        """Move a waiting sequence to the running ones, with the published blocks of `keys` and room for the rest."""
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.row = self.rows.pop()
        self.blocks.share(sequence.blocks, keys)
        self.table[sequence.row, :len(keys)] = sequence.blocks
        sequence.computed = len(keys) * self.blocks.size
        sequence.published = len(keys)
        self.grow(sequence, len(sequence.tokens))
        if not sequence.produced:
            sequence.cached_tokens = sequence.computed
            self.queried += len(sequence.tokens)
            self.hits += sequence.computed

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Give a running sequence blocks for `tokens` tokens; False where too few are available."""
        held = len(sequence.blocks)
        if held * self.blocks.size >= tokens:
            return True
        if not self.blocks.grow(sequence.blocks, tokens):
            return False
        self.table[sequence.row, held:len(sequence.blocks)] = sequence.blocks[held:]
        return True

    def advance(self, sequence: Sequence, count: int) -> None:
        """Note that the next `count` tokens are computed, and publish the blocks that this fills."""
        sequence.computed += count
        if self.paged and sequence.computed // self.blocks.size > sequence.published:
            keys = sequence.chain.cover(sequence.tokens)
            for index in range(sequence.published, sequence.computed // self.blocks.size):
                self.blocks.publish(sequence.blocks[index], keys[index])
            sequence.published = sequence.computed // self.blocks.size

    def preempt(self, sequence: Sequence) -> None:
        """Free a running sequence's memory and queue it first; its tokens are kept and computed again."""
        self.stop(sequence)
        sequence.computed = sequence.published = 0
        sequence.pooled = 0.0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def stop(self, sequence: Sequence) -> None:
        """Take a running sequence's row and blocks away."""
        self.running.remove(sequence)
        self.rows.append(sequence.row)
        sequence.row, sequence.draft = -1, []
        self.blocks.release(sequence.blocks)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence and free its memory at once."""
        if sequence.row >= 0:
            self.stop(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)


def arrays(planned: list[tuple[Sequence, int]], table: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """A plan as Backend.step takes it: tokens, positions, sequences int64 [n], block_table int32, adapters int32.

    `table` is the scheduler's; adapters is None where no sequence has one.
    """
    tokens: list[int] = []
    for sequence, count in planned:
        tokens += sequence.tokens[sequence.computed:sequence.computed + count]
        tokens += sequence.draft
    counts = np.array([count for _, count in planned])
    starts = np.array([sequence.computed for sequence, _ in planned])
    sequences = np.repeat(np.arange(len(planned)), counts)
    positions = np.arange(len(tokens)) + np.repeat(starts - counts.cumsum() + counts, counts)
    width = max(len(sequence.blocks) for sequence, _ in planned)
    rows = table[:, :width].take([sequence.row for sequence, _ in planned], axis=0)
    adapters = [sequence.adapter for sequence, _ in planned]
    return (np.array(tokens, np.int64), positions, sequences, rows,
            np.array(adapters, np.int32) if max(adapters) >= 0 else None)
