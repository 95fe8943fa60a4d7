"""WARC files from anywhere: cut and changed at any place, records and bombs larger than memory, odd texts."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import brotli
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies
from warcio.archiveiterator import ArchiveIterator

from tasks import stage
from tasks.data import documents, fetch, pages, warc

DATE = "2026-01-01T00:00:00Z"
ROOT = Path(__file__).resolve().parents[2]
ZH = "春天来了，河边的柳树发了新芽，孩子们在草地上放风筝，老人坐在长椅上晒太阳。" * 3
RECORDS = [warc.information("w", {}, DATE), *(
    warc.page(f"https://w.example/{n}", 200, [("Content-Type", "text/html; charset=utf-8")],
              f"<html><body><p>Page {n} of words and 汉字.</p></body></html>".encode() * 5, "text/html", DATE)
    for n in range(4))]
PACKED = b"".join(RECORDS)
PLAIN = gzip.decompress(PACKED)


def head(length: int, url: str = "https://w.example/x", record: str = "1") -> bytes:
    """The header of a response record."""
    return (f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Record-ID: <urn:uuid:{record}>\r\n"
            f"WARC-Date: {DATE}\r\nContent-Type: application/http; msgtype=response\r\n"
            f"Content-Length: {length}\r\n\r\n").encode()


def raw(body: bytes, http: str = "", record: str = "1") -> bytes:
    """A plain response record of HTML with any HTTP headers and body."""
    answer = f"HTTP/1.1 200 OK\r\n{http or 'Content-Type: text/html'}\r\n\r\n".encode() + body
    return head(len(answer), record=record) + answer + warc.END


def read(path: Path, page_bytes: int = 100_000) -> list:
    """The documents of a WARC file by the reader and the extractor of the extract stage."""
    return list(pages.Extract("fast", 1, []).run(pages.ReadPages([path], {}, page_bytes).pages(path)))


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data(), packed=strategies.booleans())
def test_any_change_is_counted_or_one_error(tmp_path, data, packed):
    """Bytes changed, cut out, doubled, cut off: never another exception, and never a record lost in silence."""
    whole = bytearray(PACKED if packed else PLAIN)
    for _ in range(data.draw(strategies.integers(1, 4))):
        at = data.draw(strategies.integers(0, len(whole) - 1)) if whole else 0
        size = data.draw(strategies.integers(1, 400))
        how = data.draw(strategies.sampled_from(["change", "remove", "double", "cut", "insert"]))
        piece = {"change": data.draw(strategies.binary(min_size=size, max_size=size)), "remove": b"",
                 "double": bytes(whole[at:at + size]) * 2, "cut": None,
                 "insert": data.draw(strategies.binary(max_size=50)) + bytes(whole[at:at + size])}[how]
        whole[at:] = b"" if piece is None else piece + bytes(whole[at + size:])
    path = tmp_path / "w-00000.warc"
    path.write_bytes(whole)
    try:
        expected = warc.whole(path)
        found = read(path)
    except stage.StageError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert len(found) == expected == len({document.id for document in found})
    assert all(document.text or document.metadata["reason"] for document in found)
    if packed and not bytes(whole).startswith(PACKED[:20]):
        return
    if packed and len(found) == 4:  # gzip's checksums held, so nothing in it has changed
        assert [document.metadata["url"][-1] for document in found] == ["0", "1", "2", "3"]


def limited(code: str, path: Path, seconds: int = 60) -> str:
    """Run `code` on `path` in a process; prints its result and its peak memory in MB, which is bounded here."""
    tail = "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    start = ("import sys; from pathlib import Path; from tasks import stage; from tasks.data import pages, warc\n"
             "path = Path(sys.argv[1])\n")
    done = subprocess.run([sys.executable, "-c", start + code + tail, str(path)], cwd=ROOT, capture_output=True,
                          text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    *said, peak = done.stdout.split("\n")[:-1]
    base = subprocess.run([sys.executable, "-c", start + tail, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert int(peak) - int(base.stdout) < 150, (peak, base.stdout)
    return "\n".join(said)


READ = "print([d.metadata.get('reason') for d in pages.ReadPages([path], {}, 100000).pages(path)])"


def test_a_record_of_a_gigabyte_is_dropped_in_little_memory(tmp_path):
    """A sparse file: the one record is too large, those beside it are read."""
    path = tmp_path / "w-00000.warc"
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    with path.open("wb") as out:
        out.write(PLAIN + head(len(answer) + (1 << 30)) + answer)
        out.seek(1 << 30, io.SEEK_CUR)
        out.write(warc.END + raw(b"<p>after</p>", record="2"))
    assert path.stat().st_blocks * 512 < 1 << 20
    assert limited(READ, path) == "[None, None, None, None, 'too_large', None]"


def test_a_gzip_member_of_a_gigabyte_is_dropped_in_little_memory(tmp_path):
    """A megabyte that unpacks to a gigabyte, as a record and inside of one."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    pack = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = pack.compress(head(len(answer) + (1 << 30)) + answer)
    zeros = bytes(1 << 20)
    packed += b"".join(pack.compress(zeros) for _ in range(1 << 10)) + pack.compress(warc.END) + pack.flush()
    path = tmp_path / "w-00000.warc.gz"
    path.write_bytes(PACKED + packed + RECORDS[1])
    assert path.stat().st_size < 6 << 20
    assert limited(READ, path) == "[None, None, None, None, 'too_large', None]"


def test_an_encoded_bomb_is_dropped_and_the_next_record_read(tmp_path):
    """Content-Encoding of 200 MB in 200 kB; truncated and false encodings too."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(200)) + pack.flush()
    encoded = "Content-Type: text/html\r\nContent-Encoding: gzip"
    path = tmp_path / "w-00000.warc"
    path.write_bytes(raw(bomb, encoded) + raw(b"<p>next</p>", record="2")
                     + raw(gzip.compress(b"<p>packed</p>"), encoded, "3")
                     + raw(b"no gzip at all", encoded, "4") + raw(b"<p>last</p>", record="5"))
    assert len(bomb) < 300_000
    said = limited(READ.replace("100000", "1000000"), path)
    assert said == "['too_large', None, None, 'damaged', None]"


def test_more_than_the_bound_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """A header that promises 16 GiB, and members that together hold more than allowed."""
    path = tmp_path / "w-00000.warc"
    path.write_bytes(PLAIN + head(17 << 30) + b"x")
    with pytest.raises(stage.StageError, match="unpacks to more than 16 GiB"):
        warc.whole(path)
    monkeypatch.setattr(warc, "UNPACKED", 2000)
    path.write_bytes(PACKED)
    with pytest.raises(stage.StageError, match="unpacks to more"):
        warc.whole(path)


@pytest.mark.parametrize("line", [b"Content-Length: -5", b"Content-Length: 1e3", b"Content-Length: " + b"9" * 30,
                                  b"Content-Length: \xd9\xa1", b"Content-Length:", b"X: " + b"y" * 70_000])
def test_lying_headers_are_one_error(tmp_path, line):
    """Lengths that are none, and a line without end."""
    path = tmp_path / "w-00000.warc"
    path.write_bytes(PLAIN + b"WARC/1.0\r\nWARC-Type: response\r\n" + line + b"\r\n\r\nabc" + warc.END)
    with pytest.raises(stage.StageError, match="damaged"):
        warc.whole(path)


def test_cut_at_every_place(tmp_path):
    """Each prefix of a packed and a plain file is an error, but where a record ends."""
    path = tmp_path / "w.warc"
    ends = {sum(map(len, RECORDS[:n])) for n in range(1, 6)}
    for size in [*range(0, len(PACKED), 37), *ends]:
        path.write_bytes(PACKED[:size])
        if size in ends:
            assert warc.whole(path) == sorted(ends).index(size)
        else:
            with pytest.raises(stage.StageError, match=r"w\.warc is truncated"):
                warc.whole(path)
    for size in range(1, len(PLAIN), 211):
        path.write_bytes(PLAIN[:size])
        with pytest.raises(stage.StageError, match="truncated"):
            warc.whole(path)


def test_large_files_are_cut_between_records(tmp_path):
    """Shards of bounded size, together the bytes of the file; warcio reads each. One great member stays whole."""
    for data, several in ((PACKED, True), (PLAIN, True), (gzip.compress(PLAIN), False)):
        path, folder = tmp_path / "in.warc", tmp_path / f"out{len(data)}"
        path.write_bytes(data)
        count, responses = warc.take(path, folder, "w", 3, 300)
        files = sorted(folder.iterdir())
        assert responses == 4 and count == len(files) and (count > 1) == several
        assert b"".join(file.read_bytes() for file in files) == data
        assert files[0].name.startswith("w-00003.warc")
        if not several:
            continue
        urls = [record.rec_headers["WARC-Target-URI"] for file in files
                for record in ArchiveIterator(file.open("rb")) if record.rec_type == "response"]
        assert urls == [f"https://w.example/{n}" for n in range(4)]


def test_a_file_without_pages_is_refused(tmp_path):
    """A warcinfo alone, a page of HTML, nothing."""
    path = tmp_path / "w.warc"
    for data in (RECORDS[0], b"<html>not a WARC at all</html>" * 50, b""):
        path.write_bytes(data)
        with pytest.raises(stage.StageError, match=r"w\.warc.*sources\.corpora"):
            warc.take(path, tmp_path / "out", "w", 0, 1 << 20)


def test_the_same_record_twice_is_two_documents(tmp_path):
    """Ids stay unique whatever the file holds."""
    path = tmp_path / "w-00000.warc.gz"
    path.write_bytes(RECORDS[1] * 3)
    assert len({document.id for document in read(path)}) == 3


@pytest.mark.parametrize(("body", "header", "wanted"), [
    ("<p>a\0b\0c</p>".encode(), "", "abc"),
    ("<p>שלום עולם، مرحبا بالعالم</p>".encode(), "; charset=utf-8", "שלום עולם، مرحبا بالعالم"),
    ("<p>\u202eevil\u202c 👩‍👩‍👧 🇨🇳 👍🏽</p>".encode(), "", "evil 👩‍👩‍👧 🇨🇳 👍🏽"),
    (f"<p>{ZH}</p>".encode("gb18030"), "; charset=utf-8", ZH),
    ("<p>中文网页，没有编码。</p>".encode(), "; charset=no-such-thing", "中文网页，没有编码。"),
    ("<p>utf sixteen</p>".encode("utf-16"), "; charset=utf-16", "utf sixteen"),
    (b"<p>caf\xe9</p>", "; charset=iso-8859-1", "café"),
])
def test_odd_texts_come_out_whole(tmp_path, body, header, wanted):
    """Null bytes, right to left, emoji, false and missing charsets."""
    path = tmp_path / "w-00000.warc"
    path.write_bytes(raw(body, f"Content-Type: text/html{header}"))
    [document] = read(path)
    assert "reason" not in document.metadata
    assert wanted in pages.normal(document.text)
    document.text.encode()


def test_bytes_that_are_no_text_are_rejected(tmp_path):
    """Noise said to be HTML is dropped, not kept as marks of replacement."""
    path = tmp_path / "w-00000.warc"
    path.write_bytes(raw(bytes(range(128, 256)) * 40 + b"\x81\x8d\x8f" * 500, "Content-Type: text/html; charset=utf-8"))
    [document] = read(path)
    assert document.metadata.get("reason") == "decode" or "\ufffd" not in document.text


def test_ready_files_are_pages_with_what_is_known_of_them(tmp_path, monkeypatch):
    """kind: warc through sources, crawl and extract: checked, cut, read, with snapshot and year on each document."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name, body in (("b.warc.gz", PACKED), ("a.warc", raw(f"<main><p>{ZH * 3}</p></main>".encode(), record="9"))):
        Path("in", name).write_bytes(body)
    pin = fetch.tree(Path("in"), Path("in").iterdir())
    entry = {"name": "cc", "kind": "warc", "path": "in/*.warc*", "sha256": pin, "snapshot": "CC-MAIN-2024-10",
             "licence": "see each page", "language": None, "year": 2024}
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["sources"] |= {"corpora": [entry], "packages": [], "shard": 1 << 16}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert ran("sources", "data/sources", "data/packages", "metrics/sources.json") == (0, "")
    assert json.loads(Path("metrics/sources.json").read_text())["cc"]["records"] == 5
    assert ran("crawl", "data/sources", "data/crawl", "metrics/crawl.json") == (0, "")
    assert ran("extract", "data/crawl", "data/sources", "data/extracted", "data/rejected", "metrics/e.json") == (0, "")
    kept = [item for shard in documents.shards(Path("data/extracted")) for item in documents.read(shard)]
    assert json.loads(Path("metrics/e.json").read_text())["read"] == 5
    [item] = [item for item in kept if ZH in item.text]
    assert item.metadata["snapshot"] == "CC-MAIN-2024-10" and item.metadata["year"] == 2024
    assert (item.metadata["licence"], item.metadata["source"]) == ("see each page", "cc")
    Path("in/a.warc").write_bytes(Path("in/a.warc").read_bytes()[:-20])
    code, line = ran("sources", "data/sources", "data/packages", "metrics/sources.json")
    assert code == 1 and pin in line and "data/sources" not in line
    values["sources"]["corpora"][0]["sha256"] = fetch.tree(Path("in"), Path("in").iterdir())
    Path("params.yaml").write_text(yaml.safe_dump(values))
    code, line = ran("sources", "data/sources", "data/packages", "metrics/sources.json")
    assert code == 1 and "in/a.warc is truncated" in line
    assert Path("data/sources/cc/origin.json").is_file()


def ran(name: str, *paths: str) -> tuple[int, str]:
    """A data stage as its command; (exit code, its error line)."""
    done = subprocess.run([sys.executable, "-m", f"tasks.data.{name}", *paths], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, "".join(line for line in done.stderr.splitlines() if line.startswith("error: "))


@pytest.mark.parametrize(("codings", "pack"), [
    ("gzip", gzip.compress), ("x-gzip, identity", gzip.compress), ("deflate", zlib.compress), ("", bytes),
    ("deflate", lambda body: zlib.compress(body, wbits=-15)), ("br", brotli.compress),
    ("deflate, br", lambda body: brotli.compress(zlib.compress(body)))])
def test_content_codings_are_unpacked_within_the_limit(codings, pack):
    """Each coding and two of them; at most the limit comes out; cut off or unknown is a ValueError."""
    body = ZH.encode() * 100
    assert warc.decoded(pack(body), codings, len(body) + 1) == body
    assert warc.decoded(pack(body), codings, 1000) == body[:1000]
    if codings:
        with pytest.raises(ValueError, match="."):
            warc.decoded(pack(body)[:-9], codings, len(body) + 1)
    with pytest.raises(ValueError, match="unknown Content-Encoding 'rot13'"):
        warc.decoded(body, "rot13", 10)
