"""The `run` script: help, unknown commands, honest errors of a bare machine, and setup done once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path):
    """A directory (with a space in its path) that holds what setup reads, and a folder for programs."""
    root = tmp_path / "my checkout"
    (root / "profiles").mkdir(parents=True)
    (root / "flows").mkdir()
    for name in ("run", "pyproject.toml", "constraints.txt", "flows/doctor.py"):
        shutil.copy2(ROOT / name, root / name)
    (root / "profiles/tiny.yaml").write_text("{}\n")
    (root / "bin").mkdir()
    for name in "bash cat chmod cut df dirname flock git grep ls mkdir sed sleep tail tr".split():
        if found := shutil.which(name):
            (root / "bin" / name).symlink_to(found)
    return root


def fake(root: Path, name: str, body: str) -> None:
    """A program of the checkout's own PATH, written in bash."""
    path = root / "bin" / name
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)


def run(root: Path, *words: str, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(root / "bin"), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run([str(root / "run"), *words], cwd=cwd or root, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_help_lists_the_commands_and_profiles(checkout, tmp_path):
    text = run(checkout, "--help", cwd=tmp_path).stdout
    for word in ("chat", "serve", "agent", "tools", "adapt", "annotate", "judge", "leaderboard", "why", "diff", "trace",
                 "size", "simulate", "sweep", "verify", "sign", "sbom", "push", "pull", "retrain", "rollback", "releases",
                 "schedule", "jobs", "repro", "tensorboard", "ui", "doctor", "test"):
        assert f"./run {word}" in text
    assert "--profile" in text
    assert "profiles: tiny" in text


def test_a_full_disk_is_said_before_anything_is_installed(checkout):
    (checkout / "bin/df").unlink()
    fake(checkout, "g++", "exit 0")
    fake(checkout, "df", "echo Filesystem 1024-blocks Used Available Capacity Mounted; echo /dev/a 9 9 5242880 99% /")
    said = run(checkout, "setup", code=1).stderr
    assert "5 GB are free" in said and "the packages take 4" in said
    assert not (checkout / ".venv").exists()


def test_unknown_commands_and_options_are_refused(checkout):
    assert "no command 'cleen'" in run(checkout, "cleen", code=2).stderr
    assert "--profile needs a name: tiny" in run(checkout, "--profile", code=1).stderr


def test_a_machine_without_a_compiler_or_python_is_told_so(checkout):
    assert "error: no C++ compiler: install one" in run(checkout, code=1).stderr
    fake(checkout, "g++", "exit 0")
    done = run(checkout, code=1)
    assert "error: Python 3.11 not found: install it" in done.stderr
    fake(checkout, "python3.11", 'case "$2" in *venv*) exit 1;; esac; exit 0')
    assert "error: this Python has no venv module" in run(checkout, code=1).stderr
    (checkout / "bin/git").unlink()
    assert "error: git not found" in run(checkout, code=1).stderr


def test_a_failed_installation_shows_its_end_and_leaves_no_stamp(checkout):
    fake(checkout, "g++", "exit 0")
    # a venv whose pip fails: the fake interpreter makes the venv, and is the interpreter in it
    fake(checkout, "python3.11", '''
case "$*" in
  *"-m venv"*) mkdir -p "${@: -1}/bin"; cat "$0" > "${@: -1}/bin/python"; chmod +x "${@: -1}/bin/python" ;;
  *"--upgrade"*) exit 0 ;;
  *"-m pip install"*) echo "Location '/x' is ignored: it is either a non-existing path or lacks a scheme"
                      echo "ERROR: no matching distribution found for torch"; exit 1 ;;
esac''')
    done = run(checkout, "setup", code=1)
    assert "ERROR: no matching distribution found for torch" in done.stderr
    assert "is ignored" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: setup failed while installing packages")
    assert not (checkout / ".venv/.installed").exists()


def test_setup_is_skipped_until_the_pins_change(checkout):
    fake(checkout, "g++", "exit 0")
    fake(checkout, "python3.11", '''
echo "$*" >> "$(dirname "$0")/calls"
case "$*" in
  *"-m venv"*) mkdir -p "${@: -1}/bin"; cat "$0" > "${@: -1}/bin/python"; chmod +x "${@: -1}/bin/python" ;;
esac''')
    calls = checkout / ".venv/bin/calls"
    run(checkout, "setup")
    assert "--group test -c constraints.txt" in calls.read_text()
    first = calls.read_text()
    done = run(checkout, "setup")
    assert calls.read_text() == first and "setup:" not in done.stderr
    (checkout / "constraints.txt").write_text((checkout / "constraints.txt").read_text() + "\n")
    run(checkout, "setup")
    assert calls.read_text().count("--group test") == 2


def test_doctor_speaks_where_nothing_is_installed(checkout):
    (checkout / "bin/python3").symlink_to(sys.executable)
    done = run(checkout, "doctor", code=1)
    assert "missing  packages   nothing installed yet" in done.stdout and "-> ./run setup" in done.stdout
    assert "missing  compiler" in done.stdout and "apt-get install g++" in done.stdout
    for check in ("python", "git", "disk", "memory", "registry", "port", "gpu"):
        assert f" {check} " in done.stdout


def install(checkout):
    """The real installation and the code, in `checkout`."""
    for folder in ("tasks", "flows"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"),
                        dirs_exist_ok=True)
    shutil.copy2(ROOT / "params.yaml", checkout)
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text(f"#!{shutil.which('bash')}\nexec '{sys.executable}' \"$@\"\n")
    (checkout / ".venv/bin/python").chmod(0o755)
    stamp = subprocess.run("cat pyproject.toml constraints.txt | git hash-object --stdin", shell=True, cwd=checkout,
                           capture_output=True, text=True).stdout
    (checkout / ".venv/.installed").write_text(stamp)


def test_annotating_what_is_not_made_is_one_line(checkout):
    install(checkout)
    assert run(checkout, "annotate", "quality", code=1).stderr.startswith("error: no documents yet (data/valued")
    assert "usage: ./run annotate" in run(checkout, "annotate", "colour", code=2).stderr
    assert "as trl's DPO reads it" in run(checkout, "annotate", "--help").stdout


def test_help_needs_no_model_no_release_and_no_server(checkout):
    """What a stranger types first starts nothing and asks for nothing."""
    install(checkout)
    for words, told in ((["chat"], "./run chat"), (["serve", "--released"], "--speculate"), (["retrain"], "Unchanged"),
                        (["releases"], "usage: ./run releases"), (["rollback"], "usage: ./run rollback")):
        done = run(checkout, *words, "--help")
        assert told in done.stdout, words
        assert "Prefect server" not in done.stderr


def test_serving_what_is_not_made_is_one_line(checkout):
    """No model yet, so serve says what makes it."""
    install(checkout)
    for command in ("serve", "chat"):
        done = run(checkout, command, "scratch", code=1)
        assert done.stderr.splitlines() == [
            "error: models/scratch/int4 is not there: ./run makes it (tracks served here: )"]
