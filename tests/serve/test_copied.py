"""Under the grammar of copied arguments even uniform random tokens say what the question says, and nothing twice."""

import json

import jsonschema
import numpy as np
import pytest

from tasks import chat
from tasks.serve.copied import Copied
from tasks.serve.engine.grammar import Grammars
from tasks.serve.engine.text import Vocabulary

ROUTE = {"type": "object", "required": ["start", "end", "first", "last"], "properties": {
    "first": {"type": "integer"}, "last": {"type": "integer"}, "start": {"type": "string"}, "end": {"type": "string"},
    "speed": {"type": "number"}, "by_night": {"type": "boolean"}}}
QUESTION = "How many trains go from Lima to Quito between 1990 and 2004?"


@pytest.fixture(scope="module")
def grammars(tiny):
    words = Vocabulary(tiny / "onnx")
    return Grammars(words, words.size, frozenset({2}))


def babble(grammars, source, seed, limit=900):
    """(text, parsed calls) of uniformly random allowed tokens until the grammar ends."""
    chance, matcher, out = np.random.default_rng(seed), grammars.matcher(source), b""
    for _ in range(limit):
        token = int(chance.choice(np.flatnonzero(matcher.allowed())))
        if token == 2:
            break
        out += grammars.vocabulary.piece(token)
        if matcher.accept(token):
            break
    else:
        raise AssertionError(f"no end within {limit} tokens")
    return list(chat.calls(out.decode()))


@pytest.mark.parametrize("seed", range(8))
def test_arguments_are_of_the_question_and_numbers_taken_once(grammars, seed):
    [(name, given)] = babble(grammars, Copied({"route": ROUTE}, QUESTION, required=True, several=False), seed)
    jsonschema.validate(given, ROUTE)
    assert name == "route" and list(given)[:4] == ["first", "last", "start", "end"]
    assert "speed" not in given                 # there is no third number
    assert sorted((given["first"], given["last"])) == [1990, 2004]
    assert given["start"] in QUESTION and given["end"] in QUESTION
    words = [set(given[key].split()) for key in ("start", "end")]
    assert not words[0] & words[1]


def test_every_call_of_several_takes_from_the_whole_question(grammars):
    source = Copied({"route": ROUTE, "year": {"type": "object", "properties": {"n": {"type": "integer"}},
                                              "required": ["n"]}}, QUESTION, required=True, several=True)
    for seed in range(12):
        calls = babble(grammars, source, seed)
        if len(calls) > 1:
            break
    assert len(calls) > 1
    for name, given in calls:
        numbers = [given["n"]] if name == "year" else [given["first"], given["last"]]
        assert set(numbers) <= {1990, 2004} and len(set(numbers)) == len(numbers), json.dumps(calls)


def test_text_stays_free_before_a_call(grammars):
    matcher = grammars.matcher(Copied({"route": ROUTE}, QUESTION, required=False, several=False))
    for token in grammars.vocabulary.encode("Nothing fits", special=False):
        assert matcher.allowed()[token]
        assert not matcher.accept(token)
    assert matcher.allowed()[2]
