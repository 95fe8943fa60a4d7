"""Extractors: HTML in, main content as Markdown out. One interface, a fast path, a careful one, and the choice.

`fast` lets a linear model choose the blocks of a page (tasks/data/boilerplate.py). `careful` asks trafilatura too
(Barbaresi 2021), at ten times the cost, and lets both vote; the text is rendered from the same blocks. `auto` is fast,
and careful where the model is in doubt about more than it keeps, but on technical pages, where trafilatura
knows no better.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from tasks.data import boilerplate
from tasks.data.blocks import Block, Walk, render

KEEP = 1 / 3           # probability from which a block is kept: missing text costs more than furniture left in
DOUBT_FROM, DOUBT_TO = 0.15, 0.6
DOUBT = 1.0            # characters in doubt for each one kept, above which `auto` is careful
CAREFUL_CHARACTERS = 1 << 20  # a larger page is read fast: trafilatura's time grows faster than its page
VOTE = 1.5             # logits of trafilatura's vote
LITTLE = 500           # characters
NGRAM = 3
TOKENS = re.compile(r"[^\W\u3040-\u9fff\uac00-\ud7af]+|[\u3040-\u9fff\uac00-\ud7af]")

Extractor = Callable[[str, str, Sequence[str]], str]


def fast(html: str, url: str, skip: Sequence[str] = ()) -> str:
    """The blocks of `html` that the model takes for content. `skip`: CSS selectors of elements to leave out."""
    blocks, chances = judged(html, skip)
    return kept(blocks, chances)


def careful(html: str, url: str, skip: Sequence[str] = ()) -> str:
    """The blocks that the model and trafilatura together take for content; the model's alone where it finds none."""
    blocks, chances = judged(html, skip)
    return kept(blocks, chances if chances is None else voted(html, url, blocks, chances))


def auto(html: str, url: str, skip: Sequence[str] = ()) -> str:
    """`fast`, or `careful` where much of what would be kept is in doubt."""
    blocks, chances = judged(html, skip)
    if (chances is not None and len(html) <= CAREFUL_CHARACTERS and not boilerplate.technical(blocks)
            and doubt(blocks, chances) > DOUBT):
        chances = voted(html, url, blocks, chances)
    return kept(blocks, chances)


METHODS: dict[str, Extractor] = {"auto": auto, "fast": fast, "careful": careful}


def judged(html: str, skip: Sequence[str]) -> tuple[list[Block], np.ndarray | None]:
    """The page's blocks and the probability of each; None where there is none."""
    page = Walk(html, skip)
    blocks = boilerplate.pruned(page.blocks)
    return blocks, boilerplate.fitted().probabilities(blocks, page.title) if blocks else None


def kept(blocks: list[Block], chances: np.ndarray | None) -> str:
    """Markdown of the blocks whose probability suffices; of those near the best, where none does."""
    if chances is None:
        return ""
    least = min(KEEP, float(chances.max()) / 2)
    return render(block for block, p in zip(blocks, chances) if p >= least)


def doubt(blocks: list[Block], chances: np.ndarray) -> float:
    """Characters in blocks of middling probability for each character kept; the page's length where none is kept."""
    sizes = np.array([len(block.text) for block in blocks], np.float64)
    unsure = sizes[(chances > DOUBT_FROM) & (chances < DOUBT_TO)].sum()
    return float(unsure / max(1.0, sizes[chances >= KEEP].sum()))


def voted(html: str, url: str, blocks: list[Block], chances: np.ndarray) -> np.ndarray:
    """`chances` moved up for blocks that stand in trafilatura's text, down for others."""
    text = second_opinion(html, url)
    if not text:
        return chances
    logits = np.log(chances / (1 - chances)) + VOTE * (2 * shared(blocks, text) - 1)
    return 1 / (1 + np.exp(-logits))


def second_opinion(html: str, url: str) -> str:
    """Trafilatura's main content, with datatrove's settings; its own costly fallbacks only where it finds little."""
    import trafilatura

    settings = {"url": url or None, "favor_precision": True, "include_comments": False, "deduplicate": False}
    text = trafilatura.extract(html, fast=True, **settings) or ""
    return text if len(text) >= LITTLE else trafilatura.extract(html, **settings) or text


def shared(blocks: list[Block], text: str) -> np.ndarray:
    """float64 [blocks]: the share of each block's trigrams that `text` holds; short ones are looked up whole."""
    tokens = TOKENS.findall(text)
    grams = set(zip(*(tokens[i:] for i in range(NGRAM))))
    whole = f" {' '.join(tokens)} "
    shares = []
    for block in blocks:
        own = TOKENS.findall(block.text)
        mine = list(zip(*(own[i:] for i in range(NGRAM))))
        if mine:
            shares.append(sum(gram in grams for gram in mine) / len(mine))
        else:
            shares.append(float(bool(own) and f" {' '.join(own)} " in whole))
    return np.array(shares)
