"""Before and after: counts by hand, samples the same for any number of workers, nobody named, torn runs told."""

import gzip
import json

import pytest

from tasks.data import documents, picture, warc
from tasks.data.extract import ExtractParams
from tasks.data.picture import difference
from tasks.stage import StageError

DATE = "2026-01-01T00:00:00Z"
MENU = "<nav>Menu and login</nav>"


def made(workspace, data):
    """A crawl of six pages in two files, a text corpus of Chinese; extracted, and a corpus without the last of each."""
    crawl, sources = workspace / "crawl", workspace / "sources"
    crawl.mkdir()
    (crawl / "origins.json").write_text(json.dumps({"a": {"licence": "MIT", "language": "en", "snapshot": "1"}}))
    text = ["Write to jane.roe@pythonware.com now.\n" + "word " * n for n in (1, 10, 100)]
    for name in ("a", "b"):
        records = [warc.page(f"https://{name}.test/{n}", 200, [("Content-Type", "text/html")],
                             f"<html><body>{MENU}<main><p>{one}</p></main></body></html>".encode(), "text/html", DATE)
                   for n, one in enumerate(text)]
        (crawl / f"{name}-00000.warc.gz").write_bytes(b"".join([warc.information(name, {}, DATE), *records]))
    about = {"source": "novel", "language": "zh", "licence": "CC0-1.0", "snapshot": "0.8", "year": 1522}
    chinese = [data.document(f"novel:{n}", "话" * length, **about) for n, length in enumerate((7, 8, 15))]
    documents.write(sources / "novel/text/00000.jsonl", chinese)
    files = sorted(crawl.glob("*.gz")) + [sources / "novel/text/00000.jsonl"]
    reader = picture.pages.ReadPages(files, json.loads((crawl / "origins.json").read_text()), 10_000)
    for rank, path in enumerate(files):
        before = list(reader.run(rank=rank, world_size=3))
        for one, body in zip(before, text):
            if one.metadata.pop("payload", None):
                one.text = body
        name = f"{rank:05d}.jsonl"
        with documents.written(workspace / "extracted" / name) as put:
            for one in before:
                put(one)
        with documents.written(workspace / "corpus" / name) as put:
            for one in before[:-1]:
                one.metadata |= {"domain": "knowledge", "scores": {"fluency": 1.0 if rank == 2 else 0.35}}
                if rank == 0:
                    one.metadata["masked"] = {"email": 1}
                    one.text = one.text.replace("jane.roe@pythonware.com", "<email>")
                put(one)


def run(workspace, data, out="out", workers=1):
    target = workspace / out
    picture.picture(workspace / "crawl", workspace / "sources", workspace / "extracted", workspace / "corpus",
                    target / "picture", target / "m.json", extract=data.section(ExtractParams, "extract"),
                    runtime=data.runtime(workers))
    return json.loads((target / "m.json").read_text())


def test_counts_are_those_made_by_hand(workspace, data):
    made(workspace, data)
    table = run(workspace, data)
    assert (table["before"]["documents"], table["after"]["documents"]) == (9, 6)
    assert table["before"]["length"]["zh"] == {"2": 1, "3": 2}  # 7 is below 2**3, 8 and 15 are not
    assert table["before"]["length"]["en"] == {"5": 1, "6": 1, "9": 1}  # 43, 88 and 538 characters
    assert table["after"]["length"]["zh"] == {"2": 1, "3": 1}
    assert table["after"]["scores"] == {"fluency": {"en": [0, 0, 0, 2, 0, 0, 0, 0, 0, 0], "und": [0, 0, 0, 2] + [0] * 6,
                                                    "zh": [0] * 9 + [2]}}  # 1.0 is in the last tenth
    novel = [row for row in table["before"]["cells"] if row["source"] == "novel"]
    assert novel == [{"source": "novel", "language": "zh", "domain": None, "licence": "CC0-1.0", "snapshot": "0.8",
                      "year": 1522, "documents": 3, "characters": 30}]
    for side in ("before", "after"):
        assert sum(row["characters"] for row in table[side]["cells"]) == table[side]["characters"]


def test_samples_show_the_page_and_what_became_of_it_but_nobody(workspace, data):
    made(workspace, data)
    run(workspace, data)
    samples = list(documents.read(workspace / "out/picture/samples.jsonl"))
    assert [one.metadata["language"] for one in samples] == ["en", "und", "zh"] * 2  # each language in turn
    masked = samples[0].metadata
    assert masked["source"] == "a" and "Menu and login" in masked["raw"] and "Menu" not in masked["extracted"]
    assert masked["cut"] == "Write to [email withheld] now." and masked["put"] == "Write to <email> now."
    assert "jane" not in (workspace / "out/picture/samples.jsonl").read_text()
    zh = samples[2]
    assert zh.metadata["raw"] == zh.metadata["extracted"] == zh.text and not zh.metadata["cut"]
    assert sorted(path.name for path in (workspace / "out/picture").iterdir()) == ["samples.jsonl"]


def test_any_number_of_workers_makes_the_same_bytes(workspace, data):
    made(workspace, data)
    for workers in (1, 3):
        run(workspace, data, f"out{workers}", workers)
    assert data.tree(workspace / "out1") == data.tree(workspace / "out3")


@pytest.mark.parametrize(("before", "after", "expected"), [
    ("a\nb\nb\nc", "a\nb\nc", ("b", "")), ("x 1\ny", "x <n>\ny", ("x 1", "x <n>")), ("", "", ("", "")),
    ("话\n\n", "话", ("", "")), ("a\nb", "b\na", ("", "")),
])
def test_the_difference_is_by_lines(before, after, expected):
    assert difference(before, after) == expected


def spoil_order(workspace):
    shard = workspace / "corpus/00002.jsonl"
    shard.write_bytes(b"".join(reversed(shard.read_bytes().splitlines(keepends=True))))


def spoil_count(workspace):
    (workspace / "corpus/00001.jsonl").unlink()


def spoil_line(workspace):
    shard = workspace / "extracted/00001.jsonl"
    shard.write_bytes(shard.read_bytes()[:-20])


def spoil_warc(workspace):
    path = workspace / "crawl/a-00000.warc.gz"
    path.write_bytes(path.read_bytes()[:-300])


def spoil_crawl(workspace):
    body = warc.page("https://a.test/0", 200, [("Content-Type", "text/html")], b"<p>new</p>", "text/html", DATE)
    (workspace / "crawl/a-00000.warc.gz").write_bytes(gzip.compress(gzip.decompress(body)))


@pytest.mark.parametrize(("spoil", "said"), [
    (spoil_order, "different runs"), (spoil_count, "shards"), (spoil_line, "00001.jsonl:3 is not a document"),
    (spoil_warc, "truncated or damaged"), (spoil_crawl, "has no page"),
])
def test_inputs_that_do_not_belong_together_are_told(workspace, data, spoil, said):
    made(workspace, data)
    spoil(workspace)
    with pytest.raises(StageError, match=said) as fault:
        run(workspace, data)
    assert "\n" not in str(fault.value)
