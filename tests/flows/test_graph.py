"""The graph that Prefect runs is DVC's: stages, edges, order, and what a change makes stale."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import graph, workspace
from tests.flows.conftest import sh

ROOT = Path(__file__).resolve().parents[2]


def test_stages_and_edges_are_those_of_dvc_dag():
    stages = graph.read(ROOT)
    dot = sh(sys.executable, "-m", "dvc", "dag", "--dot", cwd=ROOT)
    assert dot.returncode == 0, dot.stderr
    edges = set(re.findall(r'"(.+?)" -> "(.+?)"', dot.stdout))
    assert {(parent, stage.name) for stage in stages for parent in stage.parents} == edges
    listed = sh(sys.executable, "-m", "dvc", "stage", "list", "--name-only", cwd=ROOT).stdout.split()
    assert sorted(stage.name for stage in stages) == sorted(listed)


def test_parents_come_first_and_no_stage_is_cut_off():
    stages = graph.read(ROOT)
    seen: set[str] = set()
    for stage in stages:
        assert set(stage.parents) <= seen, stage.name
        seen.add(stage.name)
    assert stages[-1].name == "report"
    assert graph.descendants(stages, "sources") == seen - {"sources"}


def test_fields_of_a_stage(pipeline):
    stages = {stage.name: stage for stage in graph.read(pipeline)}
    b, c = stages["b"], stages["c"]
    assert (b.parents, b.params, b.deps, b.outs) == (("a",), ("b",), ("step.py", "out/a.txt"), ("out/b.txt",))
    assert b.cmd == "python step.py 2 out/b.txt out/a.txt"
    assert c.alone and not b.alone
    assert graph.descendants(list(graph.read(pipeline)), "a") == {"b", "d"}


def test_unreadable_pipeline_is_one_line(pipeline):
    for text in ("stages: [", "stages:\n  a: {cmd: x, outs: [o], wrong: 1}\n", "stages:\n  a: {cmd: '${no}'}\n"):
        (pipeline / "dvc.yaml").write_text(text)
        with pytest.raises(graph.GraphError) as error:
            graph.read(pipeline)
        assert "\n" not in str(error.value)


def test_order_lock_is_the_serial_order_and_loses_nothing(pipeline):
    assert sh(sys.executable, "-m", "dvc", "repro", cwd=pipeline).returncode == 0
    whole = (pipeline / "dvc.lock").read_text()
    lock = yaml.safe_load(whole)
    lock["stages"] = dict(reversed(lock["stages"].items()))
    (pipeline / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    graph.order_lock(pipeline, graph.read(pipeline))
    assert (pipeline / "dvc.lock").read_text() == whole
    assert sh(sys.executable, "-m", "dvc", "status", "--json", cwd=pipeline).stdout.strip() == "{}"


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A copy of the repository whose stages all count as run: `dvc commit` over placeholder outputs."""
    copy = tmp_path_factory.mktemp("status") / "copy"
    copy.mkdir()
    for path in workspace.files(ROOT):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    (copy / "dvc.lock").unlink(missing_ok=True)
    for stage in graph.read(copy):
        for out in stage.outs:
            target = copy / out if Path(out).suffix else copy / out / "file"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(out)
        for dep in stage.deps:  # deps inside an out directory, such as one package of several
            if not (copy / dep).exists():
                target = copy / dep if Path(dep).suffix else copy / dep / "file"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(dep)
    done = sh(sys.executable, "-m", "dvc", "commit", "--force", "-q", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert status(copy) == {}
    return copy


def status(root: Path) -> dict:
    done = sh(sys.executable, "-m", "dvc", "status", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sft_learning_rate_touches_sft_alone(committed):
    """DVC names the stage whose own inputs changed; what lies below becomes stale as its outputs change."""
    text = (committed / "params.yaml").read_text()
    values = yaml.safe_load(text)
    section = values["tracks"]["scratch"]["sft"]["training"]
    section["learning_rate"] *= 2
    try:
        (committed / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        assert set(status(committed)) == {"sft@scratch"}
        below = graph.descendants(graph.read(committed), "sft@scratch")
        assert {"preference@scratch", "quantize@scratch", "export@scratch", "report"} <= below
        assert not {"pretrain@scratch", "pack", "quantize@smollm2", "evaluate@scratch-base"} & below
    finally:
        (committed / "params.yaml").write_text(text)


def test_a_comment_in_dedup_touches_dedup_alone(committed):
    path = committed / "tasks/data/dedup.py"
    text = path.read_text()
    try:
        path.write_text(text + "# a comment\n")
        assert set(status(committed)) == {"dedup"}
    finally:
        path.write_text(text)


def test_runtime_touches_nothing(committed):
    text = (committed / "params.yaml").read_text()
    values = yaml.safe_load(text)
    values["runtime"] |= {"threads": 7, "workers": 5, "port": 1, "device": "cuda"}
    try:
        (committed / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        assert status(committed) == {}
    finally:
        (committed / "params.yaml").write_text(text)
