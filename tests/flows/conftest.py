"""A small real DVC pipeline in a temporary git repository, and one Prefect server for all flow tests."""

from __future__ import annotations

import os
import signal
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from flows import server
from flows.environment import stage_environment

ROOT = Path(__file__).resolve().parents[2]

# a -> b -> d, c beside them; each stage copies its inputs and a number, slowly enough to be killed
STEP = '''
import os, pathlib, signal, sys, time
number, out, inputs = sys.argv[1], pathlib.Path(sys.argv[2]), [pathlib.Path(p) for p in sys.argv[3:]]
if pathlib.Path("fail").exists() and pathlib.Path("fail").read_text() == out.stem:
    print("error: the switch says no (1 > 0): remove the file fail", file=sys.stderr)
    sys.exit(1)
if pathlib.Path("alarm").exists() and pathlib.Path("alarm").read_text() == out.stem:
    print("watchman: t: step 9: spike", flush=True)
    from tqdm import tqdm
    for _ in tqdm(range(4), desc="pretrain t", mininterval=0): pass
print("making", out, flush=True)
pathlib.Path("pids").mkdir(exist_ok=True)
(pathlib.Path("pids") / out.stem).write_text(str(os.getpid()))
while (pathlib.Path("slow")).exists() and pathlib.Path("slow").read_text() == out.stem:
    time.sleep(0.05)
out.parent.mkdir(exist_ok=True)
out.write_text("".join(p.read_text() for p in inputs) + number + chr(10))
'''
PIPELINE = """
stages:
  d:
    cmd: python step.py 4 out/d.txt out/b.txt out/c.txt
    deps: [step.py, out/b.txt, out/c.txt]
    outs: [out/d.txt]
  a:
    cmd: python step.py ${a} out/a.txt
    deps: [step.py]
    params: [a]
    outs: [out/a.txt]
  b:
    cmd: python step.py ${b} out/b.txt out/a.txt
    deps: [step.py, out/a.txt]
    params: [b]
    outs: [out/b.txt]
  c:
    cmd: python step.py 3 out/c.txt
    meta: {alone: true}
    deps: [step.py]
    outs: [out/c.txt]
"""


def sh(*command: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in the stage environment, output captured."""
    return subprocess.run(command, cwd=cwd, env=stage_environment(cwd), capture_output=True, text=True, **options)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A git and DVC repository (its path has a space in it) with the pipeline above, nothing run yet."""
    root = tmp_path / "a work space"
    root.mkdir()
    (root / "step.py").write_text(STEP)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text("a: 1\nb: 2\n")
    (root / ".gitignore").write_text("/out/\n/pids/\n/.runtime/\n/slow\n/fail\n/alarm\n")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"],
                    [sys.executable, "-m", "dvc", "config", "core.analytics", "false"],
                    ["git", "add", "-A"],
                    ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "pipeline"]):
        done = sh(*command, cwd=root)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="session")
def prefect_env(tmp_path_factory: pytest.TempPathFactory):
    """Environment of clients of a Prefect server that lives as long as the test session."""
    home = tmp_path_factory.mktemp("prefect")
    port = server.ensure(home)
    yield server.environment(home, port)
    server.stop(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def run_chain(prefect_env: dict[str, str]):
    """Start the flow in a repository; a Popen whose stdout holds both streams."""
    started = []

    def start(root: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.chain", "--profile", "test"], cwd=root, text=True,
            env={**prefect_env, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's & leaves it ignored
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, 9)
            process.wait()


class Patient(httpx.HTTPTransport):
    """Asks again where the Prefect server is too busy to answer (503, its database is locked), as its client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One answer that is no 503."""
        while (answer := super().handle_request(request)).status_code == 503:
            answer.close()
            time.sleep(0.5)
        return answer


def api_of(env: dict[str, str]) -> httpx.Client:
    """A client of the Prefect server's REST API."""
    return httpx.Client(base_url=env["PREFECT_API_URL"], timeout=60, transport=Patient())


def ends(process: int) -> None:
    """Wait for a killed process to be gone; its zombie is gone too, whenever its new parent may reap it."""
    end = time.monotonic() + 10
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the stage outlived its runner"
        time.sleep(0.05)
