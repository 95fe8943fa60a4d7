"""`./run annotate` from the command line: what is refused, what is printed, and that nothing is lost by it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows import annotate
from flows.workspace import OWN, mirror
from tasks.data.annotate.store import Answer, AnswerLog
from tests.flows.conftest import sh

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = Path("annotations/quality")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with six documents and no answers."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 7\n")
    Path("mine.jsonl").write_text("".join(json.dumps({"id": str(n), "text": f"文 {n}"}) + "\n" for n in range(6)))
    return tmp_path


def choose(*words):
    return annotate.opened(annotate.TASKS["quality"], Path("mine.jsonl"), *words)


def test_agreement_and_export(folder, capsys):
    choose(None)
    for name, labels in (("amy", "good good ads thin"), ("bob", "good ads ads thin")):
        log = AnswerLog(ANSWERS / f"{name}.jsonl", ("good", "ads", "thin", "broken"))
        for item, label in enumerate(labels.split()):
            log.append(Answer(str(item), label))
    before = {path: path.read_bytes() for path in ANSWERS.iterdir()}
    assert annotate.main(["quality", "--agreement", "--export", "out/q.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "| amy | bob | 4 | 75.0 % | 0.636 | - |" in said and "| amy | pipeline | 4 | 50.0 %" in said
    assert "out/q.jsonl: 3 items (left out: 1 disputed, 2 unanswered)" in said
    assert [json.loads(line)["id"] for line in Path("out/q.jsonl").read_text().splitlines()] == ["0", "2", "3"]
    for path in ("annotations/quality/amy.jsonl", "annotations/quality/new.jsonl", "out/../annotations/quality/items.jsonl"):
        assert annotate.main(["quality", "--export", path]) == 1
        assert "holds the answers themselves" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in ANSWERS.iterdir()} == before


@pytest.mark.parametrize(("words", "code", "line"), [
    (["quality", "--agreement"], 1, "nobody has annotated quality yet"), (["quality", "--export", "x"], 1, "nobody has"),
    (["quality"], 1, "no documents yet"), (["quality", "--items", "none"], 1, "--items none: no such"),
    (["quality", "--annotator", "../x"], 1, "--annotator '../x'")])
def test_what_cannot_be_done_is_one_line(folder, capsys, words, code, line):
    assert annotate.main(words) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ") and line in said and said.count("\n") == 1
    assert not Path("annotations").exists()


@pytest.mark.parametrize("words", [["colour"], [], ["quality", "--n", "0"], ["quality", "--n", "many"], ["quality", "--x"]])
def test_bad_arguments_are_refused(folder, capsys, words):
    with pytest.raises(SystemExit) as ended:
        annotate.main(words)
    assert ended.value.code == 2 and "usage: ./run annotate" in capsys.readouterr().err


def test_nothing_answered_exports_nothing_and_a_bad_seed_is_named(folder, capsys):
    choose(None)
    Path("out.jsonl").write_text("mine\n")
    assert annotate.main(["quality", "--export", "out.jsonl"]) == 1
    assert "nothing to export" in capsys.readouterr().err and Path("out.jsonl").read_text() == "mine\n"
    Path("params.yaml").write_text("seed: many\n")
    assert annotate.main(["quality", "--agreement"]) == 2 and "seed" in capsys.readouterr().err


def test_more_items_and_a_source_that_is_not_needed(folder, capsys):
    assert len(choose(4).items) == 4 and "4 items chosen" in capsys.readouterr().err
    assert len(choose(None).items) == 4 and "--n 204 adds some of mine.jsonl" in capsys.readouterr().err
    assert len(choose(6).items) == 6 and "2 items chosen" in capsys.readouterr().err


def test_a_taken_port_is_said_or_passed_over(folder, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(annotate.StageError, match=f"cannot listen on 127.0.0.1:{port}: .*--port"):
            annotate.listening(port)
        monkeypatch.setattr(annotate, "PORT", port)
        with annotate.listening(None) as found:
            assert port < found.getsockname()[1] < port + annotate.PORTS and found.getsockname()[0] == "127.0.0.1"


def test_the_server_ends_well_on_sigterm(folder):
    command = [sys.executable, "-m", "flows.annotate", "quality", "--items", "mine.jsonl", "--annotator", "amy", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={"PYTHONPATH": str(ROOT)})
    assert process.stdout.readline().startswith("ready: http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and "Traceback" not in errors


def test_a_profiles_workspace_keeps_its_annotations(tmp_path):
    """Mirroring deletes what the checkout has not; annotations are not its to delete."""
    root, workspace = tmp_path / "root", tmp_path / "workspace"
    for place in (root, workspace):
        place.mkdir()
        sh("git", "init", "-q", cwd=place)
    (root / "code.py").write_text("1\n")
    (workspace / "old.py").write_text("1\n")
    work = workspace / "annotations/quality/amy.jsonl"
    work.parent.mkdir(parents=True)
    work.write_text("work\n")
    mirror(root, workspace, OWN)
    assert work.read_text() == "work\n" and (workspace / "code.py").exists() and not (workspace / "old.py").exists()
