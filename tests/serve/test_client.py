"""The server's life: it starts or says why not, drains on SIGTERM, and never outlives who started it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

from tasks.serve import client


def test_drain_finishes_running_answers(tiny):
    with client.process(tiny / "onnx", threads=1, slots=2) as (server, url):
        answers = []

        def ask():
            answers.append(httpx.post(f"{url}/completions", timeout=60, json={
                "prompt": "The", "max_tokens": 400, "temperature": 0, "ignore_eos": True}))

        asking = threading.Thread(target=ask)
        asking.start()
        root = url.removesuffix("/v1")
        while asking.is_alive() and not re.search(r"catena:num_requests_running{.*} 1.0",
                                                  httpx.get(f"{root}/metrics").text):
            time.sleep(0.005)
        server.send_signal(signal.SIGTERM)
        asking.join(60)
        assert answers[0].status_code == 200 and answers[0].json()["usage"]["completion_tokens"] == 400
        assert server.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{root}/health")


def test_it_dies_with_its_parent(tiny):
    script = ("import sys, time; from pathlib import Path; from tasks.serve import client\n"
              f"with client.process(Path({str(tiny / 'onnx')!r}), threads=1) as (server, url):\n"
              "    print(server.pid, flush=True); time.sleep(60)\n")
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([server], timeout=60)[1] == []


@pytest.mark.parametrize("harm, message", [
    (lambda d: (d / "model.onnx").write_bytes((d / "model.onnx").read_bytes()[:-100]), "model.onnx is damaged"),
    (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    (lambda d: (d / "config.json").write_text("["), "not readable JSON"),
    (lambda d: (d / "model.onnx").unlink(), "neither model.onnx nor model.safetensors"),
    (lambda d: shutil.rmtree(d), "config.json is missing"),
    (lambda d: (d / "manifest.json").write_text("{}"), "manifest.json lists no sha256 of any file: export the model"),
    (lambda d: ((d / "manifest.json").unlink(), (d / "model.onnx").write_bytes(b"junk")), "does not load"),
])
def test_a_broken_model_is_one_clear_line(tiny, tmp_path, harm, message):
    model = tmp_path / "onnx"
    shutil.copytree(tiny / "onnx", model)
    harm(model)
    with pytest.raises(client.ServerError, match=message):
        with client.running(model, threads=1):
            pass


def test_the_model_directory_is_only_read(tiny, tmp_path):
    model = tmp_path / "onnx"
    shutil.copytree(tiny / "onnx", model)
    for path in (*model.iterdir(), model):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path.name: path.stat().st_mtime_ns for path in model.iterdir()}
    with client.running(model, threads=1) as url:
        assert httpx.post(f"{url}/completions", json={"prompt": "The", "max_tokens": 2}).status_code == 200
    assert {path.name: path.stat().st_mtime_ns for path in model.iterdir()} == before


def test_a_taken_port_is_one_line(tiny):
    with client.running(tiny / "onnx", threads=1) as url:
        port = url.split(":")[2].removesuffix("/v1")
        second = subprocess.run([sys.executable, "-m", "tasks.serve.api", str(tiny / "onnx"), "--port", port],
                                capture_output=True, text=True, timeout=60)
    assert second.returncode == 1 and second.stderr.startswith("error: cannot listen on 127.0.0.1:")
    assert second.stderr.count("\n") == 1


def test_the_key_is_asked_for(tiny, tmp_path):
    params = open("params.yaml", encoding="utf-8").read()
    (tmp_path / "params.yaml").write_text(params.replace("api_key: null", "api_key: sesame"))
    server = subprocess.Popen([sys.executable, "-m", "tasks.serve.api", str(tiny / "onnx"), "--port", "0"],
                              cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.getcwd()}, stdout=subprocess.PIPE,
                              text=True)
    try:
        url = server.stdout.readline().split()[1]
        assert httpx.get(f"{url}/models").status_code == 401
        assert httpx.get(f"{url}/models", headers={"Authorization": "Bearer wrong"}).json()["error"]["code"] == \
            "invalid_api_key"
        assert httpx.get(f"{url}/models", headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert httpx.get(url.replace("/v1", "/health")).status_code == 200
    finally:
        server.terminate()
        assert server.wait(60) == 0


def test_terminal_chat(tiny):
    done = subprocess.run([sys.executable, "-m", "tasks.serve.chat", str(tiny / "onnx")], input="Hi\n/new\nYou?\n",
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ready" in done.stderr and done.stdout.strip()
    absent = subprocess.run([sys.executable, "-m", "tasks.serve.chat", "absent"], input="", capture_output=True,
                            text=True, timeout=120)
    assert absent.returncode == 1 and "absent is no model directory" in absent.stderr
