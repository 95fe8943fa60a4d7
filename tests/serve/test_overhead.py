"""What a step costs in Python beside the model: with a backend that takes no time at all, which only a test may have.

At batch 32 the CPU kernels take some 25 ms for a step; a millisecond of Python is the most that may be added where a
fixed piece of work takes a third of one. No machine is assumed to be quick: it is measured beside.
"""

import time

import numpy as np

from tasks.serve.engine.request import Request
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.text import Vocabulary
from tests.serve.driven import Driven


SHARE = 3  # of plain()


class Free:
    """A backend's shape, SmolLM2's, and no work."""

    vocabulary, context, hidden_size, block_size, blocks = 49152, 2048, 576, 16, 32 * 128

    def __init__(self):
        self.logits = np.random.default_rng(0).normal(size=(32, self.vocabulary)).astype(np.float32)
        self.logits[:, 400:] -= 100.0   # tokens that the tiny tokenizer has

    def step(self, tokens, positions, sequences, block_table, logit_rows, adapters=None):
        return self.logits[:len(logit_rows)]


def cost(tiny, batch, prompt):
    """CPU milliseconds of a decode step, the least of several stretches (the machine has other work)."""
    engine = Driven(Free(), Vocabulary(tiny / "chat"), slots=32)
    chance = np.random.default_rng(1)
    requests = [Request(tuple(map(int, chance.integers(4, 270, prompt))), 900, Sampling(temperature=0), ignore_eos=True)
                for _ in range(batch)]
    engine.submit(requests, [lambda delta: None] * batch)
    while engine.arrivals or not all(sequence.decoding for sequence in engine.scheduler.running):
        engine.turn()
    stretches = []
    for _ in range(8):
        began = time.thread_time()
        for _ in range(40):
            engine.turn()
        stretches.append((time.thread_time() - began) / 40 * 1000)
    assert len(engine.scheduler.running) == batch
    return min(stretches)


def plain():
    """CPU milliseconds of a fixed amount of Python and NumPy, the least of several: how quick this machine is now."""
    rows, took = np.random.default_rng(0).normal(size=(32, 49152)).astype(np.float32), []
    for _ in range(8):
        began = time.thread_time()
        for _ in range(10):
            rows.argmax(1)
            sum(number * number for number in range(5000))
        took.append((time.thread_time() - began) / 10 * 1000)
    return min(took)


def within(found, limit):
    """Whether `found()` is at most `limit()` in one of five tries: a busy machine may hurt one side of any of them."""
    return any(found() <= limit() for _ in range(5))


def test_a_step_of_32_costs_little_python(tiny):
    assert within(lambda: cost(tiny, 32, 40), lambda: SHARE * plain())


def test_a_token_costs_the_same_after_a_thousand_others(tiny):
    assert within(lambda: cost(tiny, 16, 1000), lambda: 1.5 * cost(tiny, 16, 20) + 0.02)
