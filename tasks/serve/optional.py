"""Which of its optional arguments a call keeps: those with which it is likelier than without.

Greedy decoding names an argument before it looks for a value. Where values are copied from the question (narrow.py), a
small model thus begins one that the question says nothing of and is left with words that it would never have written:
each token was the likeliest that was allowed, the call is not. So the whole call is compared, by its log-probability
under the model alone, with the same call without the argument: the look ahead of a beam search (Sutskever et al. 2014,
arXiv:1409.3215, section 3.2), spent on the one choice that needs it. What the grammar demands, a flag or an option that
the question names, stays, and so does a number, a date or an enumeration that the question states: copying these is no
slip, though each of their tokens costs more than none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tasks import chat
from tasks.serve.engine.grammar import GrammarError, Matcher
from tasks.serve.narrow import narrowed, stated

MOST = 7    # forms that a call is compared with


def forms(text: str, tools: dict[str, dict[str, Any]], question: str, matcher: Callable[[], Matcher],
          encode: Callable[[str], list[int]]) -> list[str]:
    """A turn, and its forms without some of the optional arguments that `question` does not state and `matcher` (fresh,
    each time) admits, at most MOST. None has an argument that is not founded().

    The turn alone where it is not one whole call of `tools` (name -> parameters schema).
    """
    called = list(chat.calls(text))
    if len(called) != 1 or called[0] is None or called[0][0] not in tools:
        return [text]
    [(name, arguments)] = called
    if text.strip() != chat.call_text(name, arguments):
        return [text]
    kept = founded(arguments, tools[name], question, name)
    if kept != arguments:
        text, arguments = chat.call_text(name, kept), kept
    free = [each for each, value in arguments.items()
            if each not in (tools[name].get("required") or ()) and not stated(question, value)]
    left_out = (set(some) for count in range(1, len(free) + 1) for some in itertools.combinations(free, count))
    shorter = (chat.call_text(name, {key: value for key, value in arguments.items() if key not in some})
               for some in itertools.islice(left_out, MOST))
    return [text, *(form for form in shorter if admitted(matcher(), encode(form)))]


def founded(arguments: dict[str, Any], schema: dict[str, Any], question: str, name: str) -> dict[str, Any]:
    """The arguments that may begin once those before them are whole. A token that ends one and begins the next at once
    is past the place where the grammar would have ended the call."""
    kept: dict[str, Any] = {}
    for each, value in arguments.items():
        if each in narrowed(schema, question, name, kept)["properties"]:
            kept[each] = value
    return kept


def admitted(matcher: Matcher, tokens: Sequence[int]) -> bool:
    """Whether a grammar admits these tokens."""
    try:
        for token in tokens:
            matcher.accept(token)
    except GrammarError:
        return False
    return True


def likeliest(logprobs: Sequence[Sequence[float]]) -> int:
    """The place of the form with the largest sum of log-probabilities, the first where two are equal."""
    sums = [sum(each) for each in logprobs]
    return sums.index(max(sums))
