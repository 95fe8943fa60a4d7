"""params.yaml: faults are named by key, value and remedy, and what a stage reads is what DVC hashes for it."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from flows import check, graph, workspace
from tasks import params

ROOT = Path(__file__).resolve().parents[1]


class Inner(params.Section):
    rate: float = Field(gt=0, le=1)


class Outer(params.Section):
    steps: int = Field(ge=1)
    inner: Inner
    name: str | None


GOOD = {"a": {"b": {"steps": 3, "inner": {"rate": 0.5}, "name": None}}}


def test_a_good_section_is_typed_and_immutable():
    found = params.section(Outer, "a.b", GOOD)
    assert (found.steps, found.inner.rate, found.name) == (3, 0.5, None)
    with pytest.raises(Exception, match="frozen"):
        found.steps = 4


@pytest.mark.parametrize(("change", "line"), [
    ({"steps": "3"}, r"a\.b\.steps = '3': input should be a valid integer"),
    ({"steps": 2.0}, r"a\.b\.steps = 2\.0: input should be a valid integer"),
    ({"steps": True}, r"a\.b\.steps = True: input should be a valid integer"),
    ({"steps": 0}, r"a\.b\.steps = 0: input should be greater than or equal to 1"),
    ({"inner": {"rate": 1.5}}, r"a\.b\.inner\.rate = 1\.5: input should be less than or equal to 1"),
    ({"inner": {"rate": 0.5, "rat": 1}}, r"a\.b\.inner\.rat = 1: no such key; remove it or correct its name"),
    ({"inner": None}, r"a\.b\.inner = None: "),
    ({"stepz": 3}, r"a\.b\.stepz = 3: no such key"),
])
def test_faults_name_the_key(change, line):
    values = {"a": {"b": GOOD["a"]["b"] | change}}
    with pytest.raises(params.ParamsError, match=line) as error:
        params.section(Outer, "a.b", values)
    assert "\n" not in str(error.value)


def test_missing_keys_and_sections_are_named():
    with pytest.raises(params.ParamsError, match=r"a\.b\.inner is missing"):
        params.section(Outer, "a.b", {"a": {"b": {"steps": 1, "name": "x"}}})
    with pytest.raises(params.ParamsError, match=r"no section a\.c \(known there: b\)"):
        params.section(Outer, "a.c", GOOD)
    with pytest.raises(params.ParamsError, match=r"no section a\.b\.steps\.x"):
        params.section(Outer, "a.b.steps.x", GOOD)


@pytest.mark.parametrize(("text", "line"), [
    (None, "not found: run from the repository root"), ("a: [", "is not readable YAML"), ("- 1", "must be a mapping"),
    ("", "must be a mapping"), (b"\xff\xfe", "is not readable YAML"),
])
def test_unreadable_files(tmp_path, text, line):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(params.ParamsError, match=line):
        params.load(path)


def checked(cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flows.check"], cwd=cwd, capture_output=True, text=True)


def test_the_whole_of_params_yaml_fits_and_every_section_has_a_stage(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert (check.main(), capsys.readouterr().err) == (0, "")


def test_a_slip_anywhere_is_found_before_anything_runs(tmp_path, monkeypatch, capsys):
    """In a copy: an unknown key deep in a late section, a wrong type, and a section that no stage reads."""
    for path in workspace.files(ROOT):
        if re.match(r"(tasks|flows|kernels|\.dvc)/|(dvc|params)\.yaml", path):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    values = params.load()
    slips = [
        (lambda v: v["evaluate"].update(windw=3), "error: params.yaml: evaluate.windw = 3: no such key"),
        (lambda v: v["tracks"]["scratch"]["sft"].update(stepz=3), "params.yaml: tracks.scratch.sft.stepz = 3: no"),
        (lambda v: v.update(seed="1"), "error: params.yaml: seed = '1': input should be a valid integer"),
        (lambda v: v.update(dedupe={}), "error: params.yaml: dedupe: no stage reads this section"),
        (lambda v: v["tracks"]["smollm2"].update(sfft={}), "params.yaml: tracks.smollm2.sfft: no stage reads"),
    ]
    for slip, line in slips:
        wrong = copy.deepcopy(values)
        slip(wrong)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(wrong, allow_unicode=True))
        code, said = check.main(), capsys.readouterr().err
        assert code == 2 and line in said and len(said.strip().splitlines()) == 1, (line, said)
    done = checked(tmp_path)
    assert done.returncode == 2 and done.stderr == said


def test_what_a_stage_reads_is_a_param_of_it():
    """A section that a stage binds but dvc.yaml does not name would change its output and leave it Cached."""
    for stage in graph.read(ROOT):
        read = {name for name in check.bound(stage) if name != "runtime"}
        named = set(stage.params)
        missing = {name for name in read if not any(  # a stage may name the keys of a section that it uses
            f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for key in named)}
        assert not missing, f"{stage.name}: dvc.yaml's params lack {missing}"
        idle = {key for key in named if not any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")
                                                for name in read)}
        assert not idle, f"{stage.name}: dvc.yaml's params name {idle}, which it does not read"
        assert "runtime" not in {key.split(".")[0] for key in named}, f"{stage.name}: runtime is no stage's param"


def test_an_experiment_can_change_a_value_and_leaves_the_rest(tmp_path):
    """`dvc exp run -S` rewrites params.yaml through its own YAML writer, which drops quotes."""
    from dvc.utils.serialize import modify_yaml

    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    before = yaml.safe_load(path.read_text())
    with modify_yaml(str(path)) as values:
        values["tracks"]["scratch"]["sft"]["training"]["learning_rate"] = 0.001
    before["tracks"]["scratch"]["sft"]["training"]["learning_rate"] = 0.001
    assert yaml.safe_load(path.read_text()) == before
