"""Model repositories of both hubs, as a loopback server answers: pinned, checked, and one line where none answers."""

import hashlib
import json
from dataclasses import replace

import pytest

from tasks.data import fetch, hubs
from tasks.data.registry import HubPackage
from tasks.stage import StageError
from tests.data.web import Web

COMMIT = "0123456789abcdef" * 2 + "01234567"
WEIGHTS = b"weights" * 1000


SETTINGS = fetch.Settings([])  # pip is not asked each time


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.setattr(fetch, "pip_settings", lambda: replace(SETTINGS))


@pytest.fixture
def hub(monkeypatch):
    web = Web()
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    tree = [{"type": "file", "path": "config.json", "size": 2, "oid": "a"}, {"type": "directory", "path": "x"},
            {"type": "file", "path": "m.safetensors", "size": 7000, "oid": "b", "lfs": {"oid": sha256}},
            {"type": "file", "path": "old.bin", "size": 1, "oid": "c"}]
    files = [{"Path": "config.json", "Type": "blob"}, {"Path": "x", "Type": "tree"},
             {"Path": "old.bin", "Type": "blob"}, {"Path": "m.safetensors", "Type": "blob", "Sha256": sha256}]
    theirs = f"/api/v1/models/o/m/repo?Revision={COMMIT}&FilePath="
    for path, body in {
            f"/api/models/o/m/tree/{COMMIT}?recursive=true": json.dumps(tree).encode(),
            f"/o/m/resolve/{COMMIT}/config.json": b"{}", f"/o/m/resolve/{COMMIT}/m.safetensors": WEIGHTS,
            f"/api/v1/models/o/m/repo/files?Revision={COMMIT}&Recursive=true":
                json.dumps({"Code": 200, "Data": {"Files": files}}).encode(),
            f"{theirs}config.json": b"{}", f"{theirs}m.safetensors": WEIGHTS}.items():
        web.pages[path] = (200, {"Content-Type": "application/json"}, body)
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", web.url)
    yield web
    web.close()


def package(kind, **changes):
    return HubPackage(**{"name": "m", "kind": kind, "id": "o/m", "revision": COMMIT, "licence": "MIT"} | changes)


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_what_is_asked_for_comes_whole_and_pinned(hub, tmp_path, kind):
    row = hubs.take(package(kind), tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "m.safetensors", "revision.json"]
    assert (tmp_path / "a/m.safetensors").read_bytes() == WEIGHTS
    assert json.loads((tmp_path / "a/revision.json").read_text()) == {"hub": kind, "id": "o/m", "revision": COMMIT}
    assert hubs.take(package(kind, sha256=row["sha256"]), tmp_path / "b") == row
    with pytest.raises(StageError, match="m has sha256 .*, params.yaml pins 0000"):
        hubs.take(package(kind, sha256="0" * 64), tmp_path / "c")
    with pytest.raises(StageError, match="`take` matches no file of o/m"):
        hubs.take(package(kind, take=["*.gguf"]), tmp_path / "d")


def test_what_is_torn_or_not_there_is_one_line(hub, tmp_path):
    hub.pages[f"/o/m/resolve/{COMMIT}/m.safetensors"] = (200, {}, WEIGHTS[:-1])
    with pytest.raises(StageError, match="m.safetensors came with sha256 .* torn on its way"):
        hubs.take(package("huggingface"), tmp_path / "a")
    with pytest.raises(StageError, match=r"o/n at 0123456789ab cannot be had .*\(HTTP 404\): check id and revision"):
        hubs.take(package("huggingface", id="o/n"), tmp_path / "b")
    hub.pages[f"/api/models/o/m/tree/{COMMIT}?recursive=true"] = (
        200, {}, json.dumps([{"type": "file", "path": "../x.json"}]).encode())
    with pytest.raises(StageError, match="outside its folder: refused"):
        hubs.take(package("huggingface"), tmp_path / "c")


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_no_hub_is_one_line_with_the_remedy(monkeypatch, tmp_path, kind):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "http://127.0.0.1:9")
    with pytest.raises(StageError, match=r"cannot be had from .*\(ConnectionError\).*kind: local") as found:
        hubs.take(package(kind), tmp_path / "a")
    assert "\n" not in str(found.value)


def test_a_branch_is_no_pin():
    with pytest.raises(ValueError, match="revision"):
        package("huggingface", revision="main")
