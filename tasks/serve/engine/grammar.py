"""Constrained decoding: which tokens a JSON schema or a choice of tools leaves open (llguidance).

Tool calls have exactly the form of tasks/chat.py, separators included, so that the model decodes what it was trained
on. Strings, numbers and arrays without bounds get wide ones: a small model would run to the token limit in them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer, grammar_from

from tasks.chat import CALL_END, CALL_START
from tasks.serve import heap
from tasks.serve.engine.text import Vocabulary

SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
LONGEST, MOST, LARGEST, FINEST = 256, 32, 10 ** 12, 1e-6
KEPT = 64
FIXED = ("enum", "const", "$ref", "pattern", "format")


class GrammarError(ValueError):
    """A schema that cannot be decoded under; the message is one line."""


def bounded(schema: Any) -> Any:
    """`schema` with an upper bound on every string, number and array that has none."""
    if isinstance(schema, list):
        return [bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: ({name: bounded(part) for name, part in value.items()}
                 if key in ("properties", "$defs", "definitions") and isinstance(value, dict)
                 else value if key in ("enum", "const", "default", "examples", "required") else bounded(value))
           for key, value in schema.items()}
    kinds = out.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
    if any(key in out for key in FIXED):
        return out
    if "string" in kinds:
        out.setdefault("maxLength", LONGEST)
    if "array" in kinds:
        out.setdefault("maxItems", max(MOST, out.get("minItems", 0)))
    if kinds & {"integer", "number"}:
        if not {"minimum", "exclusiveMinimum"} & out.keys():
            out["minimum"] = -LARGEST
        if not {"maximum", "exclusiveMaximum"} & out.keys():
            out["maximum"] = LARGEST
        if "number" in kinds:
            out.setdefault("multipleOf", FINEST)
    if "object" in kinds and "properties" in out:
        out.setdefault("additionalProperties", False)
    return out


def schema_grammar(schema: dict[str, Any]) -> str:
    """The grammar of one JSON document that obeys `schema`."""
    return LLMatcher.grammar_from_lark(f"start: %json {spaced(schema)}")


def spaced(schema: dict[str, Any]) -> str:
    """The bounded schema as text, with the separators of tasks/chat.py asked for."""
    return json.dumps(bounded(schema) | {"x-guidance": SEPARATORS})


def form_grammar(kind: str, value: Any) -> str:
    """The grammar of a whole answer. kind: `json` (a schema, or one as text), `regex` (of the Rust crate, anchored),
    `choice` (strings), `grammar` (Lark, or GBNF where `::=` stands in it). Raises ValueError where it cannot be read.
    """
    if kind == "regex":
        return LLMatcher.grammar_from_regex(value)
    if kind == "choice":
        return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, value)))
    if kind == "grammar":
        return grammar_from("gbnf" if "::=" in value else "lark", value)
    schema = json.loads(value) if isinstance(value, str) else value
    if not isinstance(schema, dict):
        raise ValueError("a JSON schema must be an object")
    return schema_grammar(schema)


def tool_grammar(tools: dict[str, dict[str, Any]], *, required: bool, several: bool, before: str = "",
                 after: dict[str, dict[str, Any]] | None = None) -> str:
    """The grammar of a turn with `tools` (name -> parameters schema).

    required: the turn is a call (or, `several`, calls). Otherwise it is text that may end in calls: a call's own
    rules hold from the moment CALL_START stands in the text. `before` is a text that a required call stands behind,
    `after` the tools of the calls behind it, where they are not `tools` again.
    """
    def rule(name: str, function: str, parameters: dict[str, Any]) -> str:
        return (f'{name}: {quoted(f", {chr(34)}arguments{chr(34)}: ", function)} %json {spaced(parameters)} '
                f'{json.dumps("}" + CALL_END)}')

    calls = [rule(f"call_{i}", *each) for i, each in enumerate(sorted(tools.items()))]
    choice = "rest: " + " | ".join(f"call_{i}" for i in range(len(calls)))
    following = "rest"
    if after:
        later = [rule(f"later_{i}", *each) for i, each in enumerate(sorted(after.items()))]
        calls += [*later, "later: " + " | ".join(f"later_{i}" for i in range(len(later)))]
        following = "later"
    more = f"({json.dumps(CALL_START)} {following})*" if several else ""
    if required:
        head = f"start: {json.dumps(before + CALL_START, ensure_ascii=False)} rest {more}"
    else:
        head = (f"start: FREE | opening rest {more}\nopening[lazy]: FREE {json.dumps(CALL_START)}\n"
                "FREE: /(.|\\n)*/")
    return LLMatcher.grammar_from_lark("\n".join(["%llguidance {}", head, choice, *calls]))


def quoted(after: str, name: str) -> str:
    """The literal from a call's opening brace to its arguments, as the template renders it."""
    return json.dumps('{"name": ' + json.dumps(name, ensure_ascii=False) + after, ensure_ascii=False)


class Stepwise(Protocol):
    """A grammar that is another one when more of the answer is known."""

    def state(self, text: str) -> Hashable:
        """What the grammar depends on, given the answer so far; None in its beginning."""

    def grammar(self, text: str, state: Any) -> str:
        """The grammar of the whole answer in that state."""


class Grammars:
    """Compiles grammars for one vocabulary; the tokenizer's tables are made at the first use."""

    def __init__(self, vocabulary: Vocabulary, size: int, stop_ids: frozenset[int]) -> None:
        self.vocabulary, self.size, self.stop_ids = vocabulary, size, sorted(stop_ids)
        self.tokenizer: LLTokenizer | None = None
        self.kept: dict[str, LLMatcher] = {}
        self.lock = threading.Lock()

    def matcher(self, grammar: str | Stepwise) -> Matcher:
        """A fresh matcher. Raises GrammarError where the schema is not one that can be decoded."""
        if isinstance(grammar, str):
            return Matcher(self.compiled(grammar).deep_copy(), self.size)
        return StepwiseMatcher(self, grammar)

    def compiled(self, grammar: str) -> LLMatcher:
        """The grammar compiled, from the last KEPT ones if it is among them; safe on any thread.

        llguidance bounds the size of grammars and automata and lets other threads run while it compiles.
        """
        with self.lock:
            if self.tokenizer is None:
                self.tokenizer = LLTokenizer(self.vocabulary.json.decode(), n_vocab=self.size,
                                             eos_token=self.stop_ids)
                heap.give_back()
            matcher = self.kept.pop(grammar, None)
        if matcher is None:
            matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(" ".join(matcher.get_error().split())[:300])
        with self.lock:
            self.kept[grammar] = matcher
            if len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
        return matcher


class Matcher:
    """The state of one sequence in its grammar."""

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self.matcher, self.size = matcher, size

    def allowed(self) -> np.ndarray:
        """bool [vocabulary]: the tokens that may follow (a stop token where the grammar may end).

        Raises GrammarError where the grammar turned out to need more work than llguidance's limits allow.
        """
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        if self.matcher.is_error():
            raise GrammarError(" ".join(self.matcher.get_error().split())[:300])
        return np.unpackbits(bits, bitorder="little")[:self.size].astype(bool)

    def accept(self, token: int) -> bool:
        """Advance by a token; True when nothing more may follow."""
        if not self.matcher.consume_token(token):
            raise GrammarError(" ".join(self.matcher.get_error().split())[:300])
        return self.matcher.is_stopped()


class StepwiseMatcher(Matcher):
    """The state of one sequence in a grammar that changes on the way. One that does not hold for what is written
    already is passed over."""

    def __init__(self, grammars: Grammars, source: Stepwise) -> None:
        super().__init__(grammars.compiled(source.grammar("", None)).deep_copy(), grammars.size)
        self.grammars, self.source, self.known = grammars, source, None
        self.tokens: list[int] = []

    def accept(self, token: int) -> bool:
        """Advance by a token; True when nothing more may follow."""
        ended = super().accept(token)
        self.tokens.append(token)
        text = self.grammars.vocabulary.tokenizer.decode(self.tokens, skip_special_tokens=False)
        state = self.source.state(text)
        if not ended and state is not None and state != self.known:
            self.known = state
            changed = self.grammars.compiled(self.source.grammar(text, state)).deep_copy()
            if changed.try_consume_tokens(self.tokens) == len(self.tokens):
                self.matcher = changed
        return ended
