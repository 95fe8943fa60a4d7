"""Search finds the paragraph that holds a fact, in both languages, and says what is wrong with a corpus."""

from __future__ import annotations

import json
import math
import re

import pytest

from tasks import exercises
from tasks.agents.actions.search import Index, paragraphs, snippet, words
from tasks.agents.tools import RESULT, Action, ActionError

FACTS = {
    "a": "# Sessions\n\nSession.close() releases the connection resources held by a Session object.",
    "b": "Engines\n\nEngine.dispose() closes every pooled connection that is currently checked in to the pool.",
    "c": "刘备，字玄德，涿郡人也。素有大志，专好结交天下豪杰。\n\n"
         "关羽，字云长，河东解良人也。因本处势豪倚势凌人，杀之，逃难江湖。",
    "d": "The coast is mild. " * 50 + "Herons nest in the reeds of the delta. " + "Rain falls often. " * 30,
}


@pytest.fixture
def corpus(tmp_path):
    lines = [json.dumps({"id": key, "text": text, "metadata": {}}, ensure_ascii=False) for key, text in FACTS.items()]
    (tmp_path / "00000.jsonl").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    (tmp_path / "00001.jsonl").write_text("\n".join(lines[2:]) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("query, identity, part", [
    ("What does Session.close() do?", "a", "releases the connection"),
    ("dispose pooled connection", "b", "Engine.dispose()"),
    ("关羽的字是什么？", "c", "云长"),
    ("刘备的字", "c", "玄德"),
    ("where do herons nest", "d", "reeds of the delta"),
])
def test_finds_the_fact(corpus, query, identity, part):
    found = Index(corpus).search(query)
    assert found.endswith(f" (from {identity})") and part in found and len(found) < 400


def test_scores_are_bm25_by_hand(corpus):
    index = Index(corpus)
    k1, b, terms = 1.5, 0.75, [words(text) for text in index.texts]
    mean = sum(map(len, terms)) / len(terms)
    for word in ("connection", "the", "session"):
        df = sum(word in bag for bag in terms)
        idf = math.log(1 + (len(terms) - df + 0.5) / (df + 0.5))
        expected = [idf * bag.count(word) / (bag.count(word) + k1 * (1 - b + b * len(bag) / mean)) for bag in terms]
        assert index.bm25.get_scores([word]).tolist() == pytest.approx(expected, rel=1e-4)


def test_nothing_and_bounds(corpus):
    index = Index(corpus)
    assert index.search("zzzz qqqq") == "nothing found"
    action = Action.of(index.action())
    assert action.schema == exercises.TOOLS["search"]
    assert len(action.call('{"query": "rain"}')) <= RESULT
    for bad in ('{"query": ""}', json.dumps({"query": "x" * 61}), "{}"):
        with pytest.raises(ActionError, match="query"):
            action.call(bad)


def test_paragraphs_lose_nothing():
    for text in FACTS.values():
        kept = re.sub(r"\s", "", "".join(paragraphs(text)))
        assert kept == re.sub(r"\s", "", text)


def test_snippet_is_bounded():
    assert len(snippet("word " * 400, {"word"})) <= 330


def test_bad_corpora(tmp_path):
    with pytest.raises(ActionError, match="no text"):
        Index(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"id": "1", "text": "fine"}\n{"id": \n')
    with pytest.raises(ActionError, match="x.jsonl:2 is no document"):
        Index(tmp_path)
