"""What surrounds every stage: outputs whole or not at all, one clear line, the exit codes, no orphan left writing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks import stage

ROOT = Path(__file__).resolve().parents[1]
PROBE = '''
import errno, sys, time
from pathlib import Path
from pydantic import Field
from tasks import params, stage
from tasks.stage import Input, Output, StageError

class CountParams(params.Section):
    times: int = Field(ge=1, le=9)

def count(text: Input, out: Output, metrics: Output, *, count: CountParams, seed: int, runtime: params.Runtime):
    """Repeat."""
    how = text.read_text().strip()
    out.mkdir()
    (out / "part").write_text(how * count.times)
    if how == "gate":
        raise StageError("overlap 0.07 is above 0.05: raise decontaminate.max_fraction")
    if how == "full":
        raise OSError(errno.ENOSPC, "No space left on device", str(out / "part"))
    if how == "bug":
        raise ValueError("two\\nlines")
    if how == "slow":
        print("writing", flush=True)
        time.sleep(600)
    if how != "forget":
        stage.write_json(metrics, {"times": count.times, "seed": seed})

if __name__ == "__main__":
    stage.run(count)
'''
PARAMS = """
seed: 5
count: {times: 2}
tracks: {big: {count: {times: 3}}, bare: {}}
runtime: {threads: 1, workers: 1, executor: local, device: cpu, host: h, port: 1, slots: 1, api_key: null,
          log_level: INFO, hostfile: null}
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "in.txt").write_text("ab")
    return tmp_path


def run(here: Path, *words: str, code: int) -> subprocess.CompletedProcess[str]:
    words = words or ("in.txt", "data/out", "metrics/m.json")
    done = subprocess.run([sys.executable, "-m", "probe", *words], cwd=here,
                          env={**os.environ, "PYTHONPATH": f"{here}:{ROOT}"}, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def leftovers(here: Path) -> list[str]:
    return [str(path) for path in here.rglob(".*partial*")] + [str(path) for path in here.rglob(".*replaced*")]


def test_done_is_published_and_a_track_has_its_own_section(here):
    run(here, code=0)
    assert (here / "data/out/part").read_text() == "abab"
    assert json.loads((here / "metrics/m.json").read_text()) == {"seed": 5, "times": 2}
    run(here, "in.txt", "data/out", "metrics/m.json", "--track", "big", code=0)
    assert (here / "data/out/part").read_text() == "ababab"
    run(here, "in.txt", "data/out", "metrics/m.json", "--track", "bare", code=0)
    assert (here / "data/out/part").read_text() == "abab"
    assert not leftovers(here)


@pytest.mark.parametrize(("how", "line"), [
    ("gate", "error: overlap 0.07 is above 0.05: raise decontaminate.max_fraction"),
    ("full", "error: the disk is full ("),
    ("bug", "error: ValueError: two lines"),
    ("forget", "error: the stage returned without writing metrics/m.json"),
])
def test_a_failure_says_one_line_and_leaves_what_was_there(here, how, line):
    run(here, code=0)
    (here / "in.txt").write_text(how)
    done = run(here, code=1)
    lines = done.stderr.splitlines()
    assert lines[0].startswith(line), done.stderr
    assert [text for text in lines if text.startswith("error: ")] == lines[:1]
    assert (here / "data/out/part").read_text() == "abab"
    assert json.loads((here / "metrics/m.json").read_text())["times"] == 2
    assert not leftovers(here)


def test_a_really_full_file_system_is_named(here):
    """/dev/full gives the kernel's own ENOSPC to a write."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError) as error, open("/dev/full", "w") as sink:
        sink.write("x")
        sink.flush()
    assert error.value.errno == errno.ENOSPC
    assert stage.one_line(error.value).startswith("the disk is full")


@pytest.mark.parametrize(("text", "line"), [
    ("count: {times: 2, tmes: 3}", "count.tmes = 3: no such key"), ("count: {times: two}", "count.times = 'two': "),
    ("count: {times: 10}", "count.times = 10: input should be less than or equal to 9"),
    ("other: 1", "no section count"),
])
def test_bad_params_are_code_2_and_nothing_is_written(here, text, line):
    (here / "params.yaml").write_text(PARAMS.replace("count: {times: 2}\n", text + "\n", 1))
    done = run(here, code=2)
    assert done.stderr.startswith("error: params.yaml: ") and line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (here / "data").exists()


def test_absent_input_unknown_track_and_wrong_arguments(here):
    assert "input nowhere is not there" in run(here, "nowhere", "o", "m", code=1).stderr
    lost = run(here, "in.txt", "o", "m", "--track", "no", code=2)
    assert "--track no: no such track (known: big, bare)" in lost.stderr
    assert "required: out, metrics" in run(here, "in.txt", code=2).stderr


def test_a_stage_dies_with_its_runner(here):
    if sys.platform != "linux":
        pytest.skip("prctl is Linux's")
    (here / "in.txt").write_text("slow")
    start = ("import subprocess, sys, time; "
             "p = subprocess.Popen([sys.executable, '-m', 'probe', 'in.txt', 'o', 'm']); print(p.pid, flush=True); time.sleep(600)")
    runner = subprocess.Popen([sys.executable, "-c", start], cwd=here, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": f"{here}:{ROOT}"})
    child = psutil.Process(int(runner.stdout.readline()))
    assert runner.stdout.readline() == "writing\n"
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    end = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the stage outlived its runner"
        time.sleep(0.02)
    assert not (here / "o").exists()


def test_json_is_stable_and_refuses_nan(tmp_path):
    stage.write_json(tmp_path / "a.json", {"b": 1, "a": "中"})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "a": "中",\n  "b": 1\n}\n'
    with pytest.raises(ValueError):
        stage.write_json(tmp_path / "b.json", {"x": float("nan")})
