"""Information density: how much a text says a character, in [0, 1], measured, not learned.

The mean of three shares: of content words among the words, of distinct runs of three words among all, and of bytes
left by compression among those of plain prose. Padding, repetition and boilerplate bring it down, and so do texts of
nothing but function words; a reference table and a lecture both stand high. Below a few hundred characters nothing
repeats and nothing compresses: there the content words decide.
"""

from __future__ import annotations

import zlib

from tasks.data import words

SAMPLE = 10_000  # characters read, half from the beginning and half from the middle
# closed classes: they carry grammar
FUNCTION = frozenset("""
a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it its
just may me more most my no not of on or our out she should so some such than that the their them then there these they
this those to up us very was we were what when where which while who will with would you your
的 了 在 是 我 有 和 就 不 人 都 一 也 很 到 说 要 去 你 会 着 没 看 好 这 那 他 她 它 们 个 上 下 里 吗 吧 呢 啊 哦 嗯 与 及 或 而
把 被 让 给 对 从 向 为 以 之 其 所 于 但 又 还 再 才 只 得 地 么 什 怎 样 些 此 即 若
""".split())
# share of bytes that zlib leaves of 10,000 characters of prose, from repeated to as dense as prose gets:
# English and Chinese differ, three bytes a character
LEVELS = {"en": (0.05, 0.50), "zh": (0.05, 0.55)}


def density(text: str) -> float:
    """Information density of `text` in [0, 1]; 0 for one without words."""
    sample = text
    if len(text) > SAMPLE:
        middle = len(text) // 2
        sample = text[:SAMPLE // 2] + text[middle:middle + SAMPLE // 2]
    tokens = words.normal_words(sample)
    if not tokens:
        return 0.0
    content = sum(token not in FUNCTION and not token.isdigit() for token in tokens) / len(tokens)
    runs = list(words.ngrams(tokens, 3))
    distinct = len(set(runs)) / len(runs)
    return (content + distinct + compressed(sample)) / 3


def compressed(sample: str) -> float:
    """Share of bytes zlib leaves, from 0 (nothing but repetition) to 1 (as prose, or noise)."""
    data = sample.encode("utf-8", "replace")
    low, high = LEVELS["zh" if len(data) > 2 * len(sample) else "en"]
    return min(max((len(zlib.compress(data, 6)) / len(data) - low) / (high - low), 0.0), 1.0)
