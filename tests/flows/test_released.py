"""A promotion under load: the server of the current release takes the next one on, and no stream is cut for it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch

from flows import release
from flows.environment import stage_environment
from tasks.serve import client
from tasks.serve.digest import digest
from tests.flows.conftest import ROOT, sh
from tests.flows.releasing import git, repository
from tests.serve import tiny

PIPELINE = """
stages:
  train:
    cmd: mkdir -p models/t && cp -r given models/t/int4
    deps: [given]
    outs: [models/t/int4]
"""
PARAMS = """
served: [t]
runtime: {threads: 1, workers: 1, executor: local, device: cpu, host: 127.0.0.1, port: 0, slots: 4, api_key: null,
  log_level: INFO, hostfile: null, evaluators: 1}
"""
TOKENS, CLIENTS = 400, 2
PAUSE = 0.1   # seconds between a client's streams: two cores are shared with the tests beside this one
PATIENCE = 120


def given(root: Path, seed: int) -> None:
    """Another model as what the chain makes in `root`."""
    with torch.random.fork_rng():
        model = tiny.write_chat(root / "chat")
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.05)
    tiny.write_int4(root / "chat", model, root / "given")
    done = sh(sys.executable, "-m", "dvc", "repro", "-q", cwd=root)
    assert done.returncode == 0, done.stderr


def promote(root: Path) -> release.Release:
    return release.promote(root, root, git(root, "rev-parse", "HEAD"), "a test", [
        ("Champion", now.tag if (now := release.current(root)) else "")], now, ["params.yaml", "dvc.lock"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose release/1 is a tiny model that can be served."""
    made = repository(tmp_path / "check out", tmp_path)
    (made / "dvc.yaml").write_text(PIPELINE)
    (made / "params.yaml").write_text(PARAMS)
    git(made, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qam", "a model that can be served")
    given(made, 1)
    promote(made)
    return made


def environment(root: Path) -> dict[str, str]:
    """Of a process of this checkout's code in `root`."""
    return stage_environment(root) | {"PYTHONPATH": str(ROOT)}


class Client(threading.Thread):
    """Streams one completion after another until told to stop; `answers`: (digest of the model, text) of each."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self.url, self.answers, self.fault, self.stopping = url, [], None, False

    def run(self) -> None:
        try:
            with httpx.Client(timeout=PATIENCE, trust_env=False) as http:
                while not self.stopping:
                    self.answers.append(streamed(http, self.url))
                    time.sleep(PAUSE)
        except Exception as error:
            self.fault = error


def streamed(http: httpx.Client, url: str) -> tuple[str, str]:
    """One answer, read to its end; AssertionError where it was refused, cut short or has no end."""
    body = {"prompt": "The quick", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}
    with http.stream("POST", f"{url}/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    parts = [json.loads(line) for line in lines[:-1]]
    choices = [choice for part in parts for choice in part["choices"]]
    assert lines[-1] == "[DONE]" and choices[-1]["finish_reason"] == "length", lines[-3:]
    assert parts[-1]["usage"]["completion_tokens"] == TOKENS
    return answer.headers["x-model-digest"], "".join(choice["text"] for choice in choices)


def served_by(clients: list[Client], model: str) -> None:
    """Wait until every client has had an answer of `model` that it had not when this was called."""
    had, end = [len(each.answers) for each in clients], time.monotonic() + PATIENCE
    while not all(any(one == model for one, _ in each.answers[at:]) for each, at in zip(clients, had)):
        assert not any(each.fault for each in clients), [each.fault for each in clients]
        assert time.monotonic() < end, f"{model} does not answer"
        time.sleep(0.05)


def test_a_promotion_and_the_way_back_drop_no_stream(root, tmp_path):
    models = subprocess.run([sys.executable, "-m", "flows.release", "models"], cwd=root, env=environment(root),
                            capture_output=True, text=True)   # as ./run serve --released does
    assert models.stdout.split() == ["t=.releases/models/t"], models.stderr
    given(root, 2)
    log = (tmp_path / "log").open("w+", encoding="utf-8")
    server = subprocess.Popen([sys.executable, "-m", "tasks.serve.api", *models.stdout.split()], cwd=root, stdout=log,
                              stderr=subprocess.STDOUT, env=environment(root))
    clients: list[Client] = []
    try:
        clients += [Client(client.wait_ready(server, log)) for _ in range(CLIENTS)]
        first = digest(root / ".releases/1/models/t/int4")
        for each in clients:
            each.start()
        served_by(clients, first)
        promote(root)
        second = digest(root / ".releases/2/models/t/int4")
        assert second != first
        served_by(clients, second)
        release.rollback(root, reason="worse in use")
        served_by(clients, first)
    finally:
        for each in clients:
            each.stopping = True
        for each in clients:
            each.join(PATIENCE)
        server.terminate()
        server.wait(PATIENCE)
        log.close()
    assert [each.fault for each in clients] == [None] * CLIENTS
    said: dict[str, set[str]] = {}
    for each in clients:
        for model, text in each.answers:
            said.setdefault(model, set()).add(text)
    # each model gives its own answer, the same whether it was being replaced or not: no stream changed hands
    assert {model: len(texts) for model, texts in said.items()} == {first: 1, second: 1}
    assert said[first] != said[second]
