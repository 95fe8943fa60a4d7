"""The engine's sequences of one HTTP request, and how their deltas reach the event loop.

The engine's thread tells a listener for each sequence of each step. Waking the event loop for each of them costs a
system call and two task switches a token; so deltas are left in one place, and the loop is woken once for all that
lie there.
"""

from __future__ import annotations

import asyncio
import collections
import functools
from collections.abc import AsyncIterator, Callable

from tasks.serve.engine.engine import Engine
from tasks.serve.engine.request import Delta, Request
from tasks.serve.errors import ApiError

Batch = list[tuple[int, Delta]]


class HandOver:
    """Deltas from engines' threads to the flights of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.left: collections.deque[tuple[Flight, int, Delta]] = collections.deque()
        self.called = False

    def put(self, flight: Flight, index: int, delta: Delta) -> None:
        """Called on an engine's thread."""
        self.left.append((flight, index, delta))
        if not self.called:
            self.called = True
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        """Give every flight what is there for it; called on the loop."""
        self.called = False  # before the deque is read: what comes later wakes the loop again
        while self.left:
            flight, index, delta = self.left.popleft()
            flight.receive(index, delta)


class Flight:
    """The sequences of one HTTP request: their deltas as they come, or nothing more once cancelled."""

    def __init__(self, engine: Engine, requests: list[Request], hand_over: HandOver,
                 landed: Callable[[], None]) -> None:
        """Raises Busy, and calls nothing, where the engine takes no more. `landed` is called once, at the end."""
        self.engine, self.requests, self.open = engine, requests, len(requests)
        self.landed = landed
        self.thinking = False  # whether the prompt's end has opened the reasoning
        self.arrived: Batch = []
        self.waiter: asyncio.Future[None] | None = None
        self.sequences = engine.submit(requests, [functools.partial(hand_over.put, self, i)
                                                  for i in range(len(requests))])

    def receive(self, index: int, delta: Delta) -> None:
        """Take a delta and wake the reader."""
        self.arrived.append((index, delta))
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def cancel(self) -> None:
        """Free the engine's memory before its next step and end the reader; nothing where all have ended."""
        if self.open:
            self.engine.cancel(self.sequences)
            self.end()

    def end(self) -> None:
        """No sequence is open any more."""
        self.open = 0
        self.landed()
        self.wake()

    async def batches(self) -> AsyncIterator[Batch]:
        """(index of the request, delta) pairs, as many as are there at a time, until all have ended or `cancel`.

        Leaving early cancels. Raises ApiError where the engine failed or is closing.
        """
        try:
            while self.open:
                if not self.arrived:
                    self.waiter = asyncio.get_running_loop().create_future()
                    await self.waiter
                    continue
                batch, self.arrived = self.arrived, []
                for at, (_, delta) in enumerate(batch):
                    if delta.finish in ("error", "abort"):
                        if at:
                            yield batch[:at]
                        raise failure(delta)
                    if delta.finish is not None:
                        self.open -= 1
                        if not self.open:
                            self.end()
                yield batch
        finally:
            self.cancel()

    def replay(self, deltas: list[Delta]) -> None:
        """Have the reader find `deltas`, one of each request, once all have ended: they may be others than were made."""
        self.arrived, self.open, self.landed = list(enumerate(deltas)), len(deltas), lambda: None

    async def whole(self) -> list[Delta]:
        """Each request's deltas joined into one."""
        joined = [Delta() for _ in self.requests]
        async for batch in self.batches():
            for index, delta in batch:
                into = joined[index]
                into.text += delta.text
                into.tokens += delta.tokens
                into.logprobs += delta.logprobs
                into.prompt_logprobs += delta.prompt_logprobs
                into.finish, into.embedding = delta.finish, delta.embedding
        if any(delta.finish is None for delta in joined):
            raise ApiError(499, "the client closed the request")
        return joined


def failure(delta: Delta) -> ApiError:
    """The answer to a sequence that the engine gave up: what is beyond its limits is the client's fault."""
    said = delta.error or ""
    if delta.finish == "abort":
        return ApiError(503, "the server is shutting down", retry_after=5)
    if said.startswith("GrammarError: "):
        return ApiError(400, f"the form asked for cannot be decoded under: {said.removeprefix('GrammarError: ')}")
    if said.startswith("ModelError: "):
        return ApiError(400, f"model: {said.removeprefix('ModelError: ')}", param="model", code="not_supported")
    return ApiError(500, f"the engine failed: {said}")
