"""Serves unpacked web sites on loopback, one free port, the site chosen by the Host header.

The crawl reads them over real HTTP yet records them under the address they have in the world, so the bytes do not
depend on the port. No header tells the time or the machine.
"""

from __future__ import annotations

import contextlib
import mimetypes
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@contextlib.contextmanager
def served(sites: dict[str, Path]) -> Iterator[int]:
    """Serve each folder under its URL (`https://host/prefix/` -> folder) while the context lasts; yields the port."""
    mounts = {}
    for url, folder in sites.items():
        parts = urlsplit(url)
        mounts.setdefault(parts.netloc, []).append((parts.path, folder.resolve()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"mounts": mounts}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """GET of files below the mounted folders; a folder is its index.html, a folder without slash a redirect."""

    protocol_version = "HTTP/1.1"
    mounts: dict[str, list[tuple[str, Path]]] = {}

    def do_GET(self) -> None:
        """Answer one request."""
        path = unquote(urlsplit(self.path).path)
        found = self.locate(path)
        if found is not None and found.is_dir():
            if not path.endswith("/"):
                return self.answer(301, b"", {"Location": urlsplit(self.path).path + "/"})
            found = found / "index.html"
        if found is None or not found.is_file():
            return self.answer(404, b"not here\n", {"Content-Type": "text/plain"})
        kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        return self.answer(200, found.read_bytes(), {"Content-Type": kind})

    def locate(self, path: str) -> Path | None:
        """The file or folder at a URL path of the asked host; None where nothing is or where it leads out."""
        for prefix, folder in self.mounts.get(self.headers.get("Host", ""), []):
            if path == "/robots.txt" and (folder / "robots.txt").is_file():
                return folder / "robots.txt"
            if path.startswith(prefix) and "\0" not in path:
                found = (folder / path[len(prefix):]).resolve()
                return found if found.is_relative_to(folder) and found.exists() else None
        return None

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Write the whole response, without Date and Server."""
        self.send_response_only(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The crawl keeps the log."""
