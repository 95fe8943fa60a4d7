"""Log-likelihoods of many token sequences on the engine's backend: packed steps, beginnings computed once, the head
only where something is scored.

A step takes whole nodes of the sequences' tree (tree.py), as many as fit, one level after the other; a node attends to
the blocks of those above it, and where these end within a block it goes on in a copy of that block. The backend's rows
do not depend on their company, so a value is the same in whatever batch, partition or process it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from tasks.evaluate.tree import Node, ask, build
from tasks.serve.engine.backend import Backend
from tasks.serve.engine.blocks import Blocks

STEP = 512        # tokens of a step: more win nothing in the matrix products
HELD = 512        # blocks that the beginnings of one tree may hold: bounds memory
Scored = tuple[np.ndarray, np.ndarray]


def score(backend: Backend, blocks: Blocks, sequences: Sequence[Sequence[int]], first: Sequence[int],
          told: Callable[[int, Scored], None]) -> None:
    """Call `told(at, (values, greedy))` for each sequence as it is scored: log-probabilities float64 [length - first]
    in nats of its tokens from place first[at] >= 1 on, and bool alike: whether each is the likeliest.

    `blocks` is the pool of the backend's memory; what is taken from it is given back.
    """
    order = sorted(range(len(sequences)), key=lambda at: sequences[at])
    for part in parts(order, sequences, min(HELD, blocks.available // 2), blocks.size):
        inputs = [sequences[at][:-1] for at in part]
        nodes, ends = build(inputs, STEP)
        values = [np.zeros(len(sequences[at]) - first[at]) for at in part]
        greedy = [np.zeros(len(value), bool) for value in values]
        for i, at in enumerate(part):
            ask(ends[i], len(inputs[i]), first[at] - 1, i)
        run(backend, blocks, nodes, lambda i, place: sequences[part[i]][first[part[i]] + place], values, greedy)
        for at, *scored in zip(part, values, greedy):
            told(at, tuple(scored))


def parts(order: Sequence[int], sequences: Sequence[Sequence[int]], held: int, size: int) -> Iterator[list[int]]:
    """Neighbours in `order` whose trees need `held` blocks at most, one sequence at least."""
    part: list[int] = []
    used, last = 0, ()
    for at in order:
        now = sequences[at]
        common = next((i for i, (a, b) in enumerate(zip(last, now)) if a != b), min(len(last), len(now)))
        need = (len(now) - common) // size + 2
        if part and used + need > held:
            yield part
            part, used, need = [], 0, len(now) // size + 2
        part.append(at)
        used, last = used + need, now
    if part:
        yield part


def run(backend: Backend, blocks: Blocks, nodes: list[Node], token: Callable[[int, int], int],
        values: list[np.ndarray], greedy: list[np.ndarray]) -> None:
    """Compute every node once and put what was asked into `values` and `greedy`; token(sequence, place) is the token
    whose log-probability is wanted there."""
    tables: dict[int, list[int]] = {}       # of each node, its parents' blocks first
    owned: dict[int, list[int]] = {}        # what a node took from the pool
    left = {id(node): node.children for node in nodes}
    try:
        for step in steps(nodes):
            copies = []
            for node in step:
                tables[id(node)], owned[id(node)] = lay(blocks, node, tables, copies)
            if copies:
                backend.copy(*np.array(copies, np.int32).T)
            compute(backend, step, [tables[id(node)] for node in step], token, values, greedy)
            for node in step:               # what no node will follow any more is free at once
                while node is not None and not left[id(node)]:
                    blocks.release(owned.pop(id(node)))
                    del tables[id(node)]
                    node = node.parent
                    if node is not None:
                        left[id(node)] -= 1
    finally:
        for held in owned.values():
            blocks.release(held)


def steps(nodes: list[Node]) -> Iterator[list[Node]]:
    """Nodes of one level, together STEP tokens at most."""
    step: list[Node] = []
    size = 0
    for node in nodes:
        if step and (node.level != step[0].level or size + len(node.tokens) > STEP):
            yield step
            step, size = [], 0
        step.append(node)
        size += len(node.tokens)
    if step:
        yield step


def lay(blocks: Blocks, node: Node, tables: dict[int, list[int]], copies: list[tuple[int, int]]
        ) -> tuple[list[int], list[int]]:
    """(block table, blocks taken) of a node; a block that its parent leaves half full is copied into one of its own."""
    above = [] if node.parent is None else tables[id(node.parent)]
    whole = node.start // blocks.size
    own: list[int] = []
    if not blocks.grow(own, node.start + len(node.tokens) - whole * blocks.size):
        raise MemoryError("the blocks of the pool do not hold this tree")
    if node.start % blocks.size:
        copies.append((above[whole], own[0]))
    return above[:whole] + own, own


def compute(backend: Backend, step: list[Node], tables: list[list[int]], token: Callable[[int, int], int],
            values: list[np.ndarray], greedy: list[np.ndarray]) -> None:
    """One step of the backend over `step`, and what follows from its logits."""
    counts = np.array([len(node.tokens) for node in step])
    starts = np.array([node.start for node in step])
    tokens = np.array([token for node in step for token in node.tokens], np.int64)
    positions = np.arange(len(tokens)) + np.repeat(starts - counts.cumsum() + counts, counts)
    table = np.zeros((len(step), max(map(len, tables))), np.int32)
    for row, held in zip(table, tables):
        row[:len(held)] = held
    rows: list[int] = []
    wanted: list[tuple[int, int, int, int]] = []   # row of the logits, token, sequence, place
    for node, begin in zip(step, counts.cumsum() - counts):
        for offset, askers in sorted(node.asked.items()):
            wanted += [(len(rows), token(sequence, place), sequence, place) for sequence, place in askers]
            rows.append(begin + offset)
    logits = backend.step(tokens, positions, np.repeat(np.arange(len(step)), counts), table,
                          np.array(rows, np.int64))
    if not rows:
        return
    at, targets, *_ = np.array(wanted).T
    picked = logits[at, targets].astype(np.float64)
    scores = torch.from_numpy(logits)
    most, best = scores.max(1)
    total = scores.sub_(most[:, None]).exp_().sum(1, dtype=torch.float64).log_() + most
    found = picked - total.numpy()[at]
    agree = best.numpy()[at] == targets
    for value, same, (_, _, sequence, place) in zip(found, agree, wanted):
        values[sequence][place], greedy[sequence][place] = value, same
