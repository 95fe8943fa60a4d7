"""Pages of allowed hosts, over a loopback server; a redirect is no way around the list."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.agents.actions import fetch
from tasks.agents.tools import ActionError

PAGES = {
    "/page": ("text/html; charset=utf-8", "<html><body><article><p>" + "Tea is grown in Fujian. " * 20 +
              "</p></article><script>x()</script></body></html>"),
    "/plain": ("text/plain; charset=utf-8", "茶"),
    "/picture": ("image/png", "x"),
    "/huge": ("text/plain", "a" * 3_000_000),
}


@pytest.fixture
def host():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
                return
            kind, text = PAGES.get(self.path, ("text/plain", "no"))
            self.send_response(200 if self.path in PAGES else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            try:
                self.wfile.write(text.encode())
            except OSError:
                pass    # the reader has had enough

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_reads_text(host):
    assert fetch.text_of(f"http://{host}/plain", [host]) == "茶"
    page = fetch.text_of(f"http://{host}/page", [host])
    assert "grown in Fujian" in page and "x()" not in page
    assert len(fetch.text_of(f"http://{host}/huge", [host])) == fetch.BYTES
    assert fetch.text_of(f"http://{host}/to?/plain", [host]) == "茶"


@pytest.mark.parametrize("url, shown", [
    ("http://{host}/picture", "no text"), ("http://{host}/none", "404"),
    ("http://{host}/to?http://localhost:1/x", "not allowed"),
    ("http://{host}/to?file:///etc/passwd", "fetch:"), ("http://127.0.0.1/", "not allowed"),
    ("file:///etc/passwd", "no plain"),
    ("http://user:pw@{host}/", "no plain"), ("http://{host}@example.com/", "no plain"), ("http://[::1", "no address"),
    ("gopher://{host}/", "no plain"),
    ("http://{host}/to?/to?/to?/to?/to?/plain", "redirects"), ("http://x:99999/", "no address"),
])
def test_refusals(host, url, shown):
    with pytest.raises(ActionError, match=shown) as error:
        fetch.text_of(url.format(host=host), [host])
    assert "\n" not in str(error.value)


def test_an_allowed_host_that_is_gone():
    with pytest.raises(ActionError, match="ConnectError"):
        fetch.text_of("http://127.0.0.1:9/", ["127.0.0.1:9"])
