"""Which blocks of a page are its main content: a logistic model over shape, links, place and the author's own words.

There are two fits: one for prose, one for pages with code or definitions, where signatures and tables are content too.
Features follow Kohlschütter et al. 2010 (link and text density, neighbours) and Readability (the container that holds
most prose); the weights stand in boilerplate.json and are fitted by `python -m benchmarks.extract_fit`. The model is
linear so that class and tag bits cost a table look-up and a page of a hundred blocks costs a millisecond.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np

from tasks.data.blocks import BITS, Block

WEIGHTS = Path(__file__).with_name("boilerplate.json")
PROSE, PROSE_LINKS, ENOUGH = 80, 3, 250  # bytes of a block of prose; at most 1 of 3 linked; a page's prose
KILLED = (BITS["comment"], BITS["aside"])
SHORT = 250  # bytes; longer blocks are not searched for furniture
COVER = 0.6  # a hint that covers so much of a page's prose says nothing there
LEVELS = (1, 2, 3, 4)
SHIFTS = (1, -1, 2, -2)
KINDS = ("prose", "technical")
TECHNICAL = 2  # blocks of code or terms
HAN = "\u2e80"
ENDS, STOPS = tuple(".!?。！？…\"”’':：;；"), tuple(".!?。！？")
TOKENS = re.compile(r"\w+")
FURNITURE = frozenset("""copyright rights reserved cookie cookies subscribe subscription newsletter follow share tweet
    click advertisement advertising sponsored privacy terms login register related photo image getty reuters
    recommended updated published posted comments comment whatsapp facebook twitter instagram download app
    min read topics tags""".split())
FURNITURE_ZH = re.compile("版权|责任编辑|责编|分享|相关|推荐|登录|登錄|注册|广告|廣告|上一篇|下一篇|编辑[:：]|来源[:：]|关注|点击|举报|评论|評論|"
                          "扫码|客户端|返回|首页|備案|备案|联系我们|免责声明|阅读[:：]|打印|收藏")
SHIFTED = ("length", "link_density", "paragraph", "in_best", "furniture", "prose", "ends")
NUMBERS = (
    "length", "words", "link_density", "linked", "commas_per_word", "commas", "sentences", "ends", "stops",
    "furniture", "capital", "paragraph", "prose", "in_best", "distance", "within", "before", "after",
    "before_prose", "after_prose", "prose_so_far", "place", "past_heading", "before_heading", "repeated", "page_prose",
    "has_heading", "word_length", "depth", "first_article", "other_article", "no_article", "articles", "article_share",
    "best_article", "title", "past_title", "before_title", "table", "code", "heading",
    *(f"{name}_{level}" for level in LEVELS for name in ("share", "mass", "links", "size")),
    *(f"{name}{shift:+d}" for shift in SHIFTS for name in SHIFTED),
    "parent_as_previous", "parent_as_next",
)
SHIFTED_ROWS = [NUMBERS.index(name) for name in SHIFTED]


def prose(blocks: list[Block]) -> float:
    """Bytes of unlinked text in the blocks that are long and hold few links."""
    return sum(b.size - b.linked for b in blocks if b.size >= PROSE and b.linked * PROSE_LINKS < b.size)


def pruned(blocks: list[Block]) -> list[Block]:
    """Blocks without readers' comments and asides, where what is left still is a page."""
    for bit in KILLED:
        rest = [block for block in blocks if not block.path & bit]
        if len(rest) < len(blocks) and prose(rest) >= ENOUGH:
            blocks = rest
    return blocks


def numbers(blocks: list[Block], title: str) -> np.ndarray:
    """float32 [blocks, len(NUMBERS)]: what the model weighs besides the bits."""
    count = len(blocks)
    titled = frozenset(TOKENS.findall(title.lower()))
    rows = []
    for block in blocks:
        text = block.text
        size = block.size
        han = text[0] > HAN
        furniture = overlap = 0.0
        if size < SHORT:
            tokens = TOKENS.findall(text.lower())
            own = frozenset(tokens)
            furniture = len(own & FURNITURE) + (2 * len(FURNITURE_ZH.findall(text)) if han else 0)
            overlap = len(own & titled) / max(3, len(own)) if titled else 0.0
        rows.append((size, block.linked, size / 5 if han else text.count(" ") + 1,
                     text.count(",") + text.count("，") + text.count("、"), text.count(". ") + text.count("。"),
                     text.endswith(ENDS), text.endswith(STOPS), furniture, text[0].isupper() or han, block.tag == "p",
                     block.depth, block.article, overlap, block.tag == "h1", block.mark.startswith("#"),
                     block.kind == "table", block.kind == "code"))
    (length, linked, words, commas, sentences, ends, stops, furniture, capital, paragraph, depth, article, overlap,
     first, heading, table, code) = np.array(rows, np.float32).T
    density = linked / length
    solid = np.where((length >= PROSE) & (linked * PROSE_LINKS < length), length - linked, 0)
    total = max(1.0, float(solid.sum()))
    containers, parent, best = surroundings(blocks, solid, linked, length, total)
    inside = np.array([best in block.parents for block in blocks], np.float32)
    distance = np.array([block.parents.index(best) if best in block.parents else 6 for block in blocks], np.float32)
    place = np.arange(count, dtype=np.float32)
    begin, end = span(inside > 0, count)
    dense_begin, dense_end = span((inside > 0) & (solid > 0), count)
    headed = np.flatnonzero(first)
    past = place - (headed[0] if len(headed) else 0)
    named = np.flatnonzero((overlap >= 0.7) & (length > 12))
    headings = named[heading[named] > 0]
    at = headings[0] if len(headings) else named[0] if len(named) else 0
    log = np.log1p
    shares = np.bincount(article.astype(int), solid) / total
    texts = Counter(block.text for block in blocks)
    whole = np.ones(count, np.float32)
    long = log(length)
    columns = [
        long, log(words), density, log(linked), commas / np.maximum(words, 1), log(commas), log(sentences), ends, stops,
        furniture, capital, paragraph, log(solid), inside, distance, (place >= begin) & (place <= end),
        log(np.maximum(begin - place, 0)), log(np.maximum(place - end, 0)), log(np.maximum(dense_begin - place, 0)),
        log(np.maximum(place - dense_end, 0)), np.cumsum(solid) / total, place / count, log(np.maximum(past, 0)),
        log(np.maximum(-past, 0)), [texts[block.text] > 1 for block in blocks], whole * np.log1p(total),
        whole * bool(len(headed)), np.minimum(length / np.maximum(words, 1), 30), np.minimum(depth, 40), article == 1,
        article > 1, article == 0, whole * np.log1p(article.max()), shares[article.astype(int)],
        article == (article[int(np.argmax(inside))] if inside.any() else 0), overlap,
        log(np.maximum(place - at, 0)), log(np.maximum(at - place, 0)), table, code, heading, *containers,
    ]
    made = np.zeros((len(NUMBERS), count), np.float32)
    for row, column in enumerate(columns):
        made[row] = column
    shared = made[SHIFTED_ROWS]
    for number, shift in enumerate(SHIFTS):
        moved = made[len(columns) + number * len(SHIFTED):][:len(SHIFTED)]
        if shift > 0:
            moved[:, shift:] = shared[:, :-shift]
        else:
            moved[:, :shift] = shared[:, -shift:]
    same = parent[1:] == parent[:-1]
    made[-2, 1:] = made[-1, :-1] = same
    return made.T


def surroundings(blocks: list[Block], solid: np.ndarray, linked: np.ndarray, length: np.ndarray,
                 total: float) -> tuple[list[np.ndarray], np.ndarray, int]:
    """The columns of each level of ancestors, the parents, and the container with most prose (-1 for none)."""
    chains = np.array([(block.parents + block.parents[-1:] * 6)[:6] for block in blocks])
    size = int(chains.max()) + 1
    prose_in, links_in, text_in, ranking = np.zeros((4, size))
    for level in range(6):
        # the outermost ancestor fills a short chain up: it counts once
        ids = chains[:, level]
        once = ids != chains[:, level - 1] if level else slice(None)
        ids = ids[once]
        prose_in += np.bincount(ids, solid[once], size)
        links_in += np.bincount(ids, linked[once], size)
        text_in += np.bincount(ids, length[once], size)
        if 0 < level < 4:
            ranking += (1.3 - 0.3 * level) * np.bincount(ids, solid[once], size)
    columns = []
    for level in LEVELS:
        ids = chains[:, level]
        mass, text = prose_in[ids], text_in[ids]
        columns += [mass / total, np.log1p(mass), links_in[ids] / np.maximum(text, 1), np.log1p(text)]
    return columns, chains[:, 1], int(ranking.argmax()) if ranking.any() else -1


def span(chosen: np.ndarray, count: int) -> tuple[int, int]:
    """First and last place that is chosen; the whole row where none is."""
    places = np.flatnonzero(chosen)
    return (int(places[0]), int(places[-1])) if len(places) else (0, count)


def masks(blocks: list[Block]) -> tuple[list[int], list[int]]:
    """(near, path) bits of each block, without the path's hints that cover most of the page's prose."""
    held: Counter[int] = Counter()
    for block in blocks:
        if block.size >= PROSE and block.linked * PROSE_LINKS < block.size:
            held[block.path] += block.size - block.linked
    total, common = sum(held.values()), 0
    every = functools.reduce(int.__or__, held, 0)
    for bit in BITS.values():
        if every & bit and sum(size for mask, size in held.items() if mask & bit) >= COVER * total:
            common |= bit
    return [block.near for block in blocks], [block.path & ~common for block in blocks]


def technical(blocks: list[Block]) -> bool:
    """Whether a page documents something: code blocks or defined terms stand in it."""
    return sum(block.kind == "code" or block.tag == "dt" for block in blocks) >= TECHNICAL


class Model:
    """The fitted weights; `probabilities` says of each block how sure it is content."""

    def __init__(self, weights: dict[str, dict]):
        self.kinds = {kind: Linear(weights[kind]) for kind in KINDS}

    def probabilities(self, blocks: list[Block], title: str) -> np.ndarray:
        """float64 [blocks]: the probability that each is main content."""
        linear = self.kinds[KINDS[technical(blocks)]]
        bits = [[linear.summed(place, mask) for mask in chosen] for place, chosen in enumerate(masks(blocks))]
        logits = numbers(blocks, title) @ linear.numbers + linear.bias + np.array(bits[0]) + np.array(bits[1])
        return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))


class Linear:
    """One set of weights. Raises ValueError where they were fitted for other features."""

    def __init__(self, weights: dict):
        if list(weights["numbers"]) != list(NUMBERS):
            raise ValueError(f"{WEIGHTS.name} was fitted for other features: run python -m benchmarks.extract_fit")
        self.numbers = np.array(list(weights["numbers"].values()))
        self.bias = weights["bias"]
        self.tables = [{BITS[name]: value for name, value in weights[place].items()} for place in ("near", "path")]
        self.sums: tuple[dict[int, float], dict[int, float]] = {}, {}

    def summed(self, place: int, mask: int) -> float:
        """The weights of a mask's bits, added up once for each mask."""
        known = self.sums[place]
        if mask not in known:
            if len(known) > 100_000:
                known.clear()
            known[mask] = sum(weight for bit, weight in self.tables[place].items() if mask & bit)
        return known[mask]


@functools.cache
def fitted() -> Model:
    """The committed model."""
    return Model(json.loads(WEIGHTS.read_text(encoding="utf-8")))
