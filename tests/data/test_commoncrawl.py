"""Captures by index and Range against a stand-in of both servers on loopback: real HTTP, real WARC bytes."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from warcio.archiveiterator import ArchiveIterator

from tasks import params, stage
from tasks.data import commoncrawl, sources, warc

DATE = "2026-01-01T00:00:00Z"
FILE = "crawl-data/CC-MAIN-2026-04/segments/1/warc/a.warc.gz"


class Servers:
    """The index, in pages of two lines, and the bucket with one WARC file; `fail` first answers so many 503."""

    def __init__(self) -> None:
        bodies = [(f"https://example.org/{n}", f"<p>page {n}</p>".encode()) for n in range(5)]
        self.file, self.lines, self.asked, self.fail, self.ranges = b"", [], [], 0, True
        for number, (url, body) in enumerate(bodies):
            record = warc.page(url, 200, [("Content-Type", "text/html")], body, "text/html", DATE)
            self.lines.append({"urlkey": f"org,example)/{number}", "timestamp": "20260101000000", "url": url,
                               "filename": FILE, "offset": str(len(self.file)), "length": str(len(record))})
            self.file += record + b"junk between"
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                if web.fail:
                    web.fail -= 1
                    return self.send_error(503)
                status, body = web.answer(self.path, self.headers.get("Range"))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def answer(self, path: str, wanted: str | None) -> tuple[int, bytes]:
        parts = urlsplit(path)
        if parts.path == "/CC-MAIN-2026-04-index":
            query = parse_qs(parts.query)
            if query["url"] != ["example.org/*"] or query["output"] != ["json"]:
                return 404, b'{"message": "No Captures found"}'
            if "showNumPages" in query:
                return 200, json.dumps({"pages": -(-len(self.lines) // 2), "pageSize": 5, "blocks": 1}).encode()
            page = int(query["page"][0])
            return 200, "".join((one if isinstance(one, str) else json.dumps(one)) + "\n"
                                for one in self.lines[2 * page:2 * page + 2]).encode()
        if parts.path != f"/{FILE}" or wanted is None:
            return 404, b""
        first, last = wanted.removeprefix("bytes=").split("-")
        return (206, self.file[int(first):int(last) + 1]) if self.ranges else (200, self.file)


@pytest.fixture
def servers(tmp_path, monkeypatch):
    """Both servers, and a fresh folder of downloads."""
    monkeypatch.setenv("CATENA_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setattr(commoncrawl, "PAUSE", 0.01)
    served = Servers()
    yield served
    served.server.shutdown()
    served.server.server_close()


def run(served: Servers, out: Path, shard: int = 1 << 20, **changes: object) -> dict:
    """The sources stage with this one corpus; returns its metrics row."""
    corpus = {"name": "cc", "kind": "commoncrawl", "crawl": "CC-MAIN-2026-04", "url": "example.org/*", "records": 10,
              "index": served.url, "data": served.url, "licence": "see each page", "language": None,
              "year": 2026} | changes
    section = params.section(sources.SourcesParams, "sources",
                             {"sources": {"shard": shard, "corpora": [corpus], "packages": []}})
    paths = {"sources_out": out / "sources", "packages": out / "packages", "metrics": out / "metrics.json"}
    stage.execute(sources.sources, {key: ("output", path) for key, path in paths.items()}, {"sources": section})
    return json.loads(paths["metrics"].read_text())["cc"]


def urls(out: Path) -> list[str]:
    """The addresses in the WARC files, as warcio reads them."""
    return [record.rec_headers["WARC-Target-URI"] for path in sorted((out / "sources/cc/warc").iterdir())
            for record in ArchiveIterator(path.open("rb"))]


def test_captures_come_whole_and_in_order_and_once(servers, tmp_path):
    """Every page of the index, one range each; a second run asks for nothing and gives the same bytes."""
    row = run(servers, tmp_path / "one")
    assert row["records"] == 5 and row["skipped"] == {}
    assert urls(tmp_path / "one") == [f"https://example.org/{n}" for n in range(5)]
    asked = len(servers.asked)
    assert run(servers, tmp_path / "two") == row and len(servers.asked) == asked
    origin = json.loads((tmp_path / "one/sources/cc/origin.json").read_text())
    assert (origin["snapshot"], origin["year"], origin["as"]) == ("CC-MAIN-2026-04", 2026, "warc")
    assert run(servers, tmp_path / "pinned", sha256=row["sha256"]) == row
    with pytest.raises(stage.StageError, match=row["sha256"]):
        run(servers, tmp_path / "other", sha256="0" * 64)


def test_only_so_many_records_and_so_many_bytes_a_file(servers, tmp_path):
    """The first three of the index need two of its pages; small shards."""
    row = run(servers, tmp_path, records=3, shard=1 << 16)
    assert row["records"] == 3 and urls(tmp_path)[-1] == "https://example.org/2"
    assert not any("page=2" in path for path in servers.asked)
    assert sorted(path.name for path in (tmp_path / "sources/cc/warc").iterdir()) == ["cc-00000.warc.gz"]


def test_busy_servers_are_asked_again(servers, tmp_path):
    """503 thrice, then an answer."""
    servers.fail = 3
    assert run(servers, tmp_path)["records"] == 5


def test_false_lines_and_ranges_are_counted(servers, tmp_path):
    """Lines that name no range, ranges that are no record, or of another page; files that are not there."""
    good = servers.lines[0]
    servers.lines += ["not json", "[]", good | {"filename": "../../etc/passwd"}, good | {"length": "-1"},
                      good | {"offset": "x"}, good | {"length": str(1 << 40)},
                      good | {"offset": "3"}, good | {"offset": servers.lines[1]["offset"], "urlkey": "z"},
                      good | {"filename": "crawl-data/none.warc.gz"}, good | {"offset": str(len(servers.file) - 5)}]
    servers.lines[1] = servers.lines[1] | {"url": "https://example.org/another"}
    row = run(servers, tmp_path, records=100)
    assert row["records"] == 4
    assert row["skipped"] == {"index": 6, "damaged": 2, "missing": 2}


def test_servers_that_are_none_end_in_one_line(servers, tmp_path):
    """No capture, no ranges, another server, no server."""
    with pytest.raises(stage.StageError, match="holds no page of elsewhere"):
        run(servers, tmp_path, url="elsewhere.example/*")
    servers.ranges = False
    with pytest.raises(stage.StageError, match="does not serve ranges"):
        run(servers, tmp_path)
    servers.server.shutdown()
    servers.server.server_close()
    with pytest.raises(stage.StageError, match="cannot fetch .*check the network"):
        run(servers, tmp_path, url="new.example/*")
    assert not (tmp_path / "sources").exists()
