"""Extract: text out of pages in several encodings, rejects with reasons, the same bytes whatever the workers."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tasks import params, stage
from tasks.data import documents, extractors, pages, remembered, warc
from tasks.data.extract import ExtractParams, extract

DATE = "2026-01-01T00:00:00Z"
ZH = "春天来了，河边的柳树发了新芽，孩子们在草地上放风筝，老人坐在长椅上晒太阳。" * 12
TRADITIONAL = "春天來了，河邊的柳樹發了新芽，孩子們在草地上放風箏，老人坐在長椅上曬太陽。" * 12
EN = "The old bridge over the river was rebuilt after the flood, and the market returned to its banks. " * 8
RUNTIME = {"threads": 1, "workers": 1, "executor": "local", "device": "cpu", "host": "127.0.0.1", "port": 0,
           "slots": 1, "api_key": None, "log_level": "INFO", "hostfile": None}


def page(text: str, head: str = "", extra: str = "") -> str:
    """A page whose main content is `text`."""
    return f"<html><head>{head}<title>t</title></head><body>{extra}<main><p>{text}</p></main></body></html>"


def record(url: str, body: bytes, kind: str = "text/html", charset: str = "") -> bytes:
    """One response record."""
    header = f"{kind}; charset={charset}" if charset else kind
    return warc.page(url, 200, [("Content-Type", header)], body, kind, DATE)


def runtime(**changes: object) -> params.Runtime:
    """A runtime section."""
    return params.section(params.Runtime, "runtime", {"runtime": RUNTIME | changes})


@pytest.fixture
def crawl(tmp_path, monkeypatch):
    """data/crawl with two WARC files and data/sources with a text corpus, in a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/crawl")
    folder.mkdir(parents=True)
    first = [record(f"https://a.example/{n}.html", page(f"Story {n}. {EN}").encode()) for n in range(5)]
    second = [
        record("https://b.example/gbk", page(ZH, '<meta charset="gbk">').encode("gbk")),
        record("https://b.example/header", page(ZH + "头").encode("gb18030"), charset="gb18030"),
        record("https://b.example/wrong", page(ZH + "错").encode(), charset="iso-8859-1-unknown"),
        record("https://b.example/none", page(TRADITIONAL).encode("big5")),
        record("https://b.example/short", page("Too little.").encode()),
        record("https://b.example/empty", b"  \n"),
        record("https://b.example/hollow", b"<html><body><script>1</script></body></html>"),
        record("https://b.example/pdf", b"%PDF-1.4" + EN.encode(), kind="application/pdf"),
        record("https://b.example/big", page(EN * 40).encode()),
        record("https://b.example/plain", EN.encode() + b"plain", kind="text/plain"),
    ]
    (folder / "a-00000.warc.gz").write_bytes(b"".join([warc.information("a", {}, DATE), *first]))
    (folder / "b-00000.warc.gz").write_bytes(b"".join([warc.information("b", {}, DATE), *second]))
    origins = {"a": {"licence": "MIT", "language": "en", "snapshot": "1.2", "year": 2024},
               "b": {"licence": "CC0-1.0", "language": None}}
    (folder / "origins.json").write_text(json.dumps(origins))
    about = {"source": "t", "licence": "MIT", "language": "en"}
    texts = [documents.Document(text=EN + str(n), id=f"t:{n}", metadata={"url": f"pypi:t/{n}"} | about)
             for n in range(3)]
    documents.write(Path("data/sources/t/text/00000.jsonl"), texts)
    return folder


def run(out: str, workers: int = 1, **changes: object) -> dict:
    """The stage's function as the stage runs it; returns the metrics."""
    values = {"extract": {"method": "auto", "characters": 100, "page_bytes": 20_000, "skip": ["nav"]} | changes}
    paths = {"crawl": ("input", Path("data/crawl")), "sources": ("input", Path("data/sources")),
             "extracted": ("output", Path(out) / "extracted"), "rejected": ("output", Path(out) / "rejected"),
             "metrics": ("output", Path(out) / "metrics.json")}
    section = params.section(ExtractParams, "extract", values)
    stage.execute(extract, paths, {"extract": section, "runtime": runtime(workers=workers)})
    return json.loads((Path(out) / "metrics.json").read_text())


def read(folder: Path) -> dict[str, documents.Document]:
    """url -> document of all shards."""
    return {item.metadata["url"]: item for shard in documents.shards(folder) for item in documents.read(shard)}


def tree(folder: str) -> dict[str, bytes]:
    """Every file below a folder."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_page_is_kept_or_rejected_with_its_reason(crawl):
    """Counts and reasons; texts whole in each encoding; metadata from the source."""
    table = run("out")
    assert table["read"] == 18 and table["kept"] == 13 and table["failed"] == 0
    assert table["dropped"] == {"empty": 2, "pdf_broken": 1, "too_large": 1, "too_short": 1}
    kept, rejected = read(Path("out/extracted")), read(Path("out/rejected"))
    for name, tail in (("gbk", ""), ("header", "头"), ("wrong", "错")):
        assert ZH[:200] in kept[f"https://b.example/{name}"].text.replace("\n", ""), name
        assert kept[f"https://b.example/{name}"].text.endswith(tail or "太阳。")
    assert kept["https://b.example/none"].text == TRADITIONAL
    assert kept["https://b.example/plain"].text == EN + "plain"
    assert kept["https://a.example/3.html"].metadata == {
        "url": "https://a.example/3.html", "source": "a", "licence": "MIT", "language": "en", "snapshot": "1.2",
        "year": 2024}
    assert kept["https://b.example/gbk"].metadata["language"] == "und"
    assert rejected["https://b.example/pdf"].metadata["reason"] == "pdf_broken"
    assert rejected["https://b.example/short"].text == "Too little."
    assert kept["pypi:t/2"].text == EN + "2"


def test_same_bytes_whatever_the_workers(crawl):
    """One worker in this process, two and four forked ones, each finding out by itself: every file the same."""
    tables = []
    for name, workers in (("one", 1), ("two", 2), ("four", 4)):
        shutil.rmtree(remembered.FOLDER, ignore_errors=True)
        tables.append(run(name, workers))
    assert tables[0] == tables[1] == tables[2]
    assert tree("one") == tree("two") == tree("four")
    ids = [item.id for shard in documents.shards(Path("one/extracted")) for item in documents.read(shard)]
    assert len(set(ids)) == len(ids) == 13


def test_navigation_and_selectors_are_left_out():
    """Main content only, and what the params skip."""
    html = page(EN, extra="<nav>Home About</nav><div id=menu>Menu entries everywhere</div>")
    text = extractors.fast(html, "", ["#menu"])
    assert "bridge" in text and "Home" not in text and "Menu" not in text


def test_a_selector_that_is_none_names_its_key():
    """Refused before any page is read."""
    with pytest.raises(params.ParamsError, match="extract.skip.*a:::b"):
        params.section(ExtractParams, "extract", {
            "extract": {"method": "fast", "characters": 1, "page_bytes": 2000, "skip": ["a:::b["]}})


def test_normal_text():
    """Composed, without control characters, pilcrows, odd blanks."""
    assert pages.normal("  cafe\u0301\u00a0x \u200b¶\r\n\r\n\n\nb\x00\ufeff ") == "café x\n\nb"


@pytest.mark.parametrize("charset", ["utf-8", "ascii", "not-a-charset", None])
def test_wrong_charset_header_does_not_lose_a_page(charset):
    """What the header claims is tried first, never believed against the bytes."""
    assert ZH in pages.decode(page(ZH, '<meta charset="gbk">').encode("gbk"), charset)


@pytest.mark.parametrize(("encoding", "header"), [
    ("utf-16", None), ("utf-16", "gbk"), ("utf-16-le", None), ("utf-16-be", "utf-16"), ("utf-8-sig", "gbk"),
    ("gb18030", "gb2312"), ("gb18030", "gbk")])
def test_chinese_in_wide_and_marked_encodings(encoding, header):
    """A byte order mark beats the header; UTF-16 is told by its zeros; GB labels read all of GB18030."""
    text = page(ZH + "\u3447\U00020087" if encoding == "gb18030" else ZH)
    assert pages.decode(text.encode(encoding), header) == text


@pytest.mark.parametrize("header", ["utf-16", "utf-16le", "utf-32"])
def test_utf_16_is_never_believed_by_name(header):
    """A page that calls itself UTF-16 and is not is read as what it is."""
    assert pages.decode(page(ZH, f'<meta charset="{header}">').encode(), header).count("春天来了") == 12


def test_big5_with_its_hong_kong_characters():
    """The label big5 reads the supplementary characters too."""
    text = page(TRADITIONAL + "啲嘢")
    assert pages.decode(text.encode("big5hkscs"), "big5") == text


def test_latin_pages_and_bytes_cut_in_a_character():
    """Latin-1 where the header says so and nothing contradicts; one broken character does not lose a page."""
    assert "café über" in pages.decode("<p>café über</p>".encode("latin-1"), "iso-8859-1")
    assert ZH in pages.decode(page(ZH).encode() + b"\xe6\x98", "utf-8")


def test_bytes_that_are_no_text_are_refused():
    """Binary under a text type does not become a document."""
    for body in (b"\x81\x8d\x8f\x90\x9d" * 200, b"".join(hashlib.sha256(bytes([n])).digest() for n in range(200))):
        with pytest.raises(UnicodeError):
            pages.decode(body, "utf-8")


@pytest.mark.parametrize("workers", [1, 2])
def test_truncated_warc_is_one_line_and_keeps_what_was(crawl, workers):
    """Cut in the middle: the file is named, nothing is published."""
    run("out")
    before = tree("out")
    path = crawl / "b-00000.warc.gz"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(stage.StageError, match="b-00000.warc.gz is truncated or damaged"):
        run("out", workers)
    assert tree("out") == before


def test_corrupt_text_shard_names_file_and_line(crawl):
    """A half line in a shard of text."""
    shard = Path("data/sources/t/text/00000.jsonl")
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(stage.StageError, match=r"00000.jsonl:3 is not a document"):
        run("out")


def test_nothing_to_read_and_nothing_kept(crawl, tmp_path):
    """Both say what to do."""
    with pytest.raises(stage.StageError, match="kept none of 18.*extract.characters"):
        run("out", characters=10**6)
    for path in crawl.glob("*.gz"):
        path.unlink()
    Path("data/sources/t/text/00000.jsonl").unlink()
    with pytest.raises(stage.StageError, match="neither"):
        run("out")


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_in_a_rank_is_one_line(crawl, monkeypatch, workers):
    """No space left while a shard is written, in this process or a forked one."""
    run("out")
    before = tree("out")

    @contextlib.contextmanager
    def full(shard: Path):
        def put(document: documents.Document) -> None:
            raise OSError(28, "No space left on device", str(shard))
        yield put

    monkeypatch.setattr(documents, "written", full)
    with pytest.raises(OSError, match="No space left") as failed:
        run("out", workers)
    assert "the disk is full" in stage.one_line(failed.value)
    assert tree("out") == before


def test_a_page_the_parser_cannot_take_costs_that_page_only(crawl, monkeypatch):
    """Counted as failed, kept among the rejects."""
    def broken(html: str, url: str, skip: list[str]) -> str:
        if "Story 2" in html:
            raise RuntimeError("parser")
        return extractors.fast(html, url, skip)

    monkeypatch.setitem(extractors.METHODS, "auto", broken)
    table = run("out")
    assert table["failed"] == 1 and table["kept"] == 12
    assert read(Path("out/rejected"))["https://a.example/2.html"].metadata["reason"] == "failed"


def test_plain_warc_of_another_writer(crawl):
    """Not gzipped, without our header: the HTTP Content-Type decides."""
    (crawl / "a-00000.warc.gz").unlink()
    data = gzip.decompress(record("https://a.example/x", page(EN).encode(), charset="utf-8"))
    ready = Path("data/sources/a/warc/a-00000.warc")
    ready.parent.mkdir(parents=True)
    ready.write_bytes(data.replace(b"WARC-Identified-Payload-Type: text/html\r\n", b""))
    assert run("out")["kept"] == 9
    assert os.path.getsize("out/extracted/00000.jsonl") > 500
