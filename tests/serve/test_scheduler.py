"""What runs in the next step, without any model."""

import numpy as np

from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.request import Request, Sequence
from tasks.serve.engine.scheduler import BUSY, CHUNK, IDLE, Scheduler, arrays


def sequence(tokens, first=0, **more):
    return Sequence(Request(tuple(range(first, first + tokens)), 8, **more), lambda delta: None)


def scheduler(count, size, slots, context=4096):
    return Scheduler(Blocks(count, size), slots, context)


def advance(made, planned):
    for each, count in planned:
        made.advance(each, count - len(each.draft))
        if not each.waiting_tokens:
            each.tokens.append(1)


def test_a_long_prompt_comes_in_chunks_beside_decodes():
    made = scheduler(100, 16, 4)
    short, long = sequence(3), sequence(2 * CHUNK + 5, 1000)
    made.waiting.extend([short, long])
    counts = []
    for _ in range(6):
        planned = made.plan()
        counts.append([(each is long, count) for each, count in planned])
        advance(made, planned)
    assert counts[0] == [(False, 3), (True, CHUNK)]          # both prompts in one step
    assert counts[1:3] == [[(False, 1), (True, BUSY)]] * 2    # decodes wait for less
    assert counts[3:] == [[(False, 1), (True, 5)]] + [[(False, 1), (True, 1)]] * 2


def test_many_short_prompts_share_a_step_up_to_the_budget():
    made = scheduler(400, 16, 32)
    made.waiting.extend(sequence(100, 1000 * i) for i in range(8))
    first = made.plan()
    assert [count for _, count in first][:5] == [100] * 5 and IDLE - 16 < sum(count for _, count in first) <= IDLE
    ends = [(each.computed + count) for each, count in first if count < each.waiting_tokens]
    assert all(end % 16 == 0 for end in ends)                 # chunks end at block borders


def test_slots_that_are_blocks_take_whole_chunks_only():
    made = scheduler(4, 2048, 4, context=2048)
    short, long = sequence(3), sequence(CHUNK + 5)
    made.waiting.extend([short, long])
    advance(made, planned := made.plan())
    assert [count for _, count in planned] == [3, CHUNK]
    advance(made, planned := made.plan())
    assert [count for _, count in planned] == [1, 5]
    assert made.hits == 0 and made.blocks.published == {}


def test_admission_keeps_order_and_slots():
    made = scheduler(2, 64, 2, context=64)
    many = [sequence(4) for _ in range(3)]
    made.waiting.extend(many)
    made.plan()
    assert made.running == many[:2] and list(made.waiting) == many[2:]
    made.remove(many[0])
    made.plan()
    assert made.running == many[1:]


def test_a_prompt_is_admitted_with_all_its_memory_or_not_at_all():
    made = scheduler(4, 16, 4)
    big, next_one = sequence(40), sequence(40, 100)
    made.waiting.extend([big, next_one])
    made.plan()
    assert made.running == [big] and len(big.blocks) == 3 and next_one.blocks == []


def test_shortage_preempts_the_youngest_and_keeps_what_it_made():
    made = scheduler(4, 4, 3)
    old, young = sequence(4), sequence(8, 100)
    made.waiting.extend([old, young])
    advance(made, made.plan())
    planned = made.plan()
    assert [each for each, _ in planned] == [old] and list(made.waiting) == [young]
    assert young.computed == 0 and young.blocks == [] and made.preemptions == 1
    assert len(young.tokens) == 9
    advance(made, planned)
    made.remove(old)
    made.plan()
    assert young.computed == 8 and made.hits == 0  # its full blocks were still there; hits count first admissions


def test_a_repeated_prompt_is_taken_from_the_cache_but_for_its_last_token():
    made = scheduler(20, 16, 4)
    first = sequence(64)
    made.waiting.append(first)
    advance(made, made.plan())
    again = sequence(64)
    made.waiting.append(again)
    planned = dict(made.plan())
    assert planned[again] == 16 and again.cached_tokens == 48 and again.blocks[:3] == first.blocks[:3]
    assert again.blocks[3] != first.blocks[3] and (made.queried, made.hits) == (128, 48)


def test_copies_wait_for_the_one_that_reads_their_prompt():
    made = scheduler(40, 16, 8)
    copies = [sequence(100) for _ in range(4)]
    made.waiting.extend(copies)
    assert [each for each, _ in made.plan()] == copies[:1]
    advance(made, [(copies[0], 100)])
    assert [count for _, count in made.plan()] == [1, 4, 4, 4]
    assert len({each.blocks[0] for each in copies}) == 1


def test_a_small_shared_beginning_holds_nobody_up():
    made = scheduler(40, 16, 8)
    start = tuple(range(16))
    both = [Sequence(Request(start + tuple(range(100 * i, 100 * i + 80)), 8), lambda delta: None) for i in (1, 2)]
    made.waiting.extend(both)
    assert len(made.plan()) == 2


def test_adapters_and_whole_prompts_share_nothing():
    made = scheduler(60, 16, 8)
    made.waiting.append(sequence(64))
    advance(made, made.plan())
    others = [sequence(64, adapter="french"), sequence(64, prompt_logprobs=True, logprobs=0), sequence(64, embed=True)]
    made.waiting.extend(others)
    made.plan()
    assert [each.cached_tokens for each in others] == [0, 0, 0]


def test_a_draft_is_dropped_rather_than_costing_another_its_memory():
    made = scheduler(5, 4, 2)
    old, young = sequence(3), sequence(9, 100)
    made.waiting.extend([old, young])
    advance(made, made.plan())
    old.draft = [7] * 8
    assert made.plan() == [(old, 1), (young, 1)] and old.draft == [] and made.preemptions == 0


def test_arrays_are_what_a_backend_takes():
    made = scheduler(9, 4, 3)
    a, b = sequence(5), sequence(2, adapter=None)
    b.adapter = 1
    made.waiting.extend([a, b])
    tokens, positions, sequences, table, adapters = arrays(made.plan(), made.table)
    assert tokens.tolist() == [0, 1, 2, 3, 4, 0, 1] and positions.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert sequences.tolist() == [0] * 5 + [1] * 2 and table[0].tolist() == [0, 1] and table[1, 0] == 2
    assert adapters.tolist() == [-1, 1] and table.dtype == adapters.dtype == np.int32
    assert tokens.dtype == positions.dtype == sequences.dtype == np.int64
    advance(made, [(a, 5), (b, 2)])
    b.draft = [8, 9]
    tokens, positions, sequences, table, _ = arrays(made.plan(), made.table)
    assert tokens.tolist() == [1, 1, 8, 9] and positions.tolist() == [5, 2, 3, 4]
    assert sequences.tolist() == [0, 1, 1, 1] and table[1].tolist() == b.blocks
