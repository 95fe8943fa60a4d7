"""What counts as a change of a watched source: content, twice the same; and what does not."""

from __future__ import annotations

import contextlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from flows import watch
from flows.watch import Source
from tasks import params
from tasks.data import fetch

AGENT, WEB = "test", fetch.Settings([])


def changed(source: Source, notes: dict, times: int = 1) -> list[str]:
    """The changes of so many looks, each told at once."""
    found = []
    for _ in range(times):
        names, failed = watch.look([source], notes, AGENT, WEB)
        assert not failed
        watch.told(names, notes)
        found += names
    return found


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "inbox/deep").mkdir(parents=True)
    (tmp_path / "inbox/deep/a.txt").write_text("one")
    return tmp_path / "inbox"


@pytest.mark.parametrize("place", ["directory", "glob"])
def test_a_changed_file_is_told_once_and_only_when_it_rests(inbox, place):
    source = Source("mine", str(inbox) if place == "directory" else f"{inbox}/**/*.txt", ("*.txt",))
    notes: dict = {}
    assert changed(source, notes, 3) == []  # the first look notes down what is there
    (inbox / "deep/a.txt").write_text("two: half of i")
    assert changed(source, notes) == []     # it may still be growing
    (inbox / "deep/a.txt").write_text("two: half of it, and the rest")
    assert changed(source, notes) == []
    assert changed(source, notes, 3) == ["mine"]
    (inbox / "deep/a.txt").unlink()
    assert changed(source, notes, 3) == ["mine"]


def test_a_touched_file_and_one_that_is_not_taken_are_no_change(inbox):
    source, notes = Source("mine", str(inbox), ("*.txt",)), {}
    changed(source, notes)
    os.utime(inbox / "deep/a.txt", (1, 1))
    (inbox / "b.pdf").write_text("no text")
    assert changed(source, notes, 3) == []


def test_news_that_did_not_arrive_is_told_again_after_a_restart_too(inbox, tmp_path):
    source, heard = Source("mine", str(inbox)), []

    def deaf(names):
        raise ConnectionError("ConnectError")

    looks = watch.rounds([source], tmp_path / "notes.json", AGENT, deaf)
    assert next(looks) == []
    (inbox / "new.txt").write_text("new")
    assert next(looks) == []
    assert next(looks) == ["changed: mine; Prefect does not answer (ConnectError), trying again"]
    looks = watch.rounds([source], tmp_path / "notes.json", AGENT, heard.extend)
    assert next(looks) == ["changed: mine; a retraining was asked for"] and heard == ["mine"]
    assert next(looks) == []


def test_a_source_that_is_away_is_said_once_and_its_state_is_kept(inbox, tmp_path):
    source, heard = Source("mine", str(inbox)), []
    looks = watch.rounds([source], tmp_path / "notes.json", AGENT, heard.extend)
    next(looks)
    inbox.rename(tmp_path / "away")
    assert next(looks) == [f"cannot look at mine: {inbox} is not there"]
    assert next(looks) == []
    (tmp_path / "away").rename(inbox)
    assert next(looks) == ["mine can be reached again"]
    assert next(looks) == [] and heard == []


class Site(BaseHTTPRequestHandler):
    """A page with the validators that the test asks for; counts the bodies it sent."""

    body, validator, bodies, nonce = b"one", None, 0, False

    def do_GET(self):
        site = type(self)
        tags = {"ETag": f'"{hash(site.body)}"', "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
        if site.validator == "ETag" and self.headers["If-None-Match"] == tags["ETag"]:
            self.send_response(304)
            return self.end_headers()
        site.bodies += 1
        body = site.body + str(site.bodies).encode() * site.nonce
        self.send_response(200 if site.body else 500)
        if site.validator:
            self.send_header(site.validator, tags[site.validator])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Silent."""


@contextlib.contextmanager
def site(**values):
    """(handler class, URL) of a site on loopback."""
    handler = type("OneSite", (Site,), values)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("validator, sent", [("ETag", 2), ("Last-Modified", 7), (None, 7)])
def test_a_page_is_compared_by_content_and_spared_where_it_has_an_etag(validator, sent):
    with site(validator=validator) as (handler, url):
        source, notes = Source("docs", url), {}
        assert changed(source, notes, 3) == []
        handler.body = b"two"  # a server that lies by Last-Modified is found out by its body
        assert changed(source, notes) == [] and changed(source, notes, 3) == ["docs"]
        assert handler.bodies == sent


def test_a_page_that_is_never_twice_the_same_starts_nothing():
    with site(nonce=True) as (_, url):
        assert changed(Source("docs", url), {}, 5) == []


def test_a_failing_or_endless_page_is_unreachable(monkeypatch):
    with site(body=b"") as (handler, url):
        notes: dict = {}
        assert watch.look([Source("docs", url)], notes, AGENT, WEB) == ([], {"docs": f"{url}: HTTP 500"})
        handler.body = b"x" * 2000
        monkeypatch.setattr(watch, "LARGEST", 1000)
        assert "larger than" in watch.look([Source("docs", url)], notes, AGENT, WEB)[1]["docs"]


def test_what_is_watched_comes_from_the_sources_and_pinned_packages_are_left_out(tmp_path):
    values = params.load()
    assert watch.sources(values, []) == []  # the default run reads pinned packages alone
    values["sources"]["corpora"] += yaml.safe_load("""
    - {name: mine, kind: local, snapshot: "1", path: notes, take: ["*.md"], as: text, language: en, licence: none}
    - {name: docs, kind: seed, snapshot: "1", url: "https://example.org/docs/", language: en, licence: none}
    """)
    assert watch.sources(values, ["more/*.txt"]) == [
        Source("mine", "notes", ("*.md",)), Source("docs", "https://example.org/docs/"),
        Source("more/*.txt", "more/*.txt")]


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff"])
def test_broken_notes_are_no_notes(tmp_path, text):
    (tmp_path / "n").write_bytes(text.encode(errors="surrogateescape"))
    assert watch.read_notes(tmp_path / "n") == {}
