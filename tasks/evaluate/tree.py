"""Token sequences as a tree: what several begin with stands in it once.

The choices of a question, questions with the same examples before them, sentences that begin alike: each beginning is
one node, whatever level it ends on, and is computed once (a radix tree, Morrison 1968).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Node:
    """`tokens` at positions from `start` on, after those of `parent`; `children` counts nodes that follow it."""

    tokens: Sequence[int]
    start: int
    parent: Node | None
    children: int = 0
    level: int = 0
    asked: dict[int, list[tuple[int, int]]] = field(default_factory=dict)   # offset -> (sequence, place) that ask it


def build(sequences: Sequence[Sequence[int]], most: int) -> tuple[list[Node], list[Node]]:
    """(nodes, parents before their children; the node that each sequence ends in). No node is longer than `most`.

    Sequences are not empty. Equal ones end in one node.
    """
    order = sorted(range(len(sequences)), key=lambda at: sequences[at])
    nodes: list[Node] = []
    ends: list[Node | None] = [None] * len(sequences)
    ranges: list[tuple[int, int, Node | None]] = [(0, len(order), None)]
    for low, high, parent in ranges:        # grows while it is walked: level by level
        depth = 0 if parent is None else parent.start + len(parent.tokens)
        while low < high:
            if len(sequences[order[low]]) == depth:
                ends[order[low]] = parent
                low += 1
                continue
            token, last = sequences[order[low]][depth], low + 1
            while last < high and sequences[order[last]][depth] == token:
                last += 1
            first, other = sequences[order[low]], sequences[order[last - 1]]
            stop = min(len(first), len(other), depth + most)
            end = next((at for at in range(depth, stop) if first[at] != other[at]), stop)
            node = Node(first[depth:end], depth, parent, level=0 if parent is None else parent.level + 1)
            if parent is not None:
                parent.children += 1
            nodes.append(node)
            ranges.append((low, last, node))
            low = last
    return nodes, ends  # type: ignore[return-value]  # every sequence ends somewhere


def ask(end: Node, length: int, first: int, sequence: int) -> None:
    """Note that `sequence`, of `length` tokens and ending in node `end`, wants what follows its positions from
    `first` on: place i is position first + i."""
    node: Node | None = end
    while node is not None and node.start + len(node.tokens) > first:
        for offset in range(max(0, first - node.start), len(node.tokens)):
            node.asked.setdefault(offset, []).append((sequence, node.start + offset - first))
        node = node.parent
