"""The held-out split: by the text's hash alone, stable as the corpus grows, within its limits."""

import hashlib

import pytest
from datatrove.data import Document

from tasks.data.split import SplitParams, held_out, position


def some(n, start=0):
    return [Document(text=f"document {i} " * 50, id=f"d{i:05d}", metadata={}) for i in range(start, start + n)]


def params(**given):
    return SplitParams(**{"fraction": 0.05, "max_documents": 10_000, "max_characters": 10_000_000,
                          "max_document_characters": 10_000} | given)


def test_a_document_is_held_out_by_its_sha256():
    chosen = {d.id for d in held_out(some(2000), params())}
    expected = {d.id for d in some(2000) if int(hashlib.sha256(d.text.encode()).hexdigest()[:16], 16) / 2**64 < 0.05}
    assert chosen == expected and 60 < len(chosen) < 140


def test_a_growing_corpus_moves_none():
    before = {d.id for d in held_out(some(500), params())}
    after = {d.id for d in held_out(some(1500), params())}
    assert before == {i for i in after if i < "d00500"}


def test_order_and_id_of_the_documents_do_not_matter():
    documents = some(300)
    renamed = [Document(text=d.text, id=f"x{d.id}", metadata={}) for d in reversed(documents)]
    assert [f"x{d.id}" for d in held_out(documents, params())] == [d.id for d in held_out(renamed, params())]


@pytest.mark.parametrize("limit", [{"max_documents": 3}, {"max_characters": 2000}])
def test_limits_keep_the_lowest_hashes(limit):
    chosen = held_out(some(400), params(**limit))
    size = len(chosen[0].text)
    assert len(chosen) == limit.get("max_documents", 2000 // size)
    lowest = sorted(position(d.text) for d in some(400))[:len(chosen)]
    assert sorted(position(d.text) for d in chosen) == pytest.approx(lowest, abs=0.02)


def test_long_documents_and_an_empty_corpus():
    assert held_out(some(100), params(max_document_characters=1000, fraction=0.49)) != []
    assert held_out([Document(text="x" * 1001, id="a", metadata={})], params(max_document_characters=1000)) == []
    assert held_out([], params()) == []
    assert 0 <= position("\ud800 broken") < 1
