"""The crawl, as its command, against a scripted site on loopback; WARC read back by warcio, not by our reader."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from warcio.archiveiterator import ArchiveIterator

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("web", Path(__file__).with_name("web.py"))
web_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(web_module)
PARAMS = {
    "depth": 3, "pages": 100, "page_bytes": 100_000, "delay": 0.0, "concurrency": 4,
    "retries": 2, "timeout": 5.0, "user_agent": "test", "allow_private": True, "shard": 4,
    "date": "2026-01-01T00:00:00Z",
}


def workspace(path: Path, seed: str | None = None, **changes: object) -> Path:
    """A directory with params.yaml and sources of at most a seed named site, to run the stage in."""
    (path / "data" / "sources").mkdir(parents=True, exist_ok=True)
    if seed:
        (path / "data/sources/site").mkdir(exist_ok=True)
        origin = {"as": "seed", "url": seed, "licence": "CC0-1.0", "language": None, "snapshot": "2026", "year": None}
        (path / "data/sources/site/origin.json").write_text(json.dumps(origin))
    (path / "params.yaml").write_text(yaml.safe_dump({"crawl": PARAMS | changes}))
    return path


def command(cwd: Path) -> tuple[list[str], dict]:
    """The stage's command line and how to start it."""
    line = [sys.executable, "-m", "tasks.data.crawl", "data/sources", "data/crawl", "metrics/crawl.json"]
    return line, {"cwd": cwd, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE, "text": True}


def run(cwd: Path) -> subprocess.CompletedProcess:
    """Run the stage to its end."""
    line, how = command(cwd)
    return subprocess.run(line, timeout=60, **how)


def failure(done: subprocess.CompletedProcess) -> str:
    """The one error line of a failed run."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def records(folder: Path) -> dict[str, tuple[dict, bytes]]:
    """url -> (WARC headers, payload) of all responses, in file order."""
    found = {}
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream):
                if record.rec_type == "response":
                    found[record.rec_headers["WARC-Target-URI"]] = (
                        dict(record.rec_headers.headers) | {"http": dict(record.http_headers.headers)},
                        record.content_stream().read())
    return found


def digest(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def web():
    """The scripted site, up for the module."""
    served = web_module.Web()
    web_module.varied(served)
    yield served
    served.close()


@pytest.fixture(scope="module")
def crawled(web, tmp_path_factory):
    """One whole crawl of it: (workspace, how often each path was asked for)."""
    web.asked.clear()
    cwd = workspace(tmp_path_factory.mktemp("crawled"), seed=web.url + "/docs/")
    done = run(cwd)
    assert done.returncode == 0, done.stderr
    return cwd, dict(web.asked)


def test_pages_in_scope_and_depth(web, crawled):
    """Three links deep below /docs/, and nothing else."""
    found = records(crawled[0] / "data/crawl")
    names = {url.removeprefix(web.url + "/docs/") for url in found}
    assert names == {"", "a.html", "b.html", "c.html", "target.html", "gbk.html", "flaky.html", "packed.html",
                     "nothing.html"}
    assert list(found) == sorted(found)


def test_robots_are_asked_and_obeyed(crawled):
    """The disallowed page is never requested, and counted."""
    cwd, asked = crawled
    assert asked["/robots.txt"] == 1
    assert "/docs/secret.html" not in asked
    assert json.loads((cwd / "metrics/crawl.json").read_text())["site"]["dropped"]["robots"] == 1


def test_what_was_dropped_is_counted_by_reason(crawled):
    """Every request that gave no page has its reason."""
    cwd, asked = crawled
    row = json.loads((cwd / "metrics/crawl.json").read_text())["site"]
    assert row["dropped"] == dict.fromkeys(
        ("http_404", "http_500", "not_a_page", "out_of_scope", "robots", "too_large"), 1)
    assert "/other/out.html" not in asked
    assert asked["/docs/dead.html"] == 3 and asked["/docs/flaky.html"] == 3 and asked["/docs/a.html"] == 1


def test_records_hold_the_decoded_page_and_its_type(web, crawled):
    """Header for datatrove's reader, payload unpacked, no volatile header."""
    found = records(crawled[0] / "data/crawl")
    headers, body = found[web.url + "/docs/packed.html"]
    assert body == web_module.html("Packed")
    assert headers["WARC-Identified-Payload-Type"] == "text/html"
    assert headers["WARC-Date"] == "2026-01-01T00:00:00Z"
    names = {name.lower() for name in headers["http"]}
    assert not names & {"date", "content-encoding", "transfer-encoding"}
    assert headers["http"]["Content-Length"] == str(len(body))
    assert web_module.GBK in found[web.url + "/docs/gbk.html"][1].decode("gbk")


def test_shards_hold_at_most_so_many_pages(crawled):
    """Nine pages in files of four."""
    names = sorted(path.name for path in (crawled[0] / "data/crawl").glob("*.gz"))
    assert names == ["site-00000.warc.gz", "site-00001.warc.gz", "site-00002.warc.gz"]


def test_a_second_crawl_gives_the_same_bytes(web, crawled, tmp_path):
    """Nothing of the clock, the order of answers or the process reaches the files."""
    web.asked.clear()
    done = run(workspace(tmp_path, seed=web.url + "/docs/"))
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "data/crawl") == digest(crawled[0] / "data/crawl")
    assert not (tmp_path / ".resume/crawl").exists()


def test_killed_crawl_resumes_to_the_same_bytes(web, crawled, tmp_path):
    """kill -9 in the middle; the next run asks only for what is missing and ends in the same bytes."""
    web.asked.clear()
    web.delay = 0.3
    cwd = workspace(tmp_path, seed=web.url + "/docs/")
    line, how = command(cwd)
    process = subprocess.Popen(line, **how)
    try:
        kept = tmp_path / ".resume/crawl"
        until = time.monotonic() + 40
        while time.monotonic() < until and len(list(kept.glob("*/answers/*"))) < 6:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finally:
        web.delay = 0.0
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "data/crawl").exists()
    before = dict(web.asked)
    time.sleep(0.5)
    web.asked.clear()
    done = run(cwd)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "data/crawl") == digest(crawled[0] / "data/crawl")
    assert before["/docs/"] == 1 and "/docs/" not in web.asked
    failing = {"/docs/flaky.html", "/docs/dead.html", "/docs/huge.html"}
    again = set(before) & set(web.asked) - failing
    assert len(again) <= PARAMS["concurrency"], f"asked again: {again}"


def test_page_limit_is_exact_and_deterministic(web, tmp_path):
    """The first pages by depth and address, whichever answers first."""
    done = run(workspace(tmp_path, seed=web.url + "/docs/", pages=3))
    assert done.returncode == 0, done.stderr
    assert [url.removeprefix(web.url) for url in records(tmp_path / "data/crawl")] == ["/docs/", "/docs/a.html"]
    assert json.loads((tmp_path / "metrics/crawl.json").read_text())["site"]["dropped"]["over_page_limit"] > 5


def test_delay_is_kept_between_requests(tmp_path):
    """Seven requests to one host at 0.8 s (jitter: from half of it) take a second longer; by Crawl-delay too."""
    served = web_module.Web()
    page = {"Content-Type": "text/html"}
    served.pages = {"/": (200, page, web_module.html("R", "1", "2", "3", "4", "5")),
                    **{f"/{n}": (200, page, web_module.html(str(n))) for n in range(1, 6)}}
    try:
        started = time.monotonic()
        fast = run(workspace(tmp_path / "fast", seed=served.url + "/"))
        middle = time.monotonic()
        slow = run(workspace(tmp_path / "slow", seed=served.url + "/", delay=0.8))
        ended = time.monotonic()
        served.pages["/robots.txt"] = (200, {"Content-Type": "text/plain"}, b"User-agent: *\nCrawl-delay: 0.8\n")
        asked = run(workspace(tmp_path / "asked", seed=served.url + "/"))
        last = time.monotonic()
    finally:
        served.close()
    assert fast.returncode == slow.returncode == asked.returncode == 0
    assert (ended - middle) - (middle - started) > 1.0
    assert (last - ended) - (middle - started) > 1.0


def test_unpacked_sites_are_recorded_under_their_address(tmp_path, monkeypatch):
    """A folder of data/sources is served, crawled and written under the URL of its origin, past any proxy."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    folder = tmp_path / "data/sources/book"
    (folder / "site/part").mkdir(parents=True)
    (folder / "site/index.html").write_bytes(web_module.html("Index", "part", "one.html", "../../etc/passwd"))
    (folder / "site/one.html").write_bytes(web_module.html("One"))
    (folder / "site/part/index.html").write_bytes(web_module.html("Part", "../one.html"))
    origin = {"as": "site", "url": "https://book.example/v1/", "licence": "MIT", "language": "en", "snapshot": "1",
              "year": 2025}
    (folder / "origin.json").write_text(json.dumps(origin))
    done = run(workspace(tmp_path))
    assert done.returncode == 0, done.stderr
    top = "https://book.example/v1/"
    assert list(records(tmp_path / "data/crawl")) == [top, top + "one.html", top + "part/"]
    origins = json.loads((tmp_path / "data/crawl/origins.json").read_text())
    assert origins == {"book": {"language": "en", "licence": "MIT", "snapshot": "1", "year": 2025}}


def test_unreachable_seed_is_one_line_and_keeps_what_was(tmp_path):
    """Nothing listens there; the old crawl stays."""
    served = web_module.Web()
    served.close()
    cwd = workspace(tmp_path, seed=served.url + "/docs/", retries=1)
    (cwd / "data/crawl").mkdir()
    (cwd / "data/crawl/old").write_text("old")
    line = failure(run(cwd))
    assert served.url + "/docs/" in line and "unreachable" in line and "sources.corpora" in line
    assert digest(cwd / "data/crawl") == {"old": b"old"}


def test_seed_that_redirects_elsewhere_names_the_place(web, tmp_path):
    """The one page asked for leads out of the site: say where, not just that nothing came."""
    web.pages["/moved/"] = (301, {"Location": "/docs/"}, b"")
    line = failure(run(workspace(tmp_path, seed=web.url + "/moved/")))
    assert f"{web.url}/moved/ redirects to {web.url}/docs/" in line


def test_seed_without_a_path(web, tmp_path):
    """A bare host is its root, and all of it is in scope."""
    web.pages["/"] = (200, {"Content-Type": "text/html"}, web_module.html("Root", "docs/d.html", "other/out.html"))
    done = run(workspace(tmp_path, seed=web.url, depth=1))
    assert done.returncode == 0, done.stderr
    found = [url.removeprefix(web.url) for url in records(tmp_path / "data/crawl")]
    assert found == ["/", "/docs/d.html", "/other/out.html"]


def test_seed_that_does_not_resolve(tmp_path):
    """A host without address is named."""
    cwd = workspace(tmp_path, seed="http://no-such-host.invalid/", allow_private=False)
    line = failure(run(cwd))
    assert "http://no-such-host.invalid/ is unreachable" in line


def test_private_seed_is_refused(web, tmp_path):
    """A loopback address is not asked for anything."""
    web.asked.clear()
    line = failure(run(workspace(tmp_path, seed=web.url + "/docs/", allow_private=False)))
    assert "127.0.0.1" in line and "crawl.allow_private" in line
    assert not web.asked


def test_nothing_listens_while_it_crawls(web, tmp_path):
    """Scrapy's telnet console and remote control stay off: only our own site server listens, on loopback."""
    web.delay = 0.5
    line, how = command(workspace(tmp_path, seed=web.url + "/docs/", depth=1))
    process = subprocess.Popen(line, **how)
    try:
        until = time.monotonic() + 40
        while time.monotonic() < until and len(list(tmp_path.glob(".resume/crawl/*/answers/*"))) < 3:
            time.sleep(0.02)
        listening = [each for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"]
    finally:
        web.delay = 0.0
        process.kill()
        process.communicate()
    assert len(listening) == 1 and listening[0].laddr.ip == "127.0.0.1", listening


def test_nothing_to_crawl(tmp_path):
    """No site and no seed; with texts or ready pages that is all there is to do."""
    assert "nothing to crawl" in failure(run(workspace(tmp_path)))
    folder = tmp_path / "data/sources/own"
    (folder / "text").mkdir(parents=True)
    (folder / "origin.json").write_text('{"as": "text"}')
    assert run(tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "data/crawl").iterdir()] == ["origins.json"]


def test_unknown_key_and_wrong_type_name_the_key(tmp_path):
    """Exit code 2 and the key."""
    for changes, key in (({"depht": 3}, "crawl.depht"), ({"depth": "deep"}, "crawl.depth")):
        done = run(workspace(tmp_path, **changes))
        assert done.returncode == 2 and key in done.stderr and "Traceback" not in done.stderr


def test_full_disk_is_one_line_and_keeps_what_was(web, tmp_path):
    """A real full file system of 300 kB: the line says so, the old crawl stays, a rerun with room ends whole."""
    mount = ["unshare", "-rm", "sh", "-c"]
    trial = [*mount, f"mount -t tmpfs none {tmp_path}"]
    if not shutil.which("unshare") or subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("needs a user namespace that may mount tmpfs")
    cwd = workspace(tmp_path / "work", seed=web.url + "/docs/", page_bytes=1_000_000)
    (cwd / "data/crawl").mkdir()
    (cwd / "data/crawl/old").write_text("old")
    line, how = command(cwd)
    (cwd / ".resume").mkdir()
    script = f"mount -t tmpfs -o size=300k none {cwd}/.resume && exec {' '.join(line)}"
    done = subprocess.run([*mount, script], timeout=60, **how)
    assert done.returncode == 1
    assert [text for text in done.stderr.splitlines() if text.startswith("error: the disk is full")], done.stderr
    assert digest(cwd / "data/crawl") == {"old": b"old"}
    assert run(cwd).returncode == 0
