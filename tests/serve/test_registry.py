"""Several models behind one port, and one exchanged for another while it answers."""

import asyncio
import hashlib
import json
import shutil

import httpx
import pytest

from tasks.serve.app import application
from tasks.serve.digest import digest
from tasks.serve.engine.directory import ModelError
from tasks.serve.errors import ApiError
from tasks.serve.registry import Registry
from tasks.serve.schemas import CompletionBody

LONG = CompletionBody(prompt="The quick", max_tokens=300, temperature=0, ignore_eos=True)
KEY = {"Authorization": "Bearer k"}


def promoted(tiny, to, *, damaged=False):
    """A copy of the tiny export with another config (so another digest), or with a weight's byte changed."""
    shutil.copytree(tiny / "onnx", to)
    config, manifest = to / "config.json", to / "manifest.json"
    config.write_text(config.read_text() + "\n")
    sums = json.loads(manifest.read_text())
    sums["sha256"]["config.json"] = hashlib.sha256(config.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(sums))
    if damaged:
        weights = bytearray((to / "model.onnx").read_bytes())
        weights[len(weights) // 2] ^= 1
        (to / "model.onnx").write_bytes(weights)
    return to


@pytest.fixture
def link(tiny, tmp_path):
    at = tmp_path / "current"
    at.symlink_to(tiny / "onnx")
    return at


def repoint(link, to):
    link.unlink()
    link.symlink_to(to)


def test_the_digest_is_of_the_files_with_and_without_a_manifest(tiny, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny / "onnx", copy)
    (copy / "manifest.json").unlink()
    assert digest(copy) == digest(tiny / "onnx") != digest(tiny / "chat")
    (copy / "config.json").write_text("{}")
    assert digest(copy) != digest(tiny / "onnx")


def test_a_promoted_model_takes_over_and_no_answer_is_cut(tiny, link, tmp_path):
    async def run():
        registry = Registry({"m": link}, threads=1, slots=2)
        try:
            old = registry.find().service
            alone = (await (await old.complete(LONG)).whole())[0].tokens
            running = await old.complete(LONG)
            assert (await registry.swap("m"))["status"] == "unchanged"
            repoint(link, promoted(tiny, tmp_path / "next"))
            outcome = await registry.swap("m")
            new = registry.find("m").service
            assert outcome == {"model": "m", "status": "swapped", "previous": old.digest, "digest": new.digest}
            assert new is not old and old.digest == digest(tiny / "onnx") != new.digest
            answers = await asyncio.gather(running.whole(), (await new.complete(LONG)).whole())
            assert [answer[0].tokens for answer in answers] == [alone, alone]
            for _ in range(1200):
                if not old.engine.thread.is_alive():
                    break
                await asyncio.sleep(0.05)
            assert not old.engine.thread.is_alive() and new.engine.alive() and (old.users, new.users) == (0, 0)
        finally:
            registry.close()

    asyncio.run(run())


def test_a_bad_model_is_refused_and_the_old_one_serves(tiny, link, tmp_path):
    async def run():
        registry = Registry({"m": link}, threads=1, slots=2)
        app = application(registry, "k")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
            before = (await http.get("/v1/models", headers=KEY)).json()["data"][0]["digest"]
            repoint(link, promoted(tiny, tmp_path / "bad", damaged=True))
            refused = await http.post("/admin/swap", json={"model": "m"}, headers=KEY)
            assert refused.status_code == 409 and "damaged" in refused.json()["error"]["message"]
            repoint(link, tmp_path / "absent")
            assert (await http.post("/admin/swap", json={"model": "m"}, headers=KEY)).status_code == 409
            answer = await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=KEY)
            assert answer.status_code == 200 and answer.headers["x-model-digest"] == before == digest(tiny / "onnx")
            assert (await http.post("/admin/swap", json={"model": "m"})).status_code == 401
            given = await http.post("/v1/messages", json={"model": "m", "max_tokens": 1, "messages": [
                {"role": "user", "content": "a"}]}, headers={"x-api-key": "k"})
            assert given.status_code == 200
            wrong = await http.post("/v1/messages", json={}, headers={"x-api-key": "no"})
            assert wrong.json()["error"]["type"] == "authentication_error"
            assert (await http.get("/health")).status_code == 200
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application(registry)), base_url="http://x") as http:
            assert (await http.post("/admin/swap", json={"model": "m"})).status_code == 403
        registry.close()

    asyncio.run(run())


def test_a_moved_link_is_seen(tiny, link, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tasks.serve.registry.WATCH_SECONDS", 0.02)

    async def run():
        registry = Registry({"m": link}, threads=1, slots=2)
        watching = asyncio.create_task(registry.watch())
        old = registry.find().service
        repoint(link, promoted(tiny, tmp_path / "bad", damaged=True))
        await asyncio.sleep(0.3)
        assert registry.find().service is old
        repoint(link, promoted(tiny, tmp_path / "next"))
        for _ in range(1200):
            if registry.find().service is not old:
                break
            await asyncio.sleep(0.05)
        assert registry.find().service.digest == digest(tmp_path / "next")
        watching.cancel()
        registry.close()

    asyncio.run(run())
    said = capsys.readouterr().err
    assert said.count("refused") == 1 and said.count("swapped") == 1


def test_models_are_found_by_name(tiny, link):
    registry = Registry({"first": tiny / "onnx", "second": link}, threads=1, slots=1)
    assert [target.name for target in registry.targets()] == ["first", "second"]
    assert registry.find(None).name == registry.find("default").name == "first"
    assert registry.find("second").service is not registry.find("first").service
    with pytest.raises(ApiError, match="'first', 'second'") as refused:
        registry.find("third")
    assert refused.value.status == 404 and refused.value.param == "model"
    for name in ("first", "second"):
        assert f'catena:num_requests_running{{model_name="{name}"}}' in registry.exposition.text().decode()
    registry.close()
    assert not registry.alive()


def test_an_absent_directory_or_adapter_stops_the_start(tiny, tmp_path):
    with pytest.raises(ModelError, match="no model directory"):
        Registry({"a": tiny / "onnx", "b": tmp_path}, threads=1, slots=1)
    with pytest.raises(ModelError, match="adapter_config.json"):
        Registry({"a": tiny / "onnx"}, {"lora": tmp_path}, threads=1, slots=1)
