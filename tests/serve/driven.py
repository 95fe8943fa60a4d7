"""An engine that turns only when a test says so, over a backend that several tests share."""

from __future__ import annotations

from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.engine import Engine
from tasks.serve.engine.scheduler import Scheduler
from tasks.serve.metrics import Metrics


class Driven(Engine):
    """No thread: `turn` is called by `run`. `blocks` makes memory short."""

    def __init__(self, backend, vocabulary, *, slots=4, blocks=None, speculator=None, stop_ids=frozenset()):
        super().__init__(backend, vocabulary, stop_ids, slots=slots, queue=1000, metrics=Metrics(),
                         speculator=speculator)
        self.thread.join()
        self.closing = False
        if blocks is not None:
            self.scheduler = Scheduler(Blocks(blocks, backend.block_size), slots, backend.context)

    def loop(self):
        """Nothing: the test turns."""

    def run(self, requests, arrivals=None):
        """The last delta and all tokens of each request; arrivals: the turn at which each comes."""
        heard = [[] for _ in requests]
        due = sorted(range(len(requests)), key=lambda i: arrivals[i] if arrivals else 0)
        turns = 0
        while due or self.open:
            while due and (arrivals is None or arrivals[due[0]] <= turns or not self.open):
                index = due.pop(0)
                self.submit([requests[index]], [heard[index].append])
            self.turn()
            turns += 1
            assert turns < 10_000, "the engine makes no progress"
        return [(deltas[-1], [token for delta in deltas for token in delta.tokens]) for deltas in heard]

    def tokens(self, requests, arrivals=None):
        """The tokens of each request."""
        return [tokens for _, tokens in self.run(requests, arrivals)]

    def check_empty(self):
        """Nothing may be left behind: no holder, no row, no open sequence."""
        scheduler = self.scheduler
        assert scheduler.blocks.holders == [0] * scheduler.blocks.count
        assert scheduler.blocks.available == scheduler.blocks.count and scheduler.blocks.usage == 0
        assert sorted(scheduler.rows) == list(range(scheduler.slots))
        assert not scheduler.running and not scheduler.waiting and self.open == 0
        if self.speculator:
            kept = getattr(self.speculator, "indices", None) or getattr(self.speculator, "followers", {})
            assert not kept
