"""The engine: one thread that takes requests, steps the backend over the scheduler's plan, and tells each listener.

It sleeps while there is nothing to do. All calls from outside (`submit`, `cancel`, `close`) only leave a note for the
thread; listeners are called on it and must hand over quickly.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

import numpy as np

from tasks.serve.engine import scheduler as scheduling
from tasks.serve.engine.backend import Backend
from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.grammar import GrammarError, Grammars
from tasks.serve.engine.request import Delta, Request, Sequence
from tasks.serve.engine.sampler import adjusted, choose, logprob
from tasks.serve.engine.scheduler import Scheduler
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics


class Busy(RuntimeError):
    """The queue is full; try again in `retry_after` seconds."""

    retry_after = 1


class Engine:
    """Requests in, deltas out, over one backend."""

    def __init__(self, backend: Backend, vocabulary: Vocabulary, stop_ids: frozenset[int], *, slots: int,
                 queue: int, metrics: Metrics) -> None:
        self.backend, self.vocabulary, self.stop_ids = backend, vocabulary, stop_ids
        self.grammars = Grammars(vocabulary, backend.vocabulary, stop_ids)
        self.scheduler = Scheduler(Blocks(backend.blocks, backend.block_size), slots)
        self.queue, self.metrics = queue, metrics
        self.arrivals: list[Sequence] = []
        self.wake = threading.Condition()
        self.closing = False
        self.open = 0                # sequences submitted and not yet ended
        self.slots = slots
        self.thread = threading.Thread(target=self.loop, name="engine", daemon=True)
        self.thread.start()

    def submit(self, requests: list[Request], listeners: list[Callable[[Delta], None]]) -> list[Sequence]:
        """Queue `requests` together or not at all. Raises Busy when the queue cannot take them."""
        sequences = [Sequence(request, listener) for request, listener in zip(requests, listeners, strict=True)]
        with self.wake:
            if self.closing or self.open + len(sequences) > self.slots + self.queue:
                raise Busy
            self.open += len(sequences)
            self.arrivals.extend(sequences)
            self.wake.notify()
        return sequences

    def cancel(self, sequences: list[Sequence]) -> None:
        """Drop sequences whose client has gone; their memory is free before the next step."""
        with self.wake:
            for sequence in sequences:
                sequence.cancelled = True
            self.wake.notify()

    def close(self) -> None:
        """Stop the thread after the step it is in; what is unfinished ends with finish `abort`."""
        with self.wake:
            self.closing = True
            self.wake.notify()
        self.thread.join()

    def alive(self) -> bool:
        """Whether the thread still serves."""
        return self.thread.is_alive() and not self.closing

    def loop(self) -> None:
        """Until closed: take notes, step, or sleep."""
        while True:
            with self.wake:
                while not (self.arrivals or self.closing or self.scheduler.running or self.scheduler.waiting):
                    self.wake.wait()
                arrivals, self.arrivals = self.arrivals, []
            for sequence in arrivals:
                self.admit(sequence)
            for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
                if sequence.cancelled or self.closing:
                    self.end(sequence, Delta(finish="abort"))
            if self.closing:
                return
            planned = self.scheduler.plan()
            self.gauge()
            if planned:
                try:
                    self.step(planned)
                except Exception as error:  # a fault of one step must not silence the server
                    traceback.print_exc()
                    for sequence, _ in planned:
                        self.end(sequence, Delta(finish="error", error=f"{type(error).__name__}: {error}"))
            self.gauge()

    def admit(self, sequence: Sequence) -> None:
        """Give a new sequence its grammar and queue it."""
        try:
            if sequence.request.grammar is not None:
                sequence.matcher = self.grammars.matcher(sequence.request.grammar)
        except GrammarError as error:
            self.end(sequence, Delta(finish="error", error=str(error)))
            return
        self.scheduler.waiting.append(sequence)

    def step(self, planned: list[tuple[Sequence, int]]) -> None:
        """One pass of the model, and what follows from it for each sequence."""
        tokens, positions, sequences, table = scheduling.arrays(planned)
        rows, spans = [], []
        start = 0
        for sequence, count in planned:
            whole = sequence.request.prompt_logprobs and sequence.computed + count > sequence.reported
            due = count == sequence.waiting_tokens
            own = list(range(start, start + count)) if whole else [start + count - 1] if due else []
            spans.append((len(rows), len(rows) + len(own)))
            rows += own
            start += count
        logits = self.backend.step(tokens, positions, sequences, table, np.array(rows, np.int64))
        for (sequence, count), (low, high) in zip(planned, spans):
            delta = Delta()
            if sequence.request.prompt_logprobs:
                self.tell_prompt(sequence, logits[low:high], delta)
            sequence.computed += count
            if not sequence.waiting_tokens:
                self.extend(sequence, logits[high - 1], delta)
            if delta.finish:
                self.end(sequence, delta)
            elif delta.tokens or delta.prompt_logprobs:
                sequence.listener(delta)

    def tell_prompt(self, sequence: Sequence, logits: np.ndarray, delta: Delta) -> None:
        """Log-probabilities of prompt tokens that the chunk's rows [count, vocabulary] predict."""
        prompt = sequence.request.prompt
        for row, logit in enumerate(logits):
            following = sequence.computed + row + 1
            if sequence.reported < following < len(prompt):
                delta.prompt_logprobs.append(logprob(logit, prompt[following], sequence.request.logprobs or 0))
                sequence.reported = following

    def extend(self, sequence: Sequence, logits: np.ndarray, delta: Delta) -> None:
        """Choose the next token from its row [vocabulary] and note in `delta` what it brings."""
        request = sequence.request
        now = time.perf_counter()
        if len(sequence.generated) >= request.max_tokens:  # max_tokens 0: the prompt alone was asked for
            delta.finish = "length"
            return
        allowed = sequence.matcher.allowed() if sequence.matcher else None
        token = choose(adjusted(logits, request.sampling, sequence.generated), request.sampling, sequence.generator,
                       allowed)
        if not sequence.generated:
            sequence.first_token = now
            self.metrics.first_token.observe(now - sequence.arrived)
        sequence.tokens.append(token)
        delta.tokens.append(token)
        if request.logprobs is not None:
            delta.logprobs.append(logprob(logits, token, request.logprobs))
        ended = token in self.stop_ids and not request.ignore_eos
        complete = not ended and sequence.matcher is not None and sequence.matcher.accept(token)
        full = len(sequence.generated) >= request.max_tokens or len(sequence.tokens) >= self.backend.context
        delta.text = sequence.text.feed(self.vocabulary.piece(token), last=ended or complete or full)
        if ended or complete or sequence.text.stopped:
            delta.finish = "stop"
        elif full:
            delta.finish = "length"

    def end(self, sequence: Sequence, delta: Delta) -> None:
        """Free a sequence and tell its listener the last of it."""
        self.scheduler.remove(sequence)
        with self.wake:
            self.open -= 1
        self.metrics.ended(sequence, delta.finish or "abort")
        sequence.listener(delta)

    def gauge(self) -> None:
        """Show the queue, the batch and the memory in /metrics."""
        self.metrics.running.set(len(self.scheduler.running))
        self.metrics.waiting.set(len(self.scheduler.waiting) + len(self.arrivals))
        self.metrics.cache.set(self.scheduler.blocks.usage)
        self.metrics.preemptions.inc(self.scheduler.preemptions)
        self.scheduler.preemptions = 0
