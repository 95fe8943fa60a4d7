"""The crawl against hosts that mean harm, on loopback: slow, endless, lying, redirecting, rebinding."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tasks.data import addresses

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("web", Path(__file__).with_name("web.py"))
web_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(web_module)
PARAMS = {
    "depth": 2, "pages": 100, "page_bytes": 100_000, "delay": 0.0, "concurrency": 8, "retries": 0, "timeout": 1.5,
    "user_agent": "test", "allow_private": True, "shard": 64, "date": "2026-01-01T00:00:00Z",
}
NAMESPACE = ["unshare", "-rn", "sh", "-c"]
PUBLIC = "93.184.215.14"


class Raw:
    """A server that answers each path by a function of the socket: any bytes, at any pace."""

    def __init__(self, answers: dict[str, Callable[[socket.socket], None]]):
        self.answers, self.asked = answers, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection:
            path = connection.recv(65536).split(b" ")[1].decode()
            self.asked.append(path)
            try:
                self.answers.get(path, lambda out: out.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"))(
                    connection)
            except OSError:
                pass


def say(body: bytes, head: str = "", length: int | None = None) -> Callable[[socket.socket], None]:
    """An answer of HTML with any Content-Length."""
    size = len(body) if length is None else length
    return lambda out: out.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{head}Content-Length: {size}\r\n"
                                   "Connection: close\r\n\r\n".encode() + body)


def drip(start: bytes) -> Callable[[socket.socket], None]:
    """A byte every tenth of a second, for a minute: never idle, never done."""
    def slowly(out: socket.socket) -> None:
        out.sendall(start)
        for _ in range(600):
            out.sendall(b"x")
            time.sleep(0.1)
    return slowly


def flood(start: bytes) -> Callable[[socket.socket], None]:
    """Bytes without end."""
    def fast(out: socket.socket) -> None:
        out.sendall(start)
        while True:
            out.sendall(b"<p>again</p>" * 5000)
    return fast


def crawled(cwd: Path, seed: str, environment: dict[str, str] | None = None, inside: list[str] | None = None,
            **changes: object) -> tuple[subprocess.CompletedProcess, dict]:
    """The stage as a process on one seed; (what it did, its row of the metrics or {})."""
    (cwd / "data/sources/site").mkdir(parents=True)
    origin = {"as": "seed", "url": seed, "licence": "CC0-1.0", "language": None, "snapshot": "2026", "year": None}
    (cwd / "data/sources/site/origin.json").write_text(json.dumps(origin))
    (cwd / "params.yaml").write_text(yaml.safe_dump({"crawl": PARAMS | changes}))
    line = [sys.executable, "-m", "tasks.data.crawl", "data/sources", "data/crawl", "metrics/crawl.json"]
    given = environment or {}
    paths = os.pathsep.join(filter(None, [str(ROOT), given.get("PYTHONPATH")]))
    done = subprocess.run([*inside, " ".join(line)] if inside else line, cwd=cwd, timeout=60, capture_output=True,
                          text=True, env=os.environ | given | {"PYTHONPATH": paths})
    metrics = cwd / "metrics/crawl.json"
    assert "Traceback" not in done.stderr, done.stderr
    return done, json.loads(metrics.read_text())["site"] if metrics.exists() else {}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Iterator[tuple[Raw, dict, float]]:
    """One crawl of a site with one of everything; (server, metrics row, seconds)."""
    page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
    bomb = gzip.compress(b"<p>0</p>" * (1 << 23), 9)
    bombs = gzip.compress(bomb, 9)
    names = ("good", "body", "head", "status", "chunk", "endless", "long", "short", "bomb", "bombs", "garbage", "loop",
             "me", "many", "cut", "bad-gzip", "headers", "nothing", "negative", "secret/x")
    server = Raw({
        "/robots.txt": say(b"User-agent: *\nDisallow: /secret/\n"),
        "/": say(web_module.html("Home", *names)),
        "/good": say(web_module.html("Good")),
        "/body": drip(f"{page}Content-Length: 5000\r\n\r\n".encode()),
        "/head": drip(f"{page}X: ".encode()),
        "/status": drip(b"HTTP/1.1 2"),
        "/chunk": drip(f"{page}Transfer-Encoding: chunked\r\n\r\n1;".encode()),
        "/endless": flood(f"{page}\r\n".encode()),
        "/long": say(b"<p>short</p>", length=90_000),
        "/short": say(web_module.html("Short"), length=40),
        "/huge": say(b"x" * 10, length=1 << 40),
        "/bomb": say(bomb, "Content-Encoding: gzip\r\n"),
        "/bombs": say(bombs, "Content-Encoding: gzip, gzip\r\n"),
        "/bad-gzip": say(b"\x1f\x8b\x08 this is not gzip", "Content-Encoding: gzip\r\n"),
        "/garbage": lambda out: out.sendall(os.urandom(5000)),
        "/headers": flood(f"{page}".encode() + b"X: " + b"y" * 100_000),
        "/nothing": lambda out: None,
        "/negative": say(b"<p>x</p>", length=-5),
        "/cut": lambda out: out.sendall(f"{page}Transfer-Encoding: chunked\r\n\r\nff\r\nabc".encode()),
        "/loop": lambda out: out.sendall(b"HTTP/1.1 302 F\r\nLocation: /loop2\r\nContent-Length: 0\r\n\r\n"),
        "/loop2": lambda out: out.sendall(b"HTTP/1.1 302 F\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n"),
        "/me": lambda out: out.sendall(b"HTTP/1.1 301 F\r\nLocation: /me\r\nContent-Length: 0\r\n\r\n"),
        "/many": lambda out: out.sendall(b"HTTP/1.1 307 F\r\nLocation: ////\r\nContent-Length: 0\r\n\r\n"),
    })
    started = time.monotonic()
    done, row = crawled(tmp_path_factory.mktemp("hostile"), server.url + "/")
    assert done.returncode == 0, done.stderr
    yield server, row, time.monotonic() - started
    server.socket.close()


def test_no_hostile_page_hangs_or_ends_the_crawl(hostile):
    """Drips are cut by the deadline of the page, not of an idle line; the good pages are there."""
    _, row, seconds = hostile
    assert row["pages"] >= 3 and seconds < 30, row
    assert row["dropped"]["timeout"] == 4, row


def test_each_has_its_reason(hostile):
    """What was asked for is a page or counted, and by what it was."""
    server, row, _ = hostile
    dropped = row["dropped"]
    assert dropped["robots"] == 1 and "/secret/x" not in server.asked
    assert dropped["redirect_loop"] == 3
    assert dropped["too_large"] == 3  # endless, bomb, bomb in bomb
    assert dropped["cut_off"] >= 2
    assert row["pages"] + sum(dropped.values()) == 21, row
    assert set(dropped) <= {"robots", "redirect_loop", "too_large", "cut_off", "timeout", "broken_answer",
                            "not_a_page"}, dropped


def test_a_site_of_nothing_but_drips_is_given_up(tmp_path):
    """Twenty pages in vain; of the others only those are waited for that are under way: 16 at once, more where a busy
    machine notes late that the twenty are full."""
    slow = {f"/{n}": drip(b"HTTP/1.1 200 OK\r\n\r\n") for n in range(60)}
    server = Raw(slow | {"/": say(web_module.html("Home", *(f"{n}" for n in range(60))))})
    started = time.monotonic()
    done, row = crawled(tmp_path, server.url + "/", timeout=2.0)  # the page that answers has it too
    server.socket.close()
    assert done.returncode == 0 and row["pages"] == 1
    assert 20 <= row["dropped"]["timeout"] < 60 and row["dropped"]["timeout"] + row["dropped"]["gave_up"] == 60
    assert time.monotonic() - started < 40


def test_robots_that_forbid_all_end_in_one_line(tmp_path):
    """Not a single page is asked for."""
    server = Raw({"/robots.txt": say(b"User-agent: *\nDisallow: /\n"), "/": say(web_module.html("Home"))})
    done, _ = crawled(tmp_path, server.url + "/")
    server.socket.close()
    assert done.returncode == 1 and "no page was fetched (robots x1)" in done.stderr
    assert server.asked == ["/robots.txt"]


@pytest.mark.parametrize(("address", "good"), [
    ("93.184.215.14", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
    ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False),
    ("fe80::1", False), ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True),
    ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("240.0.0.1", False),
])
def test_public_addresses(address, good):
    """The ranges of RFC 6890, and what hides one of them in an IPv6 address."""
    assert addresses.public(address) is good


RESOLVER = '''
import ipaddress, os, socket
REAL, PLAN = socket.getaddrinfo, os.environ["DNS_PLAN"].split(",")
def address(host):
    if host != "rebind.test":
        return host
    return PLAN.pop(0) if len(PLAN) > 1 else PLAN[0]
def resolve(host, *args, **how):
    return REAL(address(host.decode() if isinstance(host, bytes) else host), *args, **how)
socket.getaddrinfo = resolve
socket.gethostbyname = lambda host: resolve(host, None)[0][4][0]
'''
SERVER = '''
import http.server, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.server.server_address[0], self.path, flush=True)
        moved = {"/robots.txt": "%(robots)s", "/away": "http://127.0.0.1:8000/secret"}.get(self.path)
        self.send_response(302 if moved else 200)
        if moved: self.send_header("Location", moved)
        body = b"" if moved else b'<html><p>words</p><a href="away">a</a><a href="b">b</a></html>'
        self.send_header("Content-Type", "text/html"); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
for host in ("%(public)s", "127.0.0.1"):
    server = http.server.ThreadingHTTPServer((host, 8000), Handler)
    threading.Thread(target=server.serve_forever).start()
'''


@pytest.fixture
def internet(tmp_path):
    """Runs the stage in a network of its own, where a server has a public address; -> crawl(seed, plan of answers)."""
    setup = f"ip link set lo up && ip addr add {PUBLIC}/32 dev lo"
    if not shutil.which("unshare") or not shutil.which("ip") or subprocess.run(
            [*NAMESPACE, setup], capture_output=True).returncode:
        pytest.skip("needs a network namespace of one's own (unshare, ip)")

    def crawl(seed: str, plan: str, robots: str = "http://127.0.0.1:8000/internal"):
        (tmp_path / "site").mkdir()
        (tmp_path / "site/sitecustomize.py").write_text(RESOLVER)
        (tmp_path / "server.py").write_text(SERVER % {"public": PUBLIC, "robots": robots})
        script = (f"{setup} && {{ {sys.executable} {tmp_path}/server.py > {tmp_path}/asked & }} && sleep 1 && "
                  f"{{ $0; code=$?; kill $!; exit $code; }}").replace("$0", "eval \"$0\"")
        environment = {"PYTHONPATH": str(tmp_path / "site"), "DNS_PLAN": plan} | dict.fromkeys(
            ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "")
        done, row = crawled(tmp_path / "work", seed, environment, [*NAMESPACE, script], allow_private=False)
        return done, row, (tmp_path / "asked").read_text()

    return crawl


def test_redirects_into_the_machine_are_refused(internet):
    """A public site whose robots.txt and whose page lead to loopback: neither is asked for there."""
    done, row, asked = internet("http://rebind.test:8000/", PUBLIC)
    assert done.returncode == 0, done.stderr
    assert row["pages"] == 2 and row["dropped"] == {"out_of_scope": 1}
    assert "127.0.0.1" not in asked and f"{PUBLIC} /robots.txt" in asked


def test_a_name_that_moves_to_loopback_is_refused(internet):
    """DNS rebinding: public when the seed is checked, private when it is connected to."""
    done, _, asked = internet("http://rebind.test:8000/", f"{PUBLIC},127.0.0.1")
    assert done.returncode == 1 and "private_address x1" in done.stderr, done.stderr
    assert asked == ""
