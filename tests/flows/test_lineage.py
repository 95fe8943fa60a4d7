"""`./run why` and `./run diff` on a small pipeline of their own, with its history of commits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prov.model import ProvActivity, ProvDocument, ProvEntity, ProvGeneration, ProvUsage

from flows import compare, lineage
from tests.flows.conftest import ROOT, sh

METRICS = {"scores": {"pairs": {"acc": {"value": 0.5, "stderr": 0.05, "low": 0.4, "high": 0.6, "n": 100}},
                      "held_out": {"bits_per_byte": {"value": 2.0, "stderr": 0.01, "low": 1.98, "high": 2.02, "n": 9}}}}
STAGES = """
  evaluate:
    cmd: python step.py 5 metrics/evaluate/m.json out/d.txt && python score.py
    deps: [step.py, tasks/score.py, out/d.txt]
    metrics: [{metrics/evaluate/m.json: {cache: false}}]
"""


def commit(root: Path, text: str) -> str:
    sh("git", "add", "-A", cwd=root)
    done = sh("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", text, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return sh("git", "rev-parse", "--short", "HEAD", cwd=root).stdout.strip()


def ask(root: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", f"flows.{module}", *words], cwd=root, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"})


@pytest.fixture
def history(pipeline: Path) -> tuple[Path, str, str]:
    """The pipeline with an evaluation, run and committed twice: `a`, a code file and the scores differ."""
    (pipeline / "dvc.yaml").write_text((pipeline / "dvc.yaml").read_text() + STAGES)
    (pipeline / "tasks").mkdir()
    (pipeline / "metrics/evaluate").mkdir(parents=True)
    revisions = []
    for a, accuracy, bits in ((1, 0.5, 2.0), (7, 0.8, 1.9)):
        (pipeline / "params.yaml").write_text(f"a: {a}\nb: 2\nmodels: {{m: out/d.txt}}\n")
        METRICS["scores"]["pairs"]["acc"]["value"] = accuracy
        METRICS["scores"]["held_out"]["bits_per_byte"]["value"] = bits
        (pipeline / "tasks/score.py").write_text(f"# {a}")
        (pipeline / "score.py").write_text(
            f"open('metrics/evaluate/m.json', 'w').write({json.dumps(json.dumps(METRICS))})")
        done = sh(sys.executable, "-m", "dvc", "repro", cwd=pipeline)
        assert done.returncode == 0, done.stdout + done.stderr
        revisions.append(commit(pipeline, f"a is {a}"))
    return pipeline, *revisions


def test_why_tells_what_made_an_artifact(history):
    root, first, second = history
    told = ask(root, "why", "out/d.txt").stdout
    for line in ("made by d", "made by b", "made by a", "param a = 7", "param b = 2", f"since {second}", "since " + first):
        assert line in told, told
    assert "made by c" in told and "evaluate" not in told, "what lies below is no cause"
    md5 = hashlib.md5((root / "out/d.txt").read_bytes()).hexdigest()
    assert md5[:12] in told
    assert "param a = 1" in ask(root, "why", "out/d.txt", "--rev", first).stdout


def test_why_tells_a_score_and_a_model(history):
    root, *_ = history
    told = ask(root, "why", "m", "pairs.acc").stdout
    assert told.startswith("m pairs.acc = 0.800 ± 0.050 (95 % 0.400 to 0.600, n = 100)") and "made by evaluate" in told
    assert "1 files, last changed" in told, "the stage's code, with the commit that changed it"
    assert "made by d" in ask(root, "why", "m").stdout


def test_prov_holds_every_stage_and_file(history):
    root, *_ = history
    assert ask(root, "why", "out/d.txt", "--prov", "prov.json").returncode == 0
    document = json.loads((root / "prov.json").read_text())
    assert set(document["activity"]) == {f"catena:stage/{name}" for name in "abcd"}
    generated = {row["prov:entity"]: row["prov:activity"] for row in document["wasGeneratedBy"].values()}
    assert len(generated) == 4
    for row in document["used"].values():   # what is used was generated, or lies in the repository
        assert row["prov:entity"] in document["entity"]
        assert row["prov:entity"] in generated or "step.py" in row["prov:entity"]
    read = ProvDocument.deserialize(content=json.dumps(document), format="json")    # the reference reader
    for kind, name in ((ProvActivity, "activity"), (ProvEntity, "entity"), (ProvUsage, "used"),
                       (ProvGeneration, "wasGeneratedBy")):
        assert len(list(read.get_records(kind))) == len(document[name]), name
    assert ProvDocument.deserialize(content=read.serialize(format="json"), format="json") == read
    (made,) = read.get_record(f"catena:file/out/d.txt@{hashlib.md5((root / 'out/d.txt').read_bytes()).hexdigest()}")
    assert {str(value) for _, value in made.attributes} > {"out/d.txt"}


def test_diff_tells_params_code_data_and_scores(history):
    root, first, second = history
    told = ask(root, "compare", first, second).stdout
    assert "params: 1 changed" in told and "code: 1 changed" in told and "tasks/score.py" in told
    for out in ("out/a.txt", "out/b.txt", "out/d.txt"):
        assert out in told
    assert "out/c.txt" not in told
    # 1.96 * sqrt(.05^2 + .05^2) = .1386; 1.96 * sqrt(.01^2 + .01^2) = .0277
    assert "+0.3 (+0.1614 to +0.4386)" in told and "-0.1 (-0.1277 to -0.07228)" in told
    assert told.count("better") == 2 and "worse" not in told
    same = ask(root, "compare", second).stdout
    assert same.split("\n")[:4] == ["params: the same", "code: the same", "data: the same", "scores: the same"]


@pytest.mark.parametrize("before, after, low, high, name, verdict", [
    (0.5, 0.6, 0.01, 0.2, "x pairs.acc", "better"), (0.5, 0.4, -0.2, -0.01, "x pairs.acc", "worse"),
    (0.5, 0.6, -0.1, 0.3, "x pairs.acc", "cannot tell"), (2.0, 1.0, -1.5, -0.5, "x held_out.bits_per_byte", "better"),
    (1.0, 2.0, 0.5, 1.5, "x perplexity", "worse"),
])
def test_verdicts(before, after, low, high, name, verdict):
    assert compare.Change(name, before, after, low, high).verdict == verdict


@pytest.mark.parametrize("module, words, shown", [
    ("why", ["nothing.txt"], "no stage writes nothing.txt"), ("why", ["m", "pairs.acx"], "has no score 'pairs.acx'"),
    ("why", ["x", "pairs.acc"], "no model 'x'"), ("why", ["out/d.txt", "--rev", "nosuch"], "git show"),
    ("compare", ["nosuch"], "git show"), ("why", ["../../etc/passwd"], "no stage writes"),
])
def test_wrong_input_is_one_line(history, module, words, shown):
    done = ask(history[0], module, *words)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and shown in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_torn_lock_is_one_line(history):
    root, *_ = history
    (root / "dvc.lock").write_text("stages: [1, 2\n")
    done = ask(root, "why", "out/d.txt")
    assert done.returncode == 1 and "dvc.lock is no lock of DVC's" in done.stderr


def test_machine_and_time_are_told_only_of_the_run_that_made_it(history, monkeypatch):
    root, *_ = history
    monkeypatch.chdir(root)
    lock = (root / "dvc.lock").read_text()
    (root / ".runtime/timing").mkdir(parents=True, exist_ok=True)
    kept = {"seconds": 3.0, "peak_mib": 7, "machine": "A processor, 2 cores", "entry": lineage.block(lock, "d")}
    (root / ".runtime/timing/stage-d.json").write_text(json.dumps(kept))
    assert "ran 3 s, 7 MiB, on A processor, 2 cores" in ask(root, "why", "out/d.txt").stdout
    assert lineage.run_of("d", lock.replace("out/b.txt", "out/x.txt")) is None
    assert lineage.run_of("b", lock) is None and lineage.block(lock, "nosuch") == ""
