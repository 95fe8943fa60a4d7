"""What runs in the next step, without any model."""

import numpy as np

from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.request import Request, Sequence
from tasks.serve.engine.scheduler import CHUNK, Scheduler, arrays


def sequence(tokens):
    return Sequence(Request(tuple(range(tokens)), 8), lambda delta: None)


def advance(planned):
    for each, count in planned:
        each.computed += count
        if not each.waiting_tokens:
            each.tokens.append(1)


def test_blocks_are_handed_out_lowest_first_and_come_back():
    blocks, held = Blocks(4, 16), []
    assert blocks.grow(held, 33) and held == [0, 1, 2] and blocks.usage == 0.75
    assert not blocks.grow([], 17) and blocks.free == [3]
    blocks.release(held)
    assert held == [] and blocks.usage == 0 and blocks.grow(held, 1) and held == [0]


def test_a_long_prompt_comes_in_chunks_beside_decodes():
    scheduler = Scheduler(Blocks(100, 16), 4)
    short, long = sequence(3), sequence(2 * CHUNK + 5)
    scheduler.waiting.extend([short, long])
    counts = []
    for _ in range(4):
        planned = scheduler.plan()
        counts.append([(each is long, count) for each, count in planned])
        advance(planned)
    assert counts[0] == [(False, 3)]             # the chunk does not fit beside the first prompt
    assert counts[1:] == [[(False, 1), (True, CHUNK)], [(False, 1), (True, CHUNK)], [(False, 1), (True, 5)]]


def test_admission_keeps_order_and_slots():
    scheduler = Scheduler(Blocks(2, 64), 2)
    many = [sequence(4) for _ in range(3)]
    scheduler.waiting.extend(many)
    scheduler.plan()
    assert scheduler.running == many[:2] and list(scheduler.waiting) == many[2:]
    scheduler.remove(many[0])
    scheduler.plan()
    assert scheduler.running == many[1:]


def test_shortage_preempts_the_youngest():
    scheduler = Scheduler(Blocks(3, 4), 3)
    old, young = sequence(4), sequence(8)
    scheduler.waiting.extend([old, young])
    advance(scheduler.plan())
    planned = scheduler.plan()
    assert [each for each, _ in planned] == [old] and list(scheduler.waiting) == [young]
    assert young.computed == 0 and young.blocks == [] and scheduler.preemptions == 1
    assert len(young.tokens) == 9  # what it had generated is kept


def test_arrays_are_what_a_backend_takes():
    scheduler = Scheduler(Blocks(9, 4), 3)
    a, b = sequence(5), sequence(2)
    scheduler.waiting.extend([a, b])
    tokens, positions, sequences, table = arrays(scheduler.plan())
    assert tokens.tolist() == [0, 1, 2, 3, 4, 0, 1] and positions.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert sequences.tolist() == [0] * 5 + [1] * 2 and table.tolist() == [[0, 1], [2, 0]]
    assert table.dtype == np.int32 and tokens.dtype == positions.dtype == np.int64
