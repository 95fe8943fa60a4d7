"""Profiles: what overlays what, what is refused, and that the checkout they come from is left alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows import check, graph, workspace
from tasks import params
from tests.flows.conftest import sh

ROOT = Path(__file__).resolve().parents[2]
BASE = {"a": {"x": 1, "y": [1, 2]}, "b": 2, "models": {"one": "m/1", "two": "m/2"}}


def test_overlay_merges_mappings_and_replaces_the_rest():
    got = workspace.overlay(BASE, {"a": {"y": [3]}, "b": None}, "p")
    assert got == {"a": {"x": 1, "y": [3]}, "b": None, "models": {"one": "m/1", "two": "m/2"}}
    assert BASE["a"]["y"] == [1, 2]


def test_instead_replaces_a_mapping(tmp_path):
    (tmp_path / "p.yaml").write_text("models: !instead {one: n/1}\n")
    profile = workspace.read_profile(tmp_path / "p.yaml")
    got = workspace.overlay(BASE, profile, "p")
    assert got["models"] == {"one": "n/1"}
    assert yaml.safe_dump(got)  # plain mappings again


@pytest.mark.parametrize(("text", "line"), [
    ("a: {z: 1}", r"p: a\.z: params\.yaml has no such key \(known there: x, y\)"),
    ("c: 1", r"p: c: params\.yaml has no such key"),
    ("models: {three: m/3}", r"p: models\.three: params\.yaml has no such key"),
])
def test_unknown_keys_are_named(text, line):
    with pytest.raises(params.ParamsError, match=line):
        workspace.overlay(BASE, yaml.safe_load(text), "p")


@pytest.mark.parametrize(("text", "line"), [
    (None, r"no profile p \(known: other\)"), ("a: [", "is not readable YAML"), ("- 1", "must be a mapping"),
    ("a: !python/object:os.system {}", "is not readable YAML"),
])
def test_unreadable_profiles(tmp_path, text, line):
    (tmp_path / "other.yaml").write_text("{}")
    if text is not None:
        (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(params.ParamsError, match=line):
        workspace.read_profile(tmp_path / "p.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_committed_profiles_fit_params_and_make_a_graph(path, tmp_path, monkeypatch):
    """Values only: each names known keys, and the whole passes each stage's own model in a copy of the code."""
    values = workspace.overlay(params.load(ROOT / "params.yaml"), workspace.read_profile(path), path.name)
    for file in workspace.files(ROOT):
        if re.match(r"(tasks|flows|kernels|\.dvc)/", file) or file == "dvc.yaml":
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    sh("git", "init", "-q", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert check.faults() == []


def test_a_workspace_mirrors_keeps_its_own_and_disturbs_nothing(pipeline):
    (pipeline / "profiles").mkdir()
    (pipeline / "profiles/quick.yaml").write_text("b: 5\n")
    (pipeline / ".gitignore").write_text((pipeline / ".gitignore").read_text() + "/.profiles/\n")
    (pipeline / "gone.txt").write_text("x")
    assert sh("python", "-m", "dvc", "repro", "-q", cwd=pipeline).returncode == 0
    before = {name: (pipeline / name).read_bytes() for name in ("params.yaml", "dvc.lock", "out/d.txt")}
    made = workspace.prepare(pipeline, "quick")
    assert made == pipeline / ".profiles/quick"
    assert (made / "gone.txt").exists() and not (made / "dvc.lock").exists() and not (made / "out").exists()
    done = sh("python", "-m", "dvc", "repro", cwd=made)
    assert done.returncode == 0, done.stderr
    assert "Stage 'a' is cached" in done.stdout  # the cache is shared
    assert (made / "out/d.txt").read_text() == "1\n5\n3\n4\n"
    assert {name: (pipeline / name).read_bytes() for name in before} == before

    lock = (made / "dvc.lock").read_bytes()
    (pipeline / "gone.txt").unlink()
    (pipeline / "step.py").write_text((pipeline / "step.py").read_text() + "# uncommitted\n")
    workspace.prepare(pipeline, "quick")
    assert not (made / "gone.txt").exists() and (made / "step.py").read_text().endswith("# uncommitted\n")
    assert (made / "dvc.lock").read_bytes() == lock and (made / "out/d.txt").exists()
    assert "step.py" in sh("python", "-m", "dvc", "status", cwd=made).stdout


def test_a_faulty_profile_leaves_the_workspace_as_it_was(pipeline):
    (pipeline / "profiles").mkdir()
    (pipeline / "profiles/p.yaml").write_text("b: 5\n")
    made = workspace.prepare(pipeline, "p")
    text = (made / "params.yaml").read_text()
    (pipeline / "profiles/p.yaml").write_text("q: 5\n")
    with pytest.raises(params.ParamsError, match="q: params.yaml has no such key"):
        workspace.prepare(pipeline, "p")
    assert (made / "params.yaml").read_text() == text
    with pytest.raises(params.ParamsError, match="letters, digits"):
        workspace.prepare(pipeline, "../p")


def test_empty_lists_of_tracks_are_a_graph(pipeline):
    """`packaged: []` must leave a chain without packaged models, not an error."""
    (pipeline / "params.yaml").write_text("a: 1\nb: 2\nnone: []\n")
    text = (pipeline / "dvc.yaml").read_text()
    (pipeline / "dvc.yaml").write_text(text + "  adopt:\n    foreach: ${none}\n    do:\n      cmd: echo\n")
    assert [stage.name for stage in graph.read(pipeline)] == ["a", "b", "c", "d"]
    assert sh("python", "-m", "dvc", "repro", "-q", cwd=pipeline).returncode == 0
