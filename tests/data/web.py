"""A scripted web site on loopback for the crawl's tests: what each path answers, and what was asked for."""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GBK = "北京的秋天天空很高，香山的红叶吸引了许多游人前来观看。"


def html(title: str, *links: str, words: int = 60, head: str = "") -> bytes:
    """A page with enough prose to be kept, and links."""
    prose = " ".join(f"{title} sentence number {n} tells of rivers and bridges." for n in range(words))
    anchors = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    return (f"<html><head>{head}<title>{title}</title></head><body><main><h1>{title}</h1><p>{prose}</p>"
            f"<ul>{anchors}</ul></main></body></html>").encode()


class Web:
    """The server: `pages` maps paths to (status, headers, body); `flaky` paths fail so many times first."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.delay = 0.0
        self.flaky: dict[str, int] = {}
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.asked[self.path] += 1
                time.sleep(web.delay)
                status, headers, body = web.pages.get(self.path, (404, {}, b"nothing"))
                if web.asked[self.path] <= web.flaky.get(self.path, 0):
                    status, headers, body = 503, {}, b"later"
                self.send_response(status)
                headers = {"Content-Type": "text/html"} | headers | {"Content-Length": str(len(body))}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()


def varied(web: Web) -> None:
    """The site of the tests: below /docs/ in scope, with one of everything that a crawl meets."""
    page = {"Content-Type": "text/html; charset=utf-8"}
    web.pages = {
        "/robots.txt": (200, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /docs/secret\n"),
        "/docs/": (200, page, html(
            "Home", "a.html", "moved", "secret.html", "gbk.html", "flaky.html", "away", "huge.html", "gone.html",
            "packed.html", "data?x=1", "/other/out.html", "http://elsewhere.invalid/", "mailto:x@y.invalid", "#top",
            "dead.html", "nothing.html")),
        "/docs/a.html": (200, page, html("A", "b.html", "../docs/a.html#again")),
        "/docs/b.html": (200, page, html("B", "c.html")),
        "/docs/c.html": (200, page, html("C", "d.html")),
        "/docs/d.html": (200, page, html("D")),
        "/docs/moved": (301, {"Location": "/docs/target.html"}, b""),
        "/docs/target.html": (200, page, html("Target")),
        "/docs/secret.html": (200, page, html("Secret")),
        "/docs/away": (302, {"Location": "/other/out.html"}, b""),
        "/other/out.html": (200, page, html("Outside")),
        "/docs/gbk.html": (200, {"Content-Type": "text/html"}, (
            '<html><head><meta charset="gbk"><title>秋</title></head><body><main><h1>秋天</h1>'
            + "".join(f"<p>{GBK}</p>" for _ in range(20)) + "</main></body></html>").encode("gbk")),
        "/docs/flaky.html": (200, page, html("Flaky")),
        "/docs/huge.html": (200, page, html("Huge", words=4000)),
        "/docs/packed.html": (200, page | {"Content-Encoding": "gzip"}, gzip.compress(html("Packed"), mtime=0)),
        "/docs/data?x=1": (200, {"Content-Type": "application/octet-stream"}, b"\0" * 100),
        "/docs/dead.html": (500, {}, b"broken"),
        "/docs/nothing.html": (200, page, b""),
    }
    web.flaky = {"/docs/flaky.html": 2}
