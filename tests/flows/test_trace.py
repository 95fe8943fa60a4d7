"""`./run trace`: a planted sentence told with its documents, from an argument or stdin; nothing found; wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from flows import trace
from tasks.data import documents, trace_index
from tests.flows.conftest import ROOT

PLANTED = "Seventeen violet walruses negotiated a modest [bold]treaty with the harbour's reluctant cartographer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with data/index over a few documents."""
    root = tmp_path_factory.mktemp("trace")
    filler = " ".join(f"w{n}" for n in range(3000))
    documents.write(root / "corpus/00000.jsonl", [
        documents.Document(text=text, id=f"d{at}", metadata={"url": f"https://zoo.example/{at}", "licence": "MIT",
                                                             "source": "zoo", "language": "en"})
        for at, text in enumerate([filler, *[f"Once. {PLANTED}\nand so on"] * 7])])
    (root / "data").mkdir()
    trace_index.index(root / "corpus", root / "data/index", root / "index.json",
                      index=trace_index.IndexParams(part_megabytes=1))
    return root


def ask(capsys, monkeypatch, folder, *words, code=0):
    """What the command prints to stdout and stderr, run in `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["trace", *words])
    assert trace.main() == code
    return capsys.readouterr()


def test_a_planted_sentence_is_told_with_its_documents(capsys, monkeypatch, folder):
    told = ask(capsys, monkeypatch, folder, f"It says: {PLANTED}!").out
    assert f"It says: {PLANTED}!" in told, "the text's own brackets are no markup"
    assert "1 span stands word for word in the 8 training documents" in told
    assert "[1] 13 words, 7 times in 7 documents" in told and "https://zoo.example/1  MIT, zoo" in told
    assert told.count("https://") == 5 and "and 2 more" in told and "… Once. " in told and " and so on …" in told


def test_json_from_stdin_by_the_command_itself(folder):
    done = subprocess.run([sys.executable, "-m", "flows.trace", "--json", "-"], input=f"😀 {PLANTED}".encode(),
                          cwd=folder, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    found = json.loads(done.stdout)
    (span,) = found["spans"]
    assert (span["start"], span["end"], span["words"]) == (2, 2 + len(PLANTED), 13) and found["documents"] == 8
    assert span["documents"][0]["url"] == "https://zoo.example/1" and span["documents"][0]["match"] == PLANTED


def test_the_less_likely_span_shows_where_two_overlap():
    spans = tuple(trace.Span(start, end, 6, bits, 1, 1, ()) for start, end, bits in ((0, 6, 60.0), (4, 9, 90.0)))
    styles = [(part.start, part.end, part.style) for part in trace.coloured("abcdefghij", spans).spans]
    assert styles == [(0, 6, trace.colour(1)), (4, 9, trace.colour(2))]    # what comes later lies above
    assert [number for number, _ in trace.ranked("abcdefghij", spans)] == [2, 1]


def test_words_said_twice_are_told_once(capsys, monkeypatch, folder):
    told = ask(capsys, monkeypatch, folder, f"{PLANTED}. {PLANTED}").out
    assert "2 spans stand" in told and told.count("[1]") == 1 and "[2]" not in told


@pytest.mark.parametrize("text, said", [
    ("w1 w2 and no more", "the longest that does has 2 words: 'w1 w2'"), ("qqq", "none of its words do"),
])
def test_nothing_found_is_said(capsys, monkeypatch, folder, text, said):
    told = ask(capsys, monkeypatch, folder, text).out
    assert told.startswith("nothing found: no span of 6 words") and said in " ".join(told.split())


@pytest.mark.parametrize("words, said", [((" ",), "no text to trace"), (("x", "--index", "nowhere"), "./run makes it")])
def test_wrong_input_is_one_line(capsys, monkeypatch, folder, words, said):
    told = ask(capsys, monkeypatch, folder, *words, code=1).err
    assert told.startswith("error: ") and said in told and told.count("\n") == 1
