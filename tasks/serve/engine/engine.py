"""The engine: one thread that takes requests, steps the backend over the scheduler's plan, and tells each listener.

It sleeps while there is nothing to do. All calls from outside (`submit`, `cancel`, `close`) only leave a note for the
thread; listeners are called on it and must hand over quickly. A step that raises ends the sequences that it
computed, with the error; their blocks are free at once, and nothing of that step was published for reuse. One of the
backend's own end (BackendLost) stops the engine.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tasks.serve.engine import scheduler as scheduling
from tasks.serve.engine.backend import Backend, BackendLost
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.grammar import GrammarError, Grammars
from tasks.serve.engine.request import Delta, Request, Sequence
from tasks.serve.engine.sampler import adjusted, choose, logprob
from tasks.serve.engine.scheduler import Scheduler
from tasks.serve.engine.speculative import Speculator
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics


class Busy(RuntimeError):
    """The queue is full; try again in `retry_after` seconds."""

    retry_after = 1


class Engine:
    """Requests in, deltas out, over one backend; `speculator` guesses ahead (speculative.py), paged backends only."""

    def __init__(self, backend: Backend, vocabulary: Vocabulary, stop_ids: frozenset[int], *, slots: int,
                 queue: int, metrics: Metrics, speculator: Speculator | None = None) -> None:
        self.backend, self.vocabulary, self.stop_ids = backend, vocabulary, stop_ids
        self.grammars = Grammars(vocabulary, backend.vocabulary, stop_ids)
        self.scheduler = Scheduler(Blocks(backend.blocks, backend.block_size), slots, backend.context)
        if speculator and not self.scheduler.paged:
            raise ModelError("speculative decoding needs a paged backend (cpu, torch, triton); this one keeps slots")
        self.speculator = speculator
        self.queue, self.metrics = queue, metrics
        self.adapters: dict[str, int] = {}
        self.arrivals: list[Sequence] = []
        self.cancelled: list[Sequence] = []
        self.wake = threading.Condition()
        self.closing = False
        self.open = 0                # sequences submitted and not yet ended
        self.slots = slots
        self.thread = threading.Thread(target=self.loop, name="engine", daemon=True)
        self.thread.start()

    def add_adapter(self, name: str, directory: Path) -> None:
        """Register a peft LoRA directory under `name`, before the first request. Raises ModelError on a mismatch."""
        if name in self.adapters:
            raise ModelError(f"two adapters named {name!r}: give each a name of its own")
        self.adapters[name] = self.backend.add_adapter(directory)

    def submit(self, requests: list[Request], listeners: list[Callable[[Delta], None]]) -> list[Sequence]:
        """Queue `requests` together or not at all.

        Raises Busy when the queue cannot take them, ModelError for an adapter that is not registered.
        """
        unknown = {request.adapter for request in requests} - self.adapters.keys() - {None}
        if unknown:
            raise ModelError(f"no adapter {sorted(unknown)[0]!r} here; there are: {', '.join(self.adapters) or 'none'}")
        sequences = [Sequence(request, listener, adapter=self.adapters.get(request.adapter, -1))
                     for request, listener in zip(requests, listeners, strict=True)]
        with self.wake:
            if self.closing or self.open + len(sequences) > self.slots + self.queue:
                raise Busy
            self.open += len(sequences)
            self.arrivals.extend(sequences)
            self.wake.notify_all()
        return sequences

    def cancel(self, sequences: list[Sequence]) -> None:
        """Drop sequences whose client has gone; their memory is free before the next step."""
        with self.wake:
            self.cancelled.extend(sequences)
            self.wake.notify_all()

    def close(self) -> None:
        """Stop the thread after the step it is in; what is unfinished ends with finish `abort`. Frees the backend."""
        with self.wake:
            self.closing = True
            self.wake.notify_all()
        self.thread.join()
        self.backend.close()

    def alive(self) -> bool:
        """Whether the thread still serves."""
        return self.thread.is_alive() and not self.closing

    def loop(self) -> None:
        """Turn until closed. However it ends, nobody is left waiting for an answer."""
        last = Delta(finish="abort")
        try:
            while not self.closing:
                self.turn()
        except Exception as error:
            traceback.print_exc()
            last = Delta(finish="error", error=f"the engine has stopped: {type(error).__name__}: {error}")
        with self.wake:
            self.closing = True
            left = [*self.scheduler.running, *self.scheduler.waiting, *self.arrivals]
            self.arrivals = []
        for sequence in left:
            self.end(sequence, last)
        self.gauge()

    def turn(self) -> None:
        """Take notes, then step or, where there is nothing to do, sleep."""
        scheduler = self.scheduler
        with self.wake:
            self.wake.wait_for(lambda: self.arrivals or self.cancelled or self.closing or scheduler.running
                               or scheduler.waiting)
            if self.closing:
                return
            arrivals, self.arrivals = self.arrivals, []
            cancelled, self.cancelled = self.cancelled, []
        for sequence in arrivals:
            self.admit(sequence)
        for sequence in cancelled:
            self.end(sequence, Delta(finish="abort"))
        self.guess()
        planned = scheduler.plan()
        for run, embed in ((self.generate, False), (self.embed, True)):
            group = [(sequence, count) for sequence, count in planned if sequence.request.embed == embed]
            try:
                if group:
                    run(group)
            except Exception as error:  # a fault of one step must not silence the server
                traceback.print_exc()
                for sequence, _ in group:
                    self.fail(sequence, error)
                if isinstance(error, BackendLost):
                    raise
        self.gauge()

    def admit(self, sequence: Sequence) -> None:
        """Give a new sequence its grammar and queue it."""
        request, blocks = sequence.request, self.scheduler.blocks
        longest = min(len(request.prompt) + request.max_tokens, self.backend.context)
        try:
            if blocks.needed(longest) > blocks.count:
                raise ModelError(f"{longest} tokens need {blocks.needed(longest)} blocks of memory of the "
                                 f"{blocks.count} there are")
            if request.grammar is not None:
                sequence.matcher = self.grammars.matcher(request.grammar)
        except (GrammarError, ModelError) as error:
            self.end(sequence, Delta(finish="error", error=str(error)))
            return
        self.scheduler.waiting.append(sequence)

    def guess(self) -> None:
        """Let the speculator guess for what decodes; where it fails the engine goes on without it."""
        decoding = [sequence for sequence in self.scheduler.running if sequence.decoding] if self.speculator else []
        if decoding:
            try:
                self.speculator.propose(decoding)
            except Exception:  # speculation changes no output, so losing it must cost none either
                traceback.print_exc()
                self.speculator = None
                for sequence in decoding:
                    sequence.draft = []

    def generate(self, planned: list[tuple[Sequence, int]]) -> None:
        """One pass of the model, and what follows from it for each sequence."""
        *step, adapters = scheduling.arrays(planned, self.scheduler.table)
        rows, spans = [], []
        start = 0
        for sequence, count in planned:
            due = 1 + len(sequence.draft) if count - len(sequence.draft) == sequence.waiting_tokens else 0
            wanted = count if sequence.request.prompt_logprobs and sequence.whole else due
            spans.append((len(rows), len(rows) + wanted, due))
            rows += range(start + count - wanted, start + count)
            start += count
        logits = self.backend.step(*step, np.array(rows, np.int64), adapters)
        likeliest = logits.argmax(1).tolist() if rows else []
        for (sequence, count), (low, high, due) in zip(planned, spans):
            try:
                delta = Delta()
                if sequence.request.prompt_logprobs:
                    self.tell_prompt(sequence, logits[low:high], delta)
                self.scheduler.advance(sequence, count - len(sequence.draft))
                if due:
                    self.extend(sequence, logits[high - due:high], likeliest[high - due:high], delta)
                if delta.finish:
                    self.end(sequence, delta)
                elif delta.tokens or delta.prompt_logprobs:
                    sequence.listener(delta)
            except Exception as error:  # a grammar, a listener: nobody else's fault
                traceback.print_exc()
                self.fail(sequence, error)

    def tell_prompt(self, sequence: Sequence, logits: np.ndarray, delta: Delta) -> None:
        """Log-probabilities of prompt tokens that the chunk's rows [count, vocabulary] predict."""
        prompt = sequence.request.prompt
        for row, logit in enumerate(logits):
            following = sequence.computed + row + 1
            if sequence.reported < following < len(prompt):
                delta.prompt_logprobs.append(logprob(logit, prompt[following], sequence.request.logprobs or 0))
                sequence.reported = following

    def extend(self, sequence: Sequence, logits: np.ndarray, likeliest: list[int], delta: Delta) -> None:
        """Choose the token after the last one from its row, and on through the draft for as long as it agrees.

        logits [1 + draft, vocabulary], likeliest: the argmax of each row.
        """
        if sequence.produced >= sequence.request.max_tokens:  # max_tokens 0: the prompt alone was asked for
            delta.finish = "length"
            return
        draft, sequence.draft = sequence.draft, []
        for place, row in enumerate(logits):
            token = self.choose(sequence, row, likeliest[place])
            self.append(sequence, token, row, delta)
            if delta.finish or place == len(draft) or token != draft[place]:
                break
            self.scheduler.advance(sequence, 1)
        if draft:
            self.metrics.drafts.inc()
            self.metrics.draft_tokens.inc(len(draft))
            self.metrics.accepted_tokens.inc(place)

    def choose(self, sequence: Sequence, row: np.ndarray, likeliest: int) -> int:
        """The next token of a sequence from its row [vocabulary]."""
        sampling = sequence.request.sampling
        if sequence.plain and sequence.matcher is None:
            return likeliest
        allowed = sequence.matcher.allowed() if sequence.matcher else None
        changed = adjusted(row, sampling, sequence.generated, sequence.request.prompt)
        return choose(changed, sampling, sequence.generator, allowed)

    def append(self, sequence: Sequence, token: int, row: np.ndarray, delta: Delta) -> None:
        """Add a token chosen from `row` [vocabulary] and note in `delta` what it brings."""
        request = sequence.request
        if not sequence.produced:
            sequence.first_token = time.perf_counter()
            self.metrics.first_token.observe(sequence.first_token - sequence.arrived)
        sequence.tokens.append(token)
        delta.tokens.append(token)
        if request.logprobs is not None:
            delta.logprobs.append(logprob(row, token, request.logprobs))
        ended = token in self.stop_ids and not request.ignore_eos
        complete = not ended and sequence.matcher is not None and sequence.matcher.accept(token)
        full = sequence.produced >= request.max_tokens or len(sequence.tokens) >= self.backend.context
        delta.text += sequence.text.feed(self.vocabulary.piece(token), last=ended or complete or full)
        if ended or complete or sequence.text.stopped:
            delta.finish = "stop"
        elif full:
            delta.finish = "length"

    def embed(self, planned: list[tuple[Sequence, int]]) -> None:
        """One pass over prompts to be embedded; the pooled vector of those that it completes."""
        *step, adapters = scheduling.arrays(planned, self.scheduler.table)
        counts = [count for _, count in planned]
        rows = np.arange(len(step[0]))
        hidden = self.backend.embed(*step, rows) if adapters is None else self.backend.embed(*step, rows, adapters)
        for (sequence, count), rows in zip(planned, np.split(hidden, np.cumsum(counts)[:-1])):
            if sequence.request.pooling == "mean":
                for row in rows:  # one by one, so that the sum does not depend on the chunks
                    sequence.pooled = sequence.pooled + row.astype(np.float64)
            else:
                sequence.pooled = rows[-1].astype(np.float64)
            self.scheduler.advance(sequence, count)
            if not sequence.waiting_tokens:
                length = max(float(np.linalg.norm(sequence.pooled)), np.finfo(np.float32).tiny)
                self.end(sequence, Delta(finish="stop", embedding=(sequence.pooled / length).astype(np.float32)))

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """End a sequence with what went wrong."""
        self.end(sequence, Delta(finish="error", error=f"{type(error).__name__}: {error}"))

    def end(self, sequence: Sequence, delta: Delta) -> None:
        """Free a sequence and tell its listener the last of it, once."""
        if sequence.ended:
            return
        sequence.ended = True
        self.scheduler.remove(sequence)
        if self.speculator:
            self.speculator.forget(sequence)
        with self.wake:
            self.open -= 1
            self.wake.notify_all()
        self.metrics.ended(sequence, delta.finish or "abort")
        try:
            sequence.listener(delta)
        except Exception:  # a listener that is gone must not harm the others
            traceback.print_exc()

    def gauge(self) -> None:
        """Show the queue, the batch and the memory in /metrics."""
        scheduler, metrics = self.scheduler, self.metrics
        metrics.running.set(len(scheduler.running))
        metrics.waiting.set(len(scheduler.waiting) + len(self.arrivals))
        metrics.cache.set(scheduler.blocks.usage)
        metrics.preemptions.inc(scheduler.preemptions)
        metrics.prefix_queries.inc(scheduler.queried)
        metrics.prefix_hits.inc(scheduler.hits)
        scheduler.preemptions = scheduler.queried = scheduler.hits = 0
