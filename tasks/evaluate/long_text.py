"""Long-text items: needles, several needles of one kind and variable tracing, in prose that no model was trained on.

The haystack is prose of the held-out documents, sentence by sentence, English and Chinese in turn; a prompt of length
512 has at most 512 of the model's own tokens, answer included, and lacks less than a sentence of them. What is
asked for was stated somewhere in it, in invented sentences, and the prompt ends where that sentence would go on:

- `needle`: one statement at each depth, each the only one of its kind; its value among values of that kind that stand
  nowhere else in the haystack (needle in a haystack, Kamradt 2023; one reading of the context asks all depths);
- `multi_needle`: statements of one kind about several things; the choices are all their values, so the right one is
  known only by its key (multi-key retrieval of RULER, Hsieh et al. 2024, arXiv:2404.06654);
- `tracing`: chains `VAR AB = 52861.`, `VAR CD = VAR AB.`; the value of each variable among those of all chains, by the
  number of hops to it (RULER's variable tracking).

The choices are compared by log-likelihood, not written: a model of 3 or 135 million parameters that knows the answer
still phrases it in any way, and a comparison has a known chance, one over the choices. Seeded: the same parameters
and tokenizer give the same items.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tasks import params
from tasks.stage import StageError

Item = dict[str, Any]
Encode = Callable[[str], Sequence[int]]
TASKS = ("needle", "multi_needle", "tracing")
LANGUAGES = {"en": " ", "zh": ""}      # what stands between two sentences
KINDS = {                              # what leads to a value -> the values; each stated as lead + value + stop
    "en": {"The captain painted the old boat": "crimson violet turquoise maroon beige indigo scarlet lilac",
           "The pet in the mayor's garden is a": "zebra camel hamster badger parrot lizard donkey beaver",
           "The key to the tower is made of": "copper bronze nickel marble ivory bamboo granite porcelain",
           "The chess club will next meet in": "Lisbon Geneva Nairobi Oslo Lima Havana Dublin Kyoto",
           "The fruit that the teacher likes best is the": "mango papaya cherry melon walnut peach raspberry apricot"},
    "zh": {"船长把旧船漆成了": "深红色 紫罗兰色 青绿色 米黄色 橙色 靛蓝色 粉红色 银灰色",
           "镇长的花园里养着一只": "斑马 骆驼 水獭 鹦鹉 蜥蜴 刺猬 袋鼠 企鹅",
           "塔楼的钥匙所用的材料是": "黄铜 青铜 大理石 象牙 竹子 花岗岩 陶瓷 塑料",
           "棋社下一次聚会的地点是": "里斯本 日内瓦 内罗毕 奥斯陆 利马 哈瓦那 都柏林 巴拿马",
           "老师最爱吃的水果是": "芒果 木瓜 樱桃 甜瓜 菠萝 葡萄 柠檬 草莓"},
}
KEYED = {                              # one kind of statement about many things: lead with a place for the key
    "en": ("The secret word of {} is", "Anna Boris Clara David Erika Felix Greta Henry",
           "lantern pebble harvest thunder velvet compass feather orchard"),
    "zh": ("{}的暗号是", "小明 小红 小刚 小丽 小华 小芳 小军 小燕", "灯笼 石子 丰收 雷声 丝绒 罗盘 羽毛 果园"),
}
STOP = {"en": ".", "zh": "。"}
FEWEST = 4     # choices of a needle; a kind with fewer values that the haystack lacks takes them all


class LongTextParams(params.Section):
    """The grid of long texts and how much of it is read."""

    lengths: list[int] = Field(min_length=1, description="tokens of the model's own; longer than it reads: left out")
    depths: list[float] = Field(min_length=1, max_length=5, description="places of the needles, shares of the text")
    needles: int = Field(ge=2, le=8, description="statements of one kind in multi_needle; chance is 1 / needles")
    chains: int = Field(ge=2, le=6, description="chains of variables in tracing; chance is 1 / chains")
    hops: int = Field(ge=0, le=4, description="assignments between a chain's number and its last variable")
    tokens: int = Field(ge=1, description="of all prompts of a task, at least one text of each language")
    seed: int = Field(ge=0)

    @field_validator("lengths", "depths")
    @classmethod
    def rising(cls, value: list[float]) -> list[float]:
        """Raises ValueError where the grid is not in order, or leaves its bounds."""
        if value != sorted(set(value)) or value[0] < 0:
            raise ValueError(f"{value} must rise, from 0 on")
        if isinstance(value[0], float) and value[-1] > 1:
            raise ValueError(f"{value} are shares of the text, 1 at most")
        return value


def items(held_out: Path, encode: Encode, context: int, given: LongTextParams
          ) -> tuple[dict[str, list[Item]], dict[str, dict[str, int]]]:
    """(task -> items, task -> length -> items that are not asked because the model reads `context` tokens at most, or
    because the statements alone are longer).

    held_out: the held-out documents (tasks/data/documents.py); encode: text -> the model's tokens, no specials added.
    Raises StageError where no language has prose.
    """
    pools = {language: found for language, found in prose(held_out).items() if found}
    if not pools:
        raise StageError(f"evaluate.long_text: {held_out} holds no prose in {' or '.join(LANGUAGES)} to hide anything "
                         "in: set long_text to null, or raise evalsets.split")
    read = sum(length for length in given.lengths if length <= context) or min(given.lengths)
    made: dict[str, list[Item]] = {}
    left: dict[str, dict[str, int]] = {}
    for task, statements in zip(TASKS, (needle, multi_needle, tracing)):
        made[task], left[task] = [], {}
        # assignments have no language: one is enough for what is dear to read
        languages = list(pools)[:1] if task == "tracing" else list(pools)
        for at in range(max(1, given.tokens // (read * len(languages)))):
            for language, pool in ((language, pools[language]) for language in languages):
                for length in given.lengths:
                    draw = random.Random(f"{given.seed} {task} {language} {at} {length}")
                    start = random.Random(f"{given.seed} {language} {at}").randrange(len(pool))
                    asked = list(statements(language, pool, given, draw))
                    text = hide(asked, pool[start:] + pool[:start], LANGUAGES[language], encode, length)
                    if length > context or text is None:
                        left[task][str(length)] = left[task].get(str(length), 0) + len(asked)
                        continue
                    name = f"{task}-{language}{at}-{length:06d}"
                    made[task] += [{"id": f"{name}-{n:02d}", "document": name, "language": language, "length": length,
                                    "place": one["place"], "prompt": f"{text}\n{one['lead']}",
                                    "choices": one["choices"], "gold": one["gold"]} for n, one in enumerate(asked)]
    return {task: of for task, of in made.items() if of}, {task: of for task, of in left.items() if of}


def prose(held_out: Path) -> dict[str, list[str]]:
    """language -> the sentences of plain prose of the held-out documents, each once."""
    from tasks.data import documents
    from tasks.data.items import prose as sentences

    found: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    for document in documents.read(held_out):
        language = document.metadata.get("language")
        if language in found:
            found[language] += sentences(document)
    return {language: list(dict.fromkeys(pool)) for language, pool in found.items()}


def needle(language: str, pool: Sequence[str], given: LongTextParams, draw: random.Random) -> Iterator[Item]:
    """A statement of another kind at each depth."""
    for depth, lead in zip(given.depths, draw.sample(sorted(KINDS[language]), len(given.depths))):
        known = KINDS[language][lead].split()
        absent = [value for value in known if not any(value in one for one in pool)]
        values = draw.sample(known, len(known)) if len(absent) < FEWEST else draw.sample(absent, len(absent))
        yield stated(language, lead, values, draw.randrange(len(values)), depth, depth)


def multi_needle(language: str, pool: Sequence[str], given: LongTextParams, draw: random.Random) -> Iterator[Item]:
    """Statements of one kind, evenly spread."""
    lead, keys, values = KEYED[language]
    chosen = draw.sample(values.split(), given.needles)
    for n, key in enumerate(draw.sample(keys.split(), given.needles)):
        depth = (n + 0.5) / given.needles
        yield stated(language, lead.format(key), chosen, n, depth, round(depth, 3))


def tracing(language: str, pool: Sequence[str], given: LongTextParams, draw: random.Random) -> Iterator[Item]:
    """Chains of assignments, one assignment of each after the other; numbers differ from their first digit on where
    there are digits enough."""
    count = given.chains * (given.hops + 1)
    pairs = [a + b for a in string.ascii_uppercase for b in string.ascii_uppercase if a != b]
    names = draw.sample(pairs, count)
    numbers = [f"{first}{draw.randrange(10000):04d}" for first in draw.sample(range(1, 10), given.chains)]
    for n in range(count):
        hops, chain = divmod(n, given.chains)
        lead = f"VAR {names[n]} ="
        item = stated("en", lead, numbers, chain, (n + 0.5) / count, hops)
        yield item | ({"statement": f"{lead} VAR {names[n - given.chains]}."} if hops else {})


def stated(language: str, lead: str, values: Sequence[str], gold: int, depth: float, place: float) -> Item:
    """A statement, the choices of its question, where it is hidden and under what it is counted."""
    gap = LANGUAGES[language]
    return {"statement": f"{lead}{gap}{values[gold]}{STOP[language]}", "lead": lead, "depth": depth, "place": place,
            "choices": [gap + value for value in values], "gold": gold}


def hide(asked: Sequence[Item], pool: Sequence[str], gap: str, encode: Encode, length: int) -> str | None:
    """Sentences of `pool`, from its beginning again where it ends, with every statement at its depth, so that with the
    longest question and choice the text has `length` tokens at most; None where the statements alone have more."""
    ends = [f"\n{one['lead']}{max(one['choices'], key=lambda text: len(encode(text)))}" for one in asked]
    end = max(ends, key=lambda text: len(encode(text)))
    room = length - len(encode(gap.join(one["statement"] for one in asked) + end))
    sizes: list[int] = []
    while room >= 0:
        sizes.append(len(encode(gap + pool[len(sizes) % len(pool)])))
        room -= sizes[-1]
    count = len(sizes)
    while count >= 0:
        reached = [0, *accumulate(sizes[:count])]
        parts = [pool[at % len(pool)] for at in range(count)]
        for one in sorted(asked, key=lambda one: -one["depth"]):
            parts.insert(next(at for at, tokens in enumerate(reached) if tokens >= one["depth"] * reached[-1]),
                         one["statement"])
        text = gap.join(parts)
        if len(encode(text + end)) <= length:
            return text
        count -= 1
    return None


def grid(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells of a task's heat map: pass rate, interval and chance of each (length, place); place is the depth, in
    tracing the hops. samples: lm-eval's."""
    from tasks.evaluate import statistics

    cells: dict[tuple[int, float], list[dict[str, Any]]] = {}
    for sample in samples:
        cells.setdefault((sample["doc"]["length"], sample["doc"]["place"]), []).append(sample)
    return [{"length": length, "place": place} | statistics.proportion([int(one["acc"]) for one in found]).as_dict()
            | {"chance": round(sum(1 / len(one["doc"]["choices"]) for one in found) / len(found), 6)}
            for (length, place), found in sorted(cells.items())]
