"""The page's files over HTTP: what is served, under which headers, and what is not."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tasks.serve import web
from tasks.serve.limits import Guard

FOLDER = Path(web.__file__).parent / "web"


@pytest.fixture
def http():
    """An application with one endpoint behind a key, and the page."""
    app = FastAPI()
    app.add_middleware(Guard, api_key="sesame")
    web.add(app)
    app.get("/v1/models")(lambda: "secret")
    return TestClient(app)


def test_every_file_is_served_without_the_key_and_nothing_else_is(http):
    assert http.get("/").content == (FOLDER / "index.html").read_bytes()
    for path in FOLDER.iterdir():
        if path.name != "index.html":
            answer = http.get(f"/web/{path.name}")
            kind = {".js": "text/javascript", ".css": "text/css"}[path.suffix]
            assert answer.content == path.read_bytes() and answer.headers["content-type"].startswith(kind)
    for path in ("/v1/models", "/web", "/web/", "/web/../api.py", "/web/%2e%2e/api.py", "/web/index.html"):
        assert http.get(path).status_code == 401, path
    assert http.post("/").status_code == 401 and http.head("/").status_code == 200 and http.head("/").content == b""


def test_headers_and_revalidation(http):
    answer = http.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and policy["require-trusted-types-for"] == "'script'"
    again = http.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == answer.headers["etag"]
    assert http.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


def test_nothing_comes_from_elsewhere():
    for path in FOLDER.iterdir():
        text = path.read_text("utf-8")
        assert not re.search(r"""(src|href|import|from|url|fetch)[\s=(:]{0,3}["'](https?:)?//""", text), path
        assert "innerHTML" not in text and "eval(" not in text and text.count("\n") < 400
    loaded = set(re.findall(r'"web/([\w.]+)"', (FOLDER / "index.html").read_text("utf-8")))
    assert loaded == {path.name for path in FOLDER.iterdir()} - {"index.html"}


def test_the_real_server_serves_it(server):
    assert httpx.get(server[1].removesuffix("v1")).text.startswith("<!doctype html>")
