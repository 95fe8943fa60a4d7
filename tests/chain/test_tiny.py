"""The whole chain, tiny, twice from nothing in two copies of this checkout, each with a cache of its own.

One copy runs by Prefect and is killed while it pretrains, then goes on; the other runs by plain `dvc repro`
without a stop. Both must end in the same bytes, weights included. No network: every proxy leads nowhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from flows import server, workspace
from tests.flows.conftest import ends

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"
pytestmark = pytest.mark.timeout(1500)


def copy_of_checkout(place: Path) -> Path:
    """This checkout's files as they are, committed to a repository of their own, with our installation."""
    place.mkdir(parents=True)
    for path in workspace.files(ROOT):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, place / path)
    (place / "dvc.lock").unlink(missing_ok=True)
    for command in (["init", "-q"], ["add", "-A"],
                    ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    programs = place / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f"#!{shutil.which('bash')}\nexec '{sys.executable}' \"$@\"\n")
    (programs / "python").chmod(0o755)
    pins = (place / "pyproject.toml").read_bytes() + (place / "constraints.txt").read_bytes()
    stamp = subprocess.run(["git", "hash-object", "--stdin"], input=pins, capture_output=True, cwd=place, check=True)
    (place / ".venv/.installed").write_bytes(stamp.stdout)
    return place


def start(checkout: Path, *words: str, log: Path) -> subprocess.Popen[bytes]:
    """`./run --profile tiny WORDS` in a checkout, without a network, its output in `log`."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "DVC_", "HF_"))}
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PIP_INDEX_URL"):
        env[name] = NOWHERE
    for name in ("no_proxy", "NO_PROXY"):
        env.pop(name, None)
    with log.open("ab") as sink:
        return subprocess.Popen([str(checkout / "run"), "--profile", "tiny", *words], env=env, stdout=sink,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes], log: Path) -> str:
    code = process.wait(timeout=1200)
    output = log.read_text(errors="replace")
    assert code == 0, output[-6000:]
    return output


def outs(checkout: Path) -> dict[str, str]:
    lock = yaml.safe_load((checkout / ".profiles/tiny/dvc.lock").read_text())
    return {out["path"]: out["md5"] for entry in lock["stages"].values() for out in entry["outs"]}


def kill_while_pretraining(process: subprocess.Popen[bytes], inside: Path, log: Path) -> int:
    """SIGKILL the flow once pretraining has left a checkpoint to resume from; the pid of the stage it had started."""
    end = time.monotonic() + 900
    while not any((inside / ".resume").glob("pretrain-scratch/*/step-*")):
        assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-6000:]
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    flow = next(child for child in family if "flows.chain" in child.cmdline())
    stage = next(child for child in family if "tasks.pretrain.trainer" in child.cmdline())
    flow.kill()
    return stage.pid


def end_family(process: subprocess.Popen[bytes]) -> None:
    """Kill what a test that failed left running."""
    if process.poll() is None:
        for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            member.kill()
        process.wait()


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """(checkout, output of both runs) by Prefect, killed once; its server is stopped in the end."""
    top = tmp_path_factory.mktemp("by-prefect")
    checkout, log = copy_of_checkout(top / "a check out"), top / "log"
    process = start(checkout, log=log)
    try:
        stage = kill_while_pretraining(process, checkout / ".profiles/tiny", log)
        assert process.wait(timeout=60) != 0
        ends(stage)
        finish(start(checkout, log=log), log)
        yield checkout, log
    finally:
        end_family(process)
        server.stop(checkout / ".prefect")
        shutil.rmtree(top, ignore_errors=True)


def test_a_killed_run_and_a_plain_repro_end_in_the_same_bytes(killed_and_resumed, tmp_path):
    checkout, log = killed_and_resumed
    assert "1 earlier run killed; closed as Crashed" in log.read_text()
    plain = copy_of_checkout(tmp_path / "plain")
    finish(start(plain, "repro", log=tmp_path / "log"), tmp_path / "log")
    assert outs(checkout) == outs(plain)
    assert {"models/scratch/base", "models/scratch/onnx", "data/corpus"} <= set(outs(plain))
    assert (checkout / ".profiles/tiny/dvc.lock").read_bytes() == (plain / ".profiles/tiny/dvc.lock").read_bytes()


def test_the_server_tells_the_dead_run_from_the_living(killed_and_resumed):
    checkout, _ = killed_and_resumed
    port = json.loads((checkout / ".prefect/server.json").read_text())["port"]
    runs = httpx.post(f"http://127.0.0.1:{port}/api/flow_runs/filter", json={"sort": "START_TIME_ASC"}).json()
    assert [run["state"]["name"] for run in runs][:2] == ["Crashed", "Completed"]
    tasks = httpx.post(f"http://127.0.0.1:{port}/api/task_runs/filter",
                       json={"flow_runs": {"id": {"any_": [runs[0]["id"]]}}}).json()
    assert "Crashed" in {task["state"]["name"] for task in tasks if task["name"] == "pretrain@scratch"}
    shown = httpx.post(f"http://127.0.0.1:{port}/api/artifacts/latest/filter", json={}).json()
    assert {"retention", "data-picture", "loss-curve", "scores"} <= {artifact["key"] for artifact in shown}


def test_again_is_nothing_to_do_and_the_end_says_where_all_is(killed_and_resumed, tmp_path):
    checkout, _ = killed_and_resumed
    begin = time.monotonic()
    output = finish(start(checkout, log=tmp_path / "log"), tmp_path / "log")
    assert time.monotonic() - begin < 90
    states = [line for line in output.splitlines() if " Cached [" in line]
    lock = yaml.safe_load((checkout / ".profiles/tiny/dvc.lock").read_text())
    assert len(states) == len(lock["stages"]) and f"{len(states)} Cached" in output
    inside = checkout / ".profiles/tiny"
    for line in (f"report:  {inside}/report/index.html", f"model:   {inside}/models/scratch",
                 "chat:    ./run --profile tiny chat scratch", "serve:   ./run --profile tiny serve scratch"):
        assert line in output
    assert (inside / "report/index.html").stat().st_size > 5000


@pytest.mark.parametrize("command", ["status --json", "dag", "metrics show", "plots show -o .runtime/plots"])
def test_dvc_users_find_what_they_expect(killed_and_resumed, command):
    checkout, _ = killed_and_resumed
    words = command.split()
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=checkout / ".profiles/tiny", capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    if words[0] == "status":
        assert json.loads(done.stdout) == {}
    if words[0] in ("metrics", "dag"):
        assert "scratch" in done.stdout


def test_the_model_made_can_be_talked_to(killed_and_resumed):
    checkout, _ = killed_and_resumed
    done = subprocess.run([str(checkout / "run"), "--profile", "tiny", "chat"], input="Hello.\n/quit\n", text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
