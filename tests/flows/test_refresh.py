"""What a refresh does to the pins of each kind of source."""

from __future__ import annotations

import copy
import hashlib

import pytest

from flows.refresh import RefreshError, refresh, seeds
from tasks import params
from tasks.data import fetch
from tasks.data.registry import SourcesParams
from tests.flows.test_watch import site

PINNED = [
    {"name": "sqlalchemy", "kind": "pypi", "package": "SQLAlchemy", "version": "2.1.9", "file": "s.tar.gz",
     "sha256": "0" * 64, "take": ["*"], "as": "site", "language": "en", "licence": "MIT"},
    {"name": "python", "kind": "pydoc", "as": "site", "modules": ["csv"], "language": "en", "licence": "PSF-2.0"},
    {"name": "hub", "kind": "huggingface", "path": "someone/something", "revision": "main", "snapshot": "2025",
     "language": "en", "licence": "MIT"},
    {"name": "site", "kind": "seed", "url": "https://example.org/docs/", "snapshot": "2025", "language": "en",
     "licence": "MIT"},
]


@pytest.fixture
def places(tmp_path):
    """(checkout, worktree, sources): a folder outside, a committed one, a glob, a data set, and pinned ones."""
    root, place = tmp_path / "root", tmp_path / "root/.retrain/default"
    (place / "committed").mkdir(parents=True)
    (place / "committed/a.txt").write_text("one")
    for name in ("feed", "logs", "set"):
        (root / name).mkdir()
    (root / "feed/a.html").write_text("a page")
    (root / "logs/1.jsonl").write_text("{}\n")
    (root / "set/part.jsonl").write_text("{}\n")
    about = {"snapshot": "2025", "language": "en", "licence": "MIT"}
    corpora = [{"name": "feed", "kind": "local", "as": "site", "path": "feed"} | about,
               {"name": "logs", "kind": "jsonl", "path": "logs/*.jsonl", "sha256": "2" * 64} | about,
               {"name": "set", "kind": "huggingface", "path": str(root / "set"), "revision": "main"} | about, *PINNED]
    packages = [{"name": "committed", "kind": "local", "path": "committed", "licence": "MIT"}]
    return root, place, {"shard": 1 << 20, "corpora": corpora, "packages": packages}


def entries(sources):
    return {entry["name"]: entry for part in ("corpora", "packages") for entry in sources[part]}


def test_first_then_no_change_then_each_change(places):
    root, place, sources = places
    given, first = copy.deepcopy(sources), copy.deepcopy(sources)
    assert len(refresh(first, {}, root, place, "2026-03-01")) == 8
    now = entries(first)
    assert now["feed"]["path"] == str(root / "feed") and now["committed"]["path"] == "committed"
    line = f"{hashlib.sha256(b'a page').hexdigest()}  a.html\n"
    assert now["feed"]["sha256"] == hashlib.sha256(line.encode()).hexdigest() and now["feed"]["snapshot"] == "2025"
    assert now["logs"]["sha256"] == hashlib.sha256(b"{}\n").hexdigest() and now["logs"]["snapshot"] == "2026-03-01"
    assert now["set"]["snapshot"].startswith("2026-03-01-") and "sha256" not in now["set"]
    for entry in PINNED:
        assert now[entry["name"]] == entry
    params.section(SourcesParams, "sources", {"sources": first})   # still what the chain reads
    assert seeds(first) == ["site"]

    again = copy.deepcopy(given)
    assert refresh(again, first, root, place, "2026-03-02") == [] and again == first

    (root / "feed/b.html").write_text("another")
    (root / "logs/2.jsonl").write_text("{}\n")
    (root / "set/part.jsonl").write_text("{} \n")
    (place / "committed/a.txt").write_text("two")
    changed = copy.deepcopy(given)
    changed["corpora"] = [entry for entry in changed["corpora"] if entry["name"] != "hub"]
    assert refresh(changed, first, root, place, "2026-03-03") == [
        "feed (changed)", "logs (changed)", "set (changed)", "hub (gone)", "committed (changed)"]
    assert entries(changed)["feed"]["snapshot"] == "2026-03-03"


def test_a_file_of_the_web_is_pinned_to_what_is_there_now(tmp_path, monkeypatch):
    monkeypatch.setenv("CATENA_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    with site(validator="ETag", body=b'{"text": "one"}\n') as (handler, url):
        entry = {"name": "far", "kind": "jsonl", "url": f"{url}a.jsonl", "snapshot": "2025", "language": "en",
                 "licence": "MIT", "sha256": hashlib.sha256(handler.body).hexdigest()}

        def refreshed(champion, day):
            now = {"shard": 1 << 20, "corpora": [dict(entry)], "packages": []}
            return refresh(now, champion, tmp_path, tmp_path, day), now

        assert refreshed({"corpora": [entry], "packages": []}, "2026-03-01")[0] == []   # as pinned by hand
        sent = handler.bodies
        changed, champion = refreshed({"corpora": [entry], "packages": []}, "2026-03-02")
        assert changed == [] and handler.bodies == sent   # 304: not sent again
        handler.body = b'{"text": "two"}\n'
        changed, challenger = refreshed(champion, "2026-03-03")
        found, pinned = challenger["corpora"][0], hashlib.sha256(handler.body).hexdigest()
        assert changed == ["far (changed)"] and (found["snapshot"], found["sha256"]) == ("2026-03-03", pinned)
        assert (tmp_path / "downloads" / pinned).read_bytes() == handler.body   # the stage need not fetch it again
        assert refreshed(champion, "2026-03-04")[0] == ["far (changed)"]   # it was kept: the next try sees it too
        handler.body = b""
        with pytest.raises(RefreshError, match=r"source far: http://127.0.0.1:\d+/a.jsonl cannot be .*HTTP 500"):
            refreshed(challenger, "2026-03-05")


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda root: (root / "feed").rename(root / "away"), "source feed: path .*/feed is not a directory here"),
    (lambda root: (root / "logs/1.jsonl").unlink(), "source logs: path .*/logs/\\*.jsonl is no file here"),
    (lambda root: (root / "feed/a.html").unlink() or (root / "feed/a.html").symlink_to("/etc/hosts"),
     "source feed: .* leads out of .*: refused"),
])
def test_a_source_that_is_not_to_be_had_is_named(places, spoil, said):
    root, place, sources = places
    spoil(root)
    with pytest.raises(RefreshError, match=said):
        refresh(sources, {}, root, place, "2026-03-01")
