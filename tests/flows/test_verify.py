"""`./run verify` on a small real pipeline: what matches, what does not and must, what may, and what it refuses."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path

import pytest
import yaml

from flows import graph, machine, rebuild, verify
from tests.flows.conftest import ROOT, sh

HERE = {"processor": "A", "instructions": "avx avx2", "threads": 2, "libraries": {"torch": "2.13.0", "numpy": "2.4"}}
THERE = {"processor": "B", "instructions": "avx avx512f", "threads": 4,
         "libraries": {"torch": "2.14.0", "numpy": "2.4"}}

# b hangs on chance and imports torch, which rounds as the processor allows; d reads b; c hangs on chance and imports
# nothing that could; e is a directory of which one file moves; f fails where the variable FAIL says so, and g reads f
NOISY = '''
import os, pathlib, sys
def never():
    import torch
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/b.txt").write_bytes(os.urandom(8))
'''
OTHERS = '''
import os, pathlib, sys
name = sys.argv[1]
if name == os.environ.get("FAIL"):
    sys.exit("error: it stands below zero (-1 < 0)")
out = pathlib.Path("out", name)
out.parent.mkdir(exist_ok=True)
if name == "e":
    out.mkdir()
    (out / "still").write_text("1")
    out = out / "moving"
out.write_bytes(os.urandom(8) if name in "ce" else b"".join(pathlib.Path(p).read_bytes() for p in sys.argv[2:]))
'''
MIXED = "stages:\n" + "".join(
    f"  {name}:\n    cmd: python {script} {name} {' '.join(inputs)}\n    deps: [{', '.join([script, *inputs])}]\n"
    f"    outs: [{out}]\n" for name, script, inputs, out in (
        ("b", "noisy.py", [], "out/b.txt"), ("d", "others.py", ["out/b.txt"], "out/d"), ("c", "others.py", [], "out/c"),
        ("e", "others.py", [], "out/e"), ("f", "others.py", [], "out/f"), ("g", "others.py", ["out/f"], "out/g")))


def commit(root: Path, text: str = "more") -> None:
    sh("git", "add", "-A", cwd=root)
    done = sh("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", text, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr


def repro(root: Path, *words: str) -> None:
    done = sh(sys.executable, "-m", "dvc", "repro", "-q", *words, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    commit(root)


@pytest.fixture
def ask(pipeline, monkeypatch, capsys):
    """`./run verify WORDS` in the pipeline: its output, both streams, after the exit code was checked."""
    monkeypatch.chdir(pipeline)
    monkeypatch.delenv("CATENA_DOWNLOADS", raising=False)

    def call(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["verify", *words])
        monkeypatch.setenv("CATENA_DOWNLOADS", str(pipeline / "kept"))
        capsys.readouterr()
        assert verify.main() == code
        told = capsys.readouterr()
        return told.out + told.err

    return call


def row(output: str, path: str) -> list[str]:
    """The cells of the table's row for an output, its folded lines joined."""
    cells: list[str] = []
    for line in output.splitlines():
        found = [cell.strip() for cell in line.strip("│").split("│")] if line.startswith("│") else []
        if len(found) == 6 and (found[1] == path or (cells and not found[0])):
            cells = [f"{before} {more}".strip() for before, more in zip(cells or [""] * 6, found)]
        elif cells:
            break
    assert cells, output
    return cells


def test_what_can_be_reproduced_is_rebuilt_from_nothing_and_nothing_is_left(pipeline, ask):
    repro(pipeline)
    before = (pipeline / "dvc.lock").read_bytes()
    output = ask("out/b.txt")  # with what is above it, and no more
    assert "2 of 2 outputs are byte for byte what dvc.lock says" in output
    assert "making out/a.txt" in output and "making out/b.txt" in output and "making out/c.txt" not in output
    assert not (pipeline / ".runtime/verify").exists() and (pipeline / "dvc.lock").read_bytes() == before
    assert "machines.json: noted that 2 stages come out the same on this machine; commit it" in output
    entries = yaml.safe_load(before)["stages"]
    assert machine.maker(machine.read(pipeline), "a", entries["a"]) == machine.describe(pipeline)
    assert machine.maker(machine.read(pipeline), "c", entries["c"]) is None
    assert rebuild.changed(pipeline) == []  # the note is no change that the next one would refuse


def test_differences_are_named_by_cause_and_another_machine_excuses_rounding_alone(pipeline, ask, monkeypatch):
    for name, text in (("noisy.py", NOISY), ("others.py", OTHERS), ("dvc.yaml", MIXED)):
        (pipeline / name).write_text(text)
    repro(pipeline)
    entries = yaml.safe_load((pipeline / "dvc.lock").read_text())["stages"]
    expected = {name: entry["outs"][0]["md5"][:12] for name, entry in entries.items()}
    machine.record(pipeline, entries)
    commit(pipeline, "machines.json")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    monkeypatch.setenv("FAIL", "f")
    output = ask(code=1)
    assert "6 of 6 stages: made on another machine (OPENBLAS_CORETYPE none, here Nehalem)" in output
    kept = yaml.safe_load((pipeline / ".runtime/verify/clone/dvc.lock").read_text())["stages"]
    found = {name: entry["outs"][0]["md5"][:12] for name, entry in kept.items()}
    assert found.keys() == set("bcde") and all(found[name] != expected[name] for name in found)
    b, c, d, e = (row(output, path) for path in ("out/b.txt", "out/c", "out/d", "out/e"))
    assert b[:5] == ["b", "out/b.txt", expected["b"], found["b"], "differs, and may: another machine"]
    assert d[:5] == ["d", "out/d", expected["d"], found["d"], "follows"] and "out/b.txt from b differs" in d[5]
    assert c[:5] == ["c", "out/c", expected["c"], found["c"], "differs"]
    assert e[4] == "differs" and e[5].endswith("1 of 2 files: moving")
    assert row(output, "out/f")[3:] == ["(none)", "not rebuilt", "it stands below zero (-1 < 0)"]
    assert row(output, "out/g")[3:] == ["(none)", "not rebuilt", "not rebuilt: f could not be"]
    assert "0 of 6 outputs are byte for byte what dvc.lock says, 4 must be and are not, 2 differ as they may" in output
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    assert row(ask("b", code=1), "out/b.txt")[4] == "differs"  # where it was made, chance has no excuse


def test_what_cannot_be_compared_is_refused_in_one_line(pipeline, ask):
    assert "dvc.lock is not there: ./run makes it" in ask(code=2)
    repro(pipeline)
    (pipeline / "step.py").write_text((pipeline / "step.py").read_text() + "# changed\n")
    (pipeline / "new.txt").write_text("")
    assert "differs from its commit (step.py, new.txt): commit or remove that" in ask(code=2)
    commit(pipeline)
    assert ask("c", code=2) == ("error: dvc.lock was not made from this commit (c: step.py modified): run ./run, and "
                                "commit dvc.lock and metrics with the change\n")
    (pipeline / "params.yaml").write_text("a: 5\nb: 2\n")
    commit(pipeline)
    assert "a: a modified; a: its command changed" in ask("a", code=2)
    assert "no stage and no output 'nothing': stages are " in ask("nothing", code=2)
    (pipeline / "taken").mkdir()
    (pipeline / "taken/file").write_text("")
    commit(pipeline)
    assert "taken is not empty: name a new directory" in ask("--directory", "taken", code=2)
    lock = yaml.safe_load((pipeline / "dvc.lock").read_text())
    del lock["stages"]["d"]
    (pipeline / "dvc.lock").write_text(yaml.safe_dump(lock))
    commit(pipeline)
    assert "dvc.lock has no entry of d: run ./run" in ask(code=2)
    (pipeline / machine.FILE).write_text("[]")
    assert "machines.json is no record of machines" in ask("a", code=2)
    with (pipeline / ".runtime/verify.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another ./run verify works in this checkout" in ask(code=2)
    for words in (("--signers", "x"), ("a", "--model", "x")):
        with pytest.raises(SystemExit) as end:
            ask(*words)
        assert end.value.code == 2


def test_classes_of_the_real_chain_come_from_its_code():
    """Text is exact by its imports; what trains, quantizes or evaluates by torch rounds, and the report's intervals
    by scipy."""
    rounds = {one.name.partition("@")[0] for one in graph.read(ROOT) if rebuild.rounding(ROOT, one)}
    assert {"classifiers", "pretrain", "sft", "preference", "adopt", "quantize", "export", "evaluate",
            "report"} <= rounds
    assert not rounds & {"sources", "crawl", "extract", "filter", "dedup", "decontaminate", "mixture", "tokenizer",
                         "pack"}


def test_a_record_forgets_what_no_longer_stands_in_the_lock(tmp_path):
    def lock(**md5: str) -> None:
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {
            name: {"cmd": "x", "outs": [{"path": f"out/{name}", "md5": value}]} for name, value in md5.items()}}))

    lock(a="1", b="2")
    machine.record(tmp_path, ["a", "b"])
    first = (tmp_path / machine.FILE).read_bytes()
    machine.record(tmp_path, ["a"])
    assert (tmp_path / machine.FILE).read_bytes() == first  # again the same bytes
    kept = json.loads(first)
    kept["machines"] |= {"other": THERE}
    kept["stages"]["b"]["machine"] = "other"
    (tmp_path / machine.FILE).write_text(json.dumps(kept))
    lock(a="1", b="2", c="3")
    machine.record(tmp_path, ["c"])
    entries = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    assert machine.maker(machine.read(tmp_path), "b", entries["b"]) == THERE  # made there, and still what it was
    lock(a="1", b="9", c="3")
    machine.record(tmp_path, [])
    assert machine.read(tmp_path)["stages"].keys() == {"a", "c"} and "other" not in machine.read(tmp_path)["machines"]


def test_differences_between_machines_are_named():
    assert machine.differences(HERE, HERE) == []
    assert machine.differences(THERE, HERE) == [
        "instructions without avx512f and with avx2", "torch 2.14.0, here 2.13.0", "processor B, here A",
        "threads 4, here 2"]
