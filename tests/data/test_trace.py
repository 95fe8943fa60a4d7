"""Tracing: spans against a search by brute force, planted sentences their URL, the index's bytes, bad input."""

from __future__ import annotations

import json
import shutil
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import trace_index, trace_text
from tasks.data.trace import Index, TraceError
from tasks.data.trace_text import Query
from tasks.stage import StageError

PLANTED = "Seventeen violet walruses negotiated a modest treaty with the harbour's reluctant cartographer."
CHINESE = "十七头紫色的海象与港口里那位不情愿的制图师缔结了一份朴素的条约。"
PIECES = st.sampled_from(["a", "ab", "b", "c1", "_", "你", "好", "か", "，", ".", "-", "😀", "é", "e\u0301", " ", "  ", "\n",
                          "\t", "\0", "\x01", "\x85", "\u3000", "क"])
TEXT = st.lists(PIECES, max_size=24).map("".join)


def build(data, folder: Path, made, megabytes=64, shards=2):
    """The index of documents, by the stage."""
    source = data.write_shards(folder / "corpus", made, shards)
    trace_index.index(source, folder / "index", folder / "index.metrics.json",
                      index=trace_index.IndexParams(part_megabytes=megabytes))
    return Index(folder / "index")


def parts(data, folder: Path, texts: list[list[str]]) -> Index:
    """An index whose parts hold these texts."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows = [trace_index.write(folder, number, [
        (data.document(f"d{number}:{at}", text), trace_text.marked(text)) for at, text in enumerate(part)])
        for number, part in enumerate(texts)]
    (folder / "index.json").write_text(json.dumps({"format": 1, "documents": sum(map(len, texts)), "parts": rows}))
    return Index(folder)


def cut(text: str) -> list[tuple[str, int, int]]:
    """(piece, start, end) of a text: words, single ideographs and signs, runs of white space as one blank."""
    def kind(char: str) -> object:
        if char.isspace() or char in "\0\x01\x85":
            return "blank"
        if char in "你好か":
            return object()
        return "word" if char == "_" or char.isalnum() else object()

    pieces, at = [], 0
    for name, run in groupby(text, kind):
        length = len(list(run))
        pieces.append((" " if name == "blank" else text[at:at + length], at, at + length))
        at += length
    return pieces


def is_word(piece: str) -> bool:
    return piece[0] == "_" or piece[0].isalnum()


def brute(texts: list[str], query: str) -> set[tuple[int, int]]:
    """Characters of every span from a word's start to a piece's end that a text holds, and that is in no other."""
    held = [[piece for piece, *_ in cut(text)] for text in texts]
    pieces = cut(query)
    found = []
    for i, (first, start, _) in enumerate(pieces):
        for j in range(i, len(pieces)):
            run = [piece for piece, *_ in pieces[i:j + 1]]
            if is_word(first) and run[-1] != " " and any(
                    text[at:at + len(run)] == run for text in held for at in range(len(text) - len(run) + 1)):
                found.append((start, pieces[j][2]))
    return {one for one in found if not any(other != one and other[0] <= one[0] and one[1] <= other[1]
                                            for other in found)}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(TEXT, min_size=1, max_size=3), min_size=1, max_size=2), TEXT, st.data())
def test_spans_are_those_of_a_search_by_brute_force(data, tmp_path_factory, texts, query, draw):
    every = [text for part in texts for text in part]
    if draw.draw(st.booleans()):    # mostly of the texts' own passages
        query = "".join(draw.draw(st.lists(st.sampled_from(every).flatmap(
            lambda text: st.tuples(st.just(text), st.integers(0, 9), st.integers(0, 24))), max_size=4).map(
                lambda rows: [text[a:b] for text, a, b in rows])))
    index = parts(data, tmp_path_factory.getbasetemp() / "brute", texts)
    asked = Query.of(query)
    spans = [(asked.starts[first][1], asked.ends[last][1]) for first, last in index.maximal(asked)]
    assert len(spans) == len(set(spans)) and set(spans) == brute(every, query)


@settings(max_examples=60, deadline=None)
@given(st.one_of(TEXT, st.text(alphabet="ab1_'’ 你\ud800\U0001f600\u2028")))
def test_a_query_and_a_document_have_one_form(text):
    assert Query.of(text).form == trace_text.normal(text)


def test_a_planted_sentence_is_found_with_its_url_and_what_stands_around(data, workspace):
    pages = data.pages()
    there = [data.document("plant:1", f"One\n two {PLANTED} And after.", url="https://zoo.example/a?b=1",
                           licence="CC-BY-4.0", source="zoo"),
             data.document("plant:2", f"{PLANTED}\n{PLANTED}", url="https://zoo.example/twice", licence="MIT"),
             data.document("plant:3", f"前文。{CHINESE}后文😀。", "zh", url="https://动物园.example/", licence="MIT")]
    index = build(data, workspace, pages + there)
    answer = f"😀 They said: {PLANTED.replace(' ', chr(10))} Indeed, quoth the bot: {CHINESE}"
    one, other = index.trace(answer).spans
    assert answer[one.start:one.end] == PLANTED.replace(" ", "\n") and answer[other.start:other.end] == CHINESE
    assert (one.words, one.times, one.holders) == (12, 3, 2) and other.words == len(CHINESE) - 1
    assert [(d.url, d.licence, d.times) for d in one.documents] == [
        ("https://zoo.example/twice", "MIT", 2), ("https://zoo.example/a?b=1", "CC-BY-4.0", 1)]
    second = one.documents[1]
    assert (second.before, second.match, second.after) == ("One two ", PLANTED, " And after.")
    assert other.documents[0].url == "https://动物园.example/" and other.documents[0].after == "后文😀。"
    for page in pages[:3] + pages[-3:]:     # a page finds itself, whole
        whole = max(index.trace(page.text).spans, key=lambda span: span.words)
        assert page.metadata.get("url") in [document.url for document in whole.documents]
        assert whole.words > 0.99 * len(Query.of(page.text).starts)


def test_words_are_whole_and_commonplaces_are_not_told(data, workspace):
    index = build(data, workspace, [*data.pages(), data.document("x", f"Of {PLANTED[:-1]}s and others.")])
    (span,) = index.trace(PLANTED).spans
    assert PLANTED[span.start:span.end].endswith("reluctant"), "cartographer is not held by cartographers"
    words = [first + " " + second for first, second in zip(PLANTED.split()[::2], PLANTED.split()[1::2])]
    assert index.trace(" / ".join(words)).spans == (), "no run of six words"
    common = index.trace("It is one of the same as")
    assert common.spans == () and common.longest is not None


def test_overlapping_spans_are_both_told(data, workspace):
    words = PLANTED.split()
    made = [*data.pages(), data.document("head", " ".join(words[:9]), url="u:head"),
            data.document("tail", " ".join(words[3:]), url="u:tail")]
    found = build(data, workspace, made).trace(PLANTED).spans
    assert [span.documents[0].url for span in found] == ["u:head", "u:tail"]
    assert found[0].end > found[1].start > found[0].start


def test_the_index_is_the_same_bytes_and_its_parts_change_no_answer(data, workspace):
    pages = [*data.pages(), data.document("plant", f"So {PLANTED}", url="u"), *data.pages()]
    answer = f"{pages[0].text[100:3000]} {PLANTED} {pages[-2].text[:200]}"
    found, trees = [], []
    for name, megabytes in (("one", 64), ("again", 64), ("cut", 1)):
        index = build(data, workspace / name, pages, megabytes)
        found.append(index.trace(answer))
        trees.append(data.tree(workspace / name / "index"))
    assert trees[0] == trees[1] and found[0] == found[2] and len(Index(workspace / "cut/index").parts) > 1
    table = json.loads((workspace / "one/index.metrics.json").read_text())
    assert table["documents"] == len(pages) and table["parts"] == 1 and table["bytes_a_byte"] < 2.5
    assert table["text_bytes"] == sum(len(page.text.encode()) for page in pages)
    assert table["index_bytes"] == sum(map(len, trees[0].values()))


def test_documents_that_are_never_trained_on_are_left_out(data, workspace):
    made = [data.document("a", "kept words stand here", epochs=1.0), data.document("b", PLANTED, epochs=0.0)]
    index = build(data, workspace, made)
    assert index.documents == 1 and index.trace(PLANTED).longest is None
    with pytest.raises(StageError, match="no document that is trained on"):
        build(data, workspace / "none", made[1:], shards=1)


@pytest.mark.parametrize("text", ["", " \n", "\0\0", "😀", "\ud800", "。"])
def test_a_text_without_words_has_no_span(data, workspace, text):
    found = build(data, workspace, data.pages()[-3:]).trace(text)
    assert found.spans == () and found.longest is None


def test_a_text_of_a_megabyte(data, workspace):
    pages = data.pages()
    index = build(data, workspace, pages)
    text = "\0 zz ".join(page.text for page in pages + pages)[:10**6]
    assert len(text) == 10**6
    found = index.trace(text)
    assert max(span.words for span in found.spans) > 3000 and all(span.end <= len(text) for span in found.spans)


@pytest.mark.parametrize("harm, told", [
    (lambda folder: shutil.rmtree(folder), "./run makes it"),
    (lambda folder: (folder / "00000.suffixes").unlink(), "00000.suffixes"),
    (lambda folder: (folder / "00000.text").write_bytes(b"short"), "another size"),
    (lambda folder: (folder / "index.json").write_text("{"), "no whole index"),
    (lambda folder: (folder / "index.json").write_text('{"format": 9}'), "format 9"),
    (lambda folder: (folder / "index.json").write_text("[]"), "no whole index"),
])
def test_a_harmed_index_is_one_line(data, workspace, harm, told):
    build(data, workspace, data.pages()[-2:])
    harm(workspace / "index")
    with pytest.raises(TraceError) as error:
        Index(workspace / "index")
    assert told in str(error.value) and "\n" not in str(error.value)
