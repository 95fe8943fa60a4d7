"""Sets of examples: each kind against files written here, and files that are not what they should be."""

from __future__ import annotations

import codecs
import json

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.data import documents, labelled
from tasks.stage import StageError

SETS = TypeAdapter(dict[str, labelled.AnySet])
PROSE = "\n".join(f"Paragraph {n} tells at some length of tables, rows and columns, and of how they are kept." * 2
                  for n in range(12))


@pytest.fixture
def sets(tmp_path):
    """Builds Sets over a package `p` of these files, and a corpus of two documents."""
    def build(definitions, files=None, seed=1):
        (tmp_path / "packages/p").mkdir(parents=True, exist_ok=True)
        for name, content in (files or {}).items():
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / "packages/p" / name).write_bytes(data)
        documents.write(tmp_path / "corpus/00000.jsonl", [
            documents.Document(text=PROSE, id="a", metadata={"source": "one", "url": "https://one/tutorial/x"}),
            documents.Document(text="数据库把记录存在表里。", id="b", metadata={"source": "two", "url": "https://two/y"})])
        return labelled.Sets(SETS.validate_python(definitions), tmp_path / "packages", tmp_path / "corpus", seed)
    return build


def texts(made, name, limit=10**6):
    return [example.text for _, example in made.chosen({name: limit})]


def package(form, files, **more):
    return {"kind": "package", "package": "p", "files": files, "form": form} | more


def test_every_form_of_a_file(sets):
    made = sets({
        "lines": package("lines", ["l*.txt"]), "fortunes": package("fortunes", ["f"], rot13=True),
        "spam": package("tsv", ["t.csv"], where="spam"), "all": package("tsv", ["t.csv"]),
        "one": package("jsonl", ["j.jsonl"], where="1"), "pieces": package("pieces", ["p.md"]),
    }, {"l1.txt": "a b\r\n\r\nc 猫\n", "l2.txt": "a b\nd", "f": codecs.encode("first\n%\nsecond\nline\n%%", "rot13"),
        "t.csv": "ham\thello\tyou\nspam\tbuy\n", "j.jsonl": '{"text": "x", "label": 1}\n{"text": "y", "label": 0}\n',
        "p.md": PROSE})
    assert sorted(texts(made, "lines")) == ["a b", "c 猫", "d"]
    assert sorted(texts(made, "fortunes")) == ["first", "second\nline"]
    assert texts(made, "spam") == ["buy"] and sorted(texts(made, "all")) == ["buy", "hello\tyou"]
    assert texts(made, "one") == ["x"]
    cut = labelled.pieces(PROSE)
    assert "\n".join(cut) == PROSE and all(len(piece) >= 400 for piece in cut)
    assert sorted(cut) == sorted(texts(made, "pieces"))


def test_own_file_and_corpus(sets, tmp_path):
    (tmp_path / "own.txt").write_text("mine\n")
    made = sets({"own": {"kind": "file", "path": str(tmp_path / "own.txt"), "form": "lines"},
                 "tutorial": {"kind": "corpus", "urls": ["*tutorial*"]}, "two": {"kind": "corpus", "sources": ["tw?"]}})
    assert texts(made, "own") == ["mine"]
    assert {example.key for _, example in made.chosen({"tutorial": 99})} == {"a"}
    assert [example.language for _, example in made.chosen({"two": 9, "own": 9})] == ["en", "zh"]


def test_listed_masks_half_and_the_rest_hold_no_word(sets):
    lines = [f"line {n} has a grass and an ass in it" for n in range(200)] + [f"pure {n} grass" for n in range(50)]
    listed = {"kind": "listed", "base": {"l": 1000}, "words": ["Ass", "蠢货"]}
    made = sets({"l": package("lines", ["l.txt"]), "in": listed, "out": listed | {"holding": False},
                 "never": listed | {"masked": 0.0}}, {"l.txt": "\n".join([*lines, "他是蠢货吧"])})
    found = texts(made, "in")
    masked = [text for text in found if labelled.MASK in text]
    assert 70 < len(masked) < 130 and all("ass in" not in text and "grass" in text for text in masked if "line" in text)
    assert sorted(texts(made, "never")) == sorted([*lines[:200], "他是蠢货吧"])
    assert sorted(texts(made, "out")) == sorted(lines[200:])


def test_templated_and_garbled_keep_the_key_of_what_they_are_made_from(sets):
    made = sets({"c": {"kind": "corpus", "sources": ["one"]},
                 "t": {"kind": "templated", "base": {"c": 99}, "package": "p", "file": "w.json", "matching": "^b",
                       "templates": ["you {}", "{}！"]},
                 "g": {"kind": "garbled", "base": {"c": 99}, "faults": ["dropped", "shuffled"]}},
                {"w.json": json.dumps(["bad", "bat", "cat"])})
    templated = [example for _, example in made.chosen({"t": 99})]
    assert sorted({example.key for example in templated}) == ["bad", "bat"] and len(templated) == 4
    assert all(f"you {e.key}" in e.text.split("\n") or f"{e.key}！" in e.text.split("\n") for e in templated)
    garbled = [example for _, example in made.chosen({"g": 99})]
    assert {example.key for example in garbled} == {"a"} and not {e.text for e in garbled} & set(texts(made, "c"))


def test_order_is_fixed_and_the_seeds(sets):
    lines = {"l.txt": "\n".join(f"text {n}" for n in range(100))}
    first, again, other = (texts(sets({"l": package("lines", ["l.txt"])}, lines, seed), "l", 10) for seed in (1, 1, 2))
    assert first == again != other and len(first) == 10


@pytest.mark.parametrize(("definition", "files", "says"), [
    (package("lines", ["no*"]), {}, "holds no no"),
    (package("lines", ["a"]), {"a": " \n"}, "holds no text"),
    (package("lines", ["a"]), {"a": "全是中文".encode("gbk") * 50}, "not UTF-8"),
    (package("tsv", ["a"]), {"a": "one\n"}, "a:1 has no tab"),
    (package("jsonl", ["a"]), {"a": '{"text": "x"}\n{"text"'}, "a:2 is no JSON object"),
    (package("jsonl", ["a"]), {"a": '{"text": 3}'}, "text is int"),
    (package("jsonl", ["a"]), {"a": "[" * 100_000}, "a:1 is no JSON object"),
    ({"kind": "file", "path": "/nowhere/x", "form": "lines"}, {}, "cannot be read"),
    ({"kind": "corpus", "sources": ["nobody"]}, {}, "holds no text"),
    ({"kind": "garbled", "base": {"x": 5}, "faults": ["dropped"]}, {}, "made from itself"),
    ({"kind": "garbled", "base": {"y": 5}, "faults": ["dropped"]}, {}, "no set y"),
    ({"kind": "listed", "base": {"x": 5}}, {}, "word list is empty"),
    ({"kind": "listed", "base": {"x": 5}, "package": "p", "file": "w.json"}, {"w.json": "{}"}, "not a JSON list"),
])
def test_bad_sets_are_refused_in_one_line(sets, definition, files, says):
    with pytest.raises(StageError, match=says) as error:
        texts(sets({"x": definition}, files), "x")
    assert "\n" not in str(error.value)


def test_a_word_pattern_that_is_none_is_refused_by_its_key():
    with pytest.raises(ValidationError, match="matching"):
        SETS.validate_python({"x": {"kind": "listed", "base": {"y": 1}, "matching": "["}})
