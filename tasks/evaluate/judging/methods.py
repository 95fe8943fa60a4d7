"""Four ways to have a judge compare two answers; each gives a verdict on a pair and says how it came about.

    pairwise    which is better, A, B or tie? asked in both orders; a verdict that the swap turns round is a tie
                (Zheng et al., Judging LLM-as-a-Judge, 2023)
    logits      the same question, read from the log-probabilities of A and B where the verdict stands, averaged over
                both orders, so that a constant liking for one place cancels
    pointwise   each answer alone, from 1 to 5; the higher one is better
    likelihood  the mean log-probability of the answer's tokens after the question: what the judge itself would
                sooner say. It needs an endpoint that echoes a prompt's log-probabilities
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.evaluate.judging.endpoint import Reply, Request
from tasks.evaluate.judging.questions import Pair

CLOSE = 0.05          # nats: two answers this near are a tie to logits and likelihood
SCALE = range(1, 6)
COMPARE = {
    "en": ("Question: {question}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\nWhich answer is better? "
           'Reply with JSON: '
           '{{"verdict": "A"}}, {{"verdict": "B"}} or {{"verdict": "tie"}}.'),
    "zh": ("问题：{question}\n\n回答 A：{first}\n\n回答 B：{second}\n\n哪个回答更好？用 JSON 回复："
           '{{"verdict": "A"}}、{{"verdict": "B"}} 或 {{"verdict": "tie"}}。'),
}
RATE = {
    "en": ("Question: {question}\n\nAnswer: {answer}\n\nHow good is this answer, from 1 (useless) to 5 (right "
           'and clear)? Reply with JSON: {{"score": 1}} to {{"score": 5}}.'),
    "zh": ("问题：{question}\n\n回答：{answer}\n\n这个回答有多好？1 分没有用，5 分正确而清楚。用 JSON 回复："
           '{{"score": 1}} 到 {{"score": 5}}。'),
}
SAY = {"en": ("Question: {question}\nAnswer:", " {answer}"), "zh": ("问题：{question}\n回答：", "{answer}")}
WORD = re.compile(r"(?<![A-Za-z])(A|B|tie)(?![A-Za-z])")
DIGIT = re.compile(r"(?<![\d.])[1-5](?!\d|\.\d)")


@dataclass(frozen=True)
class Verdict:
    """On a pair: `left`, `right` or `tie`; None where no reply could be read.

    `orders`: what was said in each order asked, `first`, `second`, `tie` or None (unreadable). `lean`: nats by which
    the first place is preferred, where that can be told. `scores`: of the left and right answer, where they have any.
    """

    label: str | None
    orders: tuple[str | None, ...] = ()
    lean: float | None = None
    scores: tuple[float, float] | None = None


class Method(Protocol):
    """A way to compare."""

    name: str

    def requests(self, pair: Pair, repeat: int = 0) -> list[Request]:
        """What is asked about a pair; `repeat` numbers the times that it is asked all over."""

    def verdict(self, pair: Pair, replies: Sequence[Reply]) -> Verdict:
        """What the replies to those requests say."""


def chat(text: str, schema: dict[str, Any], repeat: int, tokens: int) -> Request:
    """A chat request bound to a JSON schema, with the log-probabilities; then without one, without either, bare."""
    bare = {"messages": [{"role": "user", "content": text}]}
    plain = bare | {"temperature": 0, "max_tokens": tokens, "seed": repeat}
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True,
                                                                      "schema": schema}}}
    told = {"logprobs": True, "top_logprobs": 20}
    return Request("chat", (plain | form | told, plain | form, plain | told, plain, bare | {"seed": repeat}))


def closed(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """The schema of an object with one field out of `values`."""
    return {"type": "object", "properties": {name: {"enum": list(values)}}, "required": [name],
            "additionalProperties": False}


def said(text: str, name: str, word: re.Pattern[str]) -> str | None:
    """The value of a reply: its JSON's field, else the only match of `word` in it; None where there is neither."""
    try:
        value = json.loads(text)
        found = str(value[name]) if isinstance(value, dict) and name in value else ""
    except ValueError:
        found = ""
    if word.fullmatch(found):
        return found
    matches = set(word.findall(text))
    return matches.pop() if len(matches) == 1 and not found else None


class Pairwise:
    """The judge's words on both orders."""

    name = "pairwise"

    def requests(self, pair: Pair, repeat: int = 0) -> list[Request]:
        """Left first, then right first."""
        return [chat(COMPARE[pair.language].format(question=pair.question, first=first, second=second),
                     closed("verdict", ["A", "B", "tie"]), repeat, 24)
                for first, second in ((pair.left, pair.right), (pair.right, pair.left))]

    def verdict(self, pair: Pair, replies: Sequence[Reply]) -> Verdict:
        """The side that both orders name; a tie where they differ."""
        names = {"A": "first", "B": "second", "tie": "tie", None: None}
        orders = tuple(names[said(reply.get("text", ""), "verdict", WORD)] for reply in replies)
        sides = [{"first": "left", "second": "right"}.get(orders[0] or "", orders[0]),
                 {"first": "right", "second": "left"}.get(orders[1] or "", orders[1])]
        if None in sides:
            return Verdict(None, orders)
        return Verdict(sides[0] if sides[0] == sides[1] else "tie", orders)


class Logits(Pairwise):
    """The log-probabilities of A and B at the verdict, over both orders. It asks what Pairwise asks."""

    name = "logits"

    def verdict(self, pair: Pair, replies: Sequence[Reply]) -> Verdict:
        """The side with the higher mean; `lean` is what is left for the first place whatever stands there."""
        one, other = (margin(reply) for reply in replies)
        if one is None or other is None:
            return Verdict(None, (None, None))
        return Verdict(side((one - other) / 2), tuple(map(place, (one, other))), lean=(one + other) / 2)


def margin(reply: Reply) -> float | None:
    """Log-odds of A over B in a reply, at the token that gives the verdict; None where they were not told.

    That is the first token with a letter in it behind the field's name, or of all in a reply that is no JSON. Of a
    letter that is not among the likeliest it is only known that it lies below them.
    """
    waits, before = '"verdict"' in reply.get("text", ""), ""
    for token, top in reply.get("tokens", ()):
        if (not waits or '"verdict"' in before) and any(character.isalpha() for character in token):
            letters = {name.strip(' "'): value for name, value in top.items()}   # the likeliest stand last, and win
            if not {"A", "B"} & letters.keys():
                return None
            least = min(top.values())
            return letters.get("A", least) - letters.get("B", least)
        before += token
    return None


def side(value: float) -> str:
    """`left` or `right` by the sign of a margin, `tie` where it is close to none."""
    return "tie" if abs(value) < CLOSE else "left" if value > 0 else "right"


def place(value: float) -> str:
    """`first` or `second` by the sign of a margin, `tie` where it is close to none."""
    return {"left": "first", "right": "second"}.get(side(value), "tie")


class Pointwise:
    """A score from 1 to 5 of each answer alone."""

    name = "pointwise"

    def requests(self, pair: Pair, repeat: int = 0) -> list[Request]:
        """The left answer, then the right one."""
        return [chat(RATE[pair.language].format(question=pair.question, answer=answer), closed("score", SCALE), repeat,
                     24) for answer in (pair.left, pair.right)]

    def verdict(self, pair: Pair, replies: Sequence[Reply]) -> Verdict:
        """The side with the higher score."""
        found = [said(reply.get("text", ""), "score", DIGIT) for reply in replies]
        if None in found:
            return Verdict(None, tuple(None if one is None else "tie" for one in found))
        left, right = map(float, found)
        return Verdict("tie" if left == right else "left" if left > right else "right", scores=(left, right))


class Likelihood:
    """The mean log-probability of an answer's tokens."""

    name = "likelihood"

    def requests(self, pair: Pair, repeat: int = 0) -> list[Request]:
        """The left answer, then the right one."""
        found = []
        for answer in (pair.left, pair.right):
            before, after = SAY[pair.language]
            body = {"prompt": before.format(question=pair.question) + after.format(answer=answer), "max_tokens": 1,
                    "echo": True, "logprobs": 1, "temperature": 0, "seed": repeat}
            found.append(Request("completions", (body,)))
        return found

    def verdict(self, pair: Pair, replies: Sequence[Reply]) -> Verdict:
        """The side with the higher mean, in nats a token."""
        begin = len(SAY[pair.language][0].format(question=pair.question))
        means = []
        for reply in replies:
            values = [value for at, value in reply.get("prompt", ()) if at >= begin and value is not None]
            if not values:
                return Verdict(None, (None, None))
            means.append(math.fsum(values) / len(values))
        return Verdict(side(means[0] - means[1]), scores=(means[0], means[1]))


METHODS: tuple[Method, ...] = (Pairwise(), Logits(), Pointwise(), Likelihood())
