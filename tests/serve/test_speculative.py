"""Guesses: where they come from, how many, and what becomes of them. That no output changes: test_properties.py."""

import pytest

from tasks.serve.engine import backend as backends
from tasks.serve.engine.directory import ModelError
from tasks.serve.engine.engine import Engine
from tasks.serve.engine.request import Request, Sequence
from tasks.serve.engine.sampler import Sampling
from tasks.serve.engine.speculative import MOST, ROWS, DraftModel, PromptLookup, allowance
from tasks.serve.engine.text import Vocabulary
from tasks.serve.metrics import Metrics
from tests.serve import tiny as making
from tests.serve.driven import Driven

GREEDY = Sampling(temperature=0)


def sequence(tokens, limit=100):
    return Sequence(Request(tuple(tokens), limit), lambda delta: None)


def proposed(tokens):
    made = sequence(tokens)
    PromptLookup(1000).propose([made])
    return made.draft


def test_lookup_continues_the_last_place_of_the_longest_gram():
    assert proposed([1, 2, 3, 4, 5, 9, 2, 3, 7, 8, 1, 2, 3]) == [4, 5, 9, 2, 3, 7, 8, 1]   # not what followed 2 3
    assert proposed([5, 2, 3, 4, 6, 2, 3, 7, 8, 2, 3]) == [7, 8, 2, 3]                      # the later of two
    assert proposed([1, 2, 3, 4]) == [] and proposed([1]) == []
    assert proposed([4, 4, 4, 4]) == [4]                                                  # never beyond the end


def test_lookup_indexes_as_tokens_come():
    lookup, made = PromptLookup(1000), sequence([1, 2, 3])
    drafts = []
    for token in (4, 5, 1, 2, 3, 0):
        made.draft = []
        lookup.propose([made])
        drafts.append(made.draft)
        made.tokens.append(token)
    assert drafts == [[], [], [], [], [3, 4, 5, 1, 2], [4, 5, 1, 2, 3]]
    lookup.forget(made)
    assert lookup.indices == {}


def test_guesses_stay_within_limit_context_and_a_steps_rows():
    assert allowance(sequence([1] * 10), 0, 1000) == MOST
    assert allowance(sequence([1] * 10, limit=4), 0, 1000) == 3
    assert allowance(sequence([1] * 10), 0, 13) == 2 and allowance(sequence([1] * 10), 0, 10) == 0
    for others in range(40):
        assert (others + 1) * (1 + allowance(sequence([1] * 10), others, 1000)) <= max(ROWS, others + 1)


@pytest.fixture(scope="module")
def backend(tiny):
    return backends.load(backends.read_files(tiny / "int4"), threads=1, slots=4, backend="torch")


def counters(engine):
    return [counter._value.get() for counter in (engine.metrics.drafts, engine.metrics.draft_tokens,
                                                 engine.metrics.accepted_tokens)]


def test_a_draft_that_is_the_model_is_always_right(tiny, backend):
    same = backends.load(backends.read_files(tiny / "int4"), threads=1, slots=4, backend="torch")
    steps = []
    whole = backend.step
    engine = Driven(backend, Vocabulary(tiny / "int4"), speculator=DraftModel(same, backend))
    engine.backend.step = lambda *given: steps.append(1) or whole(*given)
    try:
        engine.tokens([Request((5, 6, 7, 8), 41, GREEDY, ignore_eos=True)])
    finally:
        del backend.step
    drafts, guessed, accepted = counters(engine)
    assert accepted == guessed > 0 and len(steps) == 1 + drafts == 9   # 1 token, then 5 a step
    assert engine.speculator.memory.usage == 0


def test_text_that_repeats_takes_fewer_steps(tiny, backend):
    """A bias that makes the model say one token for ever: every guess after the first few is right."""
    biased = Sampling(temperature=0, logit_bias={9: 1000.0})
    engine = Driven(backend, Vocabulary(tiny / "int4"), speculator=PromptLookup(backend.context))
    found = engine.tokens([Request((5, 6, 7), 60, biased, ignore_eos=True)])
    assert found == [[9] * 60] and counters(engine)[2] > 20


def test_a_stop_inside_a_draft_ends_there(tiny, backend):
    words = Vocabulary(tiny / "int4")
    plain = Driven(backend, words).tokens([Request((5, 6, 7, 8), 30, GREEDY, ignore_eos=True)])[0]
    same = backends.load(backends.read_files(tiny / "int4"), threads=1, slots=4, backend="torch")
    engine = Driven(backend, words, speculator=DraftModel(same, backend), stop_ids=frozenset({plain[7]}))
    (last, tokens), = engine.run([Request((5, 6, 7, 8), 30, GREEDY)])
    assert tokens == plain[:plain.index(plain[7]) + 1] and last.finish == "stop"
    engine.check_empty()


def test_a_speculator_that_fails_is_dropped_and_nothing_is_lost(tiny, backend, capsys):
    class Broken:
        def propose(self, sequences):
            sequences[0].draft = [1, 2]
            raise RuntimeError("no more guesses")

        def forget(self, sequence):
            pass

    words = Vocabulary(tiny / "int4")
    request = Request((5, 6, 7, 8), 10, GREEDY, ignore_eos=True)
    engine = Driven(backend, words, speculator=Broken())
    assert engine.tokens([request]) == Driven(backend, words).tokens([request])
    assert engine.speculator is None and "no more guesses" in capsys.readouterr().err


def test_what_cannot_work_is_refused(tiny, backend, tmp_path):
    ort = backends.load(backends.read_files(tiny / "onnx"), threads=1, slots=2)
    words = Vocabulary(tiny / "onnx")
    with pytest.raises(ModelError, match="paged"):
        Engine(ort, words, frozenset(), slots=2, queue=1, metrics=Metrics(), speculator=PromptLookup(512))
    with pytest.raises(ModelError, match="whole slots"):
        DraftModel(ort, backend)
    making.llama(300).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    other = backends.load(backends.read_files(tmp_path), threads=1, slots=1, backend="torch")
    with pytest.raises(ModelError, match="300 tokens"):
        DraftModel(other, backend)
