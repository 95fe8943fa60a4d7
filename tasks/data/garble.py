"""Damage to a text as crawls and scans do it, English and Chinese alike: what a fluency classifier must tell from it.

Each fault takes a text and a random.Random and returns the damaged text; equal draws give equal damage.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from tasks.data import words

RATE = 0.12  # of characters or words that a fault touches
SPACES = re.compile(r"(\s+)")
MARKUP = ("</div>", "&nbsp;", "{{", "}}", "<br/>", "|", "&#8203;", "[edit]", "undefined", "\\n", "%20", "NaN", "»")
# what scanners take for each other; Han pairs differ by a stroke
LOOKALIKES = str.maketrans({
    "l": "1", "o": "0", "e": "c", "i": "l", "s": "5", "b": "h", "a": "o", "n": "ri", "m": "rn", "t": "f", "g": "q",
    "未": "末", "己": "已", "日": "曰", "人": "入", "大": "太", "天": "夭", "土": "士", "千": "干", "木": "本", "王": "玉",
    "的": "旳", "了": "孑", "是": "昰", "不": "丕", "一": "丨", "有": "冇", "在": "荏", "中": "申", "上": "土", "为": "力",
    "这": "迂", "个": "亇", "以": "似", "会": "佥", "可": "司", "对": "村", "生": "牛", "时": "肘", "用": "甩", "们": "仃"})


def shuffled(text: str, draw: random.Random) -> str:
    """The words of each sentence in another order, punctuation lost: a word list, a bad translation."""
    made = []
    for sentence in words.sentences(text):
        tokens = words.words(sentence)
        draw.shuffle(tokens)
        made.append(joined(tokens))
    return "\n".join(made)


def dropped(text: str, draw: random.Random) -> str:
    """Characters missing: a bad scan, a font without them."""
    return "".join(c for c in text if c.isspace() or draw.random() >= RATE)


def scanned(text: str, draw: random.Random) -> str:
    """Characters taken for ones that look like them, words broken and run together: optical recognition."""
    pieces = []
    for piece in SPACES.split(text):
        if piece.isspace():
            pieces.append("" if draw.random() < RATE else piece)
        else:
            pieces.append("".join(c.translate(LOOKALIKES) if draw.random() < 2 * RATE else c for c in piece))
    return "".join(pieces)


def misread(text: str, draw: random.Random) -> str:
    """UTF-8 read in another encoding, GBK, Latin-1 or Windows-1252; an ASCII text gets broken bytes among it."""
    if text.isascii():
        text = "".join(draw.choice("â€™Ã©ï¿½Â") if draw.random() < RATE else c for c in text)
    wrong = draw.choice(("gbk", "latin-1", "cp1252"))
    return text.encode("utf-8", "replace").decode(wrong, "replace")


def cluttered(text: str, draw: random.Random) -> str:
    """Markup, menus and template code left among the words: an extraction that failed."""
    pieces = re.split(r"(\s+|[，。；！？])", text)
    return "".join(f"{piece} {draw.choice(MARKUP)} " if draw.random() < 2 * RATE else piece for piece in pieces)


def repeated(text: str, draw: random.Random) -> str:
    """A word or two again and again between the others: a degenerate generator, keyword stuffing."""
    tokens = words.words(text)
    if not tokens:
        return text
    stuck = [draw.choice(tokens) for _ in range(2)]
    made = []
    for token in tokens:
        made.append(token)
        if draw.random() < 2 * RATE:
            made += [draw.choice(stuck)] * draw.randint(2, 4)
    return joined(made)


def joined(tokens: list[str]) -> str:
    """Words as one text: a space between them unless both are ideographs."""
    made = ""
    for token in tokens:
        glued = made and words.WORD.fullmatch(made[-1]) and is_ideograph(made[-1]) and is_ideograph(token[0])
        made += token if glued or not made else " " + token
    return made


def is_ideograph(character: str) -> bool:
    """Whether a character belongs to a script that writes no spaces."""
    return re.fullmatch(f"[{words.IDEOGRAPHS}]", character) is not None


FAULTS: dict[str, Callable[[str, random.Random], str]] = {
    fault.__name__: fault for fault in (shuffled, dropped, scanned, misread, cluttered, repeated)}
