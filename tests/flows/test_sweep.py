"""Sweeps: a grid of runs of a real DVC project, the table of its experiments, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows import sweep

STAGE = """stages:
  above:
    cmd: echo read > data
    outs: [data]
  learn:
    cmd: python learn.py
    deps: [data, learn.py]
    params: [learn]
    outs: [model]
    metrics: [{score.json: {cache: false}}]
    plots: [{curve.csv: {cache: false, x: step, y: loss}}]
  other:
    cmd: echo
    params: [other]
"""
LEARN = """import json, sys, yaml
given = yaml.safe_load(open("params.yaml"))["learn"]
if given["rate"] > 1:
    sys.exit("error: learn.rate = 2 is above 1")
loss = (given["rate"] - 0.3) ** 2 + given["decay"]
open("calls", "a").write("x")
open("model", "w").write(str(loss))
json.dump({"loss": loss, "steps": 2}, open("score.json", "w"))
open("curve.csv", "w").write(f"step,loss\\n1,{loss + 1}\\n2,{loss}\\n")
"""


def ran(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A committed DVC project of three stages, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    Path("dvc.yaml").write_text(STAGE)
    Path("learn.py").write_text(LEARN)
    Path("params.yaml").write_text("learn: {rate: 0.5, decay: 0.0}  # kept\nother: {a: 1}\n")
    ran("git", "init", "-q")
    for key, value in (("name", "a"), ("email", "a@example.org")):
        ran("git", "config", f"user.{key}", value)
    ran(sys.executable, "-m", "dvc", "init", "-q")
    ran("git", "add", "-A")
    ran("git", "commit", "-qm", "one")
    return tmp_path


def test_a_grid_runs_and_its_best_stands_first(project, capfd):
    before = Path("params.yaml").read_text()
    code = sweep.main(["learn", "--by", "loss", "-S", "learn.rate=choice(0.1,0.25,2)", "-S", "learn.decay=0.125"])
    shown = capfd.readouterr().out
    assert code == 1  # one of three failed
    assert Path("params.yaml").read_text() == before and not Path("model").exists()
    found = json.loads(Path("report/sweep-learn.json").read_text())["experiments"]
    assert [row["values"] for row in found] == [{"learn.rate": 0.25}, {"learn.rate": 0.1}, {}]
    assert [row["metric"] for row in found] == [pytest.approx(0.1275), pytest.approx(0.165), None]
    assert found[2]["error"] == "error: learn.rate = 2 is above 1" and found[2]["error"] in shown
    assert f"dvc exp apply {found[0]['name']}" in shown and found[0]["name"].startswith("sweep-rate-0.25-")
    assert Path("report/sweep-learn.png").read_bytes()[:4] == b"\x89PNG"
    # the table alone, later: nothing runs
    assert sweep.main(["learn", "--by", "loss", "--highest"]) == 0
    again = json.loads(Path("report/sweep-learn.json").read_text())["experiments"]
    assert [row["values"]["learn.rate"] for row in again] == [0.1, 0.25]


REFUSED = [
    (["nowhere", "--by", "loss"], "no stage nowhere .known: above, learn, other"),
    (["learn", "--by", "loss", "-S", "learn.rat=choice(1,2)"], "params.yaml has no key 'learn.rat'"),
    (["learn", "--by", "loss", "-S", "learn.rate"], "-S learn.rate: "),
    (["learn", "--by", "loss", "-S", "other.a=choice(1,2)"], "neither the stage nor one above it reads other.a"),
    (["learn", "--by", "loss", "-S", "learn.rate=choice(0.1,"], "-S: "),
    (["learn", "--by", "loss", "-S", "learn.rate=range(0,1000)"], "1000 combinations, at most 200"),
    (["learn", "--by", "loss"], "no experiment of this commit has run learn"),
]


def test_what_is_refused_before_anything_runs(project, capsys):
    for words, said in REFUSED:
        assert sweep.main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and re.search(said, error)
    assert not Path("calls").exists() and not Path("report").exists()
