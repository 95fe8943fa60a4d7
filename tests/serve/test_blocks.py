"""Blocks handed out, shared, found again and forgotten; keys of content."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.serve.engine.blocks import Blocks
from tasks.serve.engine.prefix import Chain


def test_blocks_are_handed_out_lowest_first_and_come_back():
    blocks, held = Blocks(4, 16), []
    assert blocks.grow(held, 33) and held == [0, 1, 2] and blocks.usage == 0.75
    assert not blocks.grow([], 17) and blocks.free == [3]
    blocks.release(held)
    assert held == [] and blocks.usage == 0 and blocks.grow(held, 1) and held == [0]


def test_a_published_block_is_shared_outlives_its_holders_and_goes_last():
    blocks, first, second = Blocks(3, 16), [], []
    blocks.grow(first, 32)
    blocks.publish(0, b"a")
    blocks.publish(1, b"b")
    assert blocks.matched([b"a", b"x", b"b"]) == 1 and blocks.matched([b"a", b"b"]) == 2
    blocks.share(second, [b"a"])
    blocks.release(first)
    assert second == [0] and blocks.available == 2 and blocks.holders == [1, 0, 0]
    blocks.release(second)
    third = []
    blocks.grow(third, 16)
    assert third == [2]                                # what nobody can find again goes first
    blocks.grow(third, 32)
    assert third == [2, 1] and blocks.matched([b"a", b"b"]) == 1   # then the least recently used
    assert blocks.grow(third, 48) and blocks.published == {} and not blocks.grow([], 1)


def test_the_end_of_a_sequence_is_forgotten_before_its_beginning():
    blocks, held = Blocks(3, 1), []
    blocks.grow(held, 3)
    for block, key in enumerate((b"a", b"b", b"c")):
        blocks.publish(block, key)
    blocks.release(held)
    blocks.grow(held, 1)
    assert blocks.matched([b"a", b"b", b"c"]) == 2


def test_the_same_content_is_published_once():
    blocks, held = Blocks(2, 1), []
    blocks.grow(held, 2)
    blocks.publish(0, b"a")
    blocks.publish(1, b"a")
    assert blocks.published == {b"a": 0}
    blocks.release(held)
    assert blocks.free == [1] and list(blocks.idle) == [0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=60))
def test_every_block_is_free_idle_or_held(moves):
    """Random growth, sharing, publishing and release of five sequences over six blocks."""
    blocks, held = Blocks(6, 4), [[] for _ in range(5)]
    for who, what in moves:
        mine = held[who]
        if what == 0:
            blocks.release(mine)
        elif what == 1 and mine:
            blocks.publish(mine[-1], bytes([who]))
        elif what == 2 and not mine:
            blocks.share(mine, [key for key in (b"\0", b"\1") if key in blocks.published][:1])
        else:
            before = list(mine)
            assert blocks.grow(mine, 4 * what) or mine == before
        holding = [block for each in held for block in each]
        assert [holding.count(block) for block in range(6)] == blocks.holders
        assert sorted([*blocks.free, *blocks.idle, *set(holding)]) == list(range(6))
        assert {block: key for key, block in blocks.published.items()} == blocks.keys


def test_keys_chain_from_the_beginning_and_tell_adapters_apart():
    tokens = list(range(50))
    keys = Chain("", 16).cover(tokens)
    assert len(keys) == 3 and len(set(keys)) == 3
    assert Chain("", 16).cover(tokens[:32] + [0] * 16)[:2] == keys[:2]
    assert not set(Chain("", 16).cover([99] + tokens[1:])) & set(keys)     # another beginning, all others
    assert not set(Chain("a", 16).cover(tokens)) & set(keys)
    growing = Chain("", 16)
    for end in range(51):
        growing.cover(tokens[:end])
    assert growing.keys == keys
