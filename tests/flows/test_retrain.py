"""Days of retraining on a toy repository: what is promoted, what is kept and by which gate; a kill; two at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from flows import release, retrain
from tasks import params
from tests.flows.conftest import ends
from tests.flows.releasing import git, line, python, repository

DAYS = '''
import json, pathlib, sys
from flows.retrain import retrain
for number, step in enumerate(json.loads(sys.stdin.read())):
    folder = pathlib.Path(step["notes"])
    for name, text in step["files"].items():
        path = folder / name
        path.unlink(missing_ok=True) if text is None else path.write_text(text)
    state = retrain("default", step["day"], True, return_state=True)
    print("DAY", json.dumps([step["day"], state.name, state.message]), flush=True)
'''


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Path, Path]:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("\n".join(line(number) for number in range(80)))
    return repository(tmp_path / "a check out", notes), notes


def live(root: Path, env: dict[str, str], days: list[tuple[str, Path, dict[str, str | None]]]) -> dict[str, list[str]]:
    """day -> [decision, reason] of retraining on each of `days` (name, folder, its files that change) in turn."""
    process = python(root, DAYS, env, stdin=-1)
    asked = [{"day": day, "notes": str(notes), "files": files} for day, notes, files in days]
    told, _ = process.communicate(json.dumps(asked), timeout=600)
    assert process.returncode == 0, told
    return {day: rest for day, *rest in (json.loads(row[4:]) for row in told.splitlines() if row.startswith("DAY "))}


def test_days_of_retraining(toy, prefect_env):
    root, notes = toy
    head, status = git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain")
    told = live(root, prefect_env, [
        ("first", notes, {}),
        ("no change", notes, {}),
        ("good", notes, {"b.txt": "\n".join(line(100 + number, f"w{number}") for number in range(40))}),
        ("poisoned", notes, {"c.txt": "\n".join(line(200 + number, "bad") for number in range(40))}),
        ("empty", notes, {"a.txt": "", "b.txt": None, "c.txt": None}),
    ])
    assert {day: decision for day, (decision, _) in told.items()} == {
        "first": "Promoted", "no change": "Unchanged", "good": "Promoted", "poisoned": "Kept", "empty": "Failed"}
    assert told["good"][1].startswith("release/2: gain: t-int4 pairs +0.6")
    assert told["poisoned"][1].startswith("dropped by safety: ") and "champion 0.0%" in told["poisoned"][1]
    assert told["empty"][1] == "mixture: sources: notes: no text in it: put some there"

    # the checkout was not touched; the release holds what made it, and what is served is that model
    assert git(root, "rev-parse", "HEAD") == head and git(root, "status", "--porcelain") == status
    assert git(root, "branch", "--show-current") == "main"
    known = release.releases(root)
    assert [one.tag for one in known] == ["release/1", "release/2"] and known[1].told("Champion") == "release/1"
    assert any(gate.startswith("t-int4 frozen held_out: ") for gate in known[1].trailers["Gate"])
    assert git(root, "cat-file", "-t", "release/2") == "tag" and git(root, "rev-parse", "release") == known[1].commit
    weights = json.loads((root / ".releases/models/t/weights.json").read_text())
    assert "w0" in weights and (root / ".releases/current").resolve().name == "2"
    assert "w0" not in json.loads((root / ".releases/1/models/t/int4/weights.json").read_text())
    pins = release.git(root, "show", "release/2:params.yaml")
    assert "sha256: " in pins and "snapshot: '2026'" not in pins

    history = [json.loads(row) for row in (root / ".retrain/history.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in history][:3] == ["Promoted", "Unchanged", "Promoted"]
    shown = httpx.post(f"{prefect_env['PREFECT_API_URL']}/artifacts/filter",
                       json={"artifacts": {"key": {"any_": ["retrain-gates"]}}}).json()
    page = next(one["data"] for one in shown if one["data"].startswith("# Kept") and "safety" in one["data"])
    assert "| dropped by safety |" in page and "**stop**" in page


def test_two_at_once_and_a_kill(toy, prefect_env):
    root, _ = toy
    (root / "step.py").write_text((root / "step.py").read_text().replace(
        'def train(out):', 'def train(out):\n    import os, time\n    dump("../../pid", str(os.getpid()))\n'
        '    while pathlib.Path("../../slow").exists(): time.sleep(0.05)'))
    git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qam", "slow")
    (root / "slow").touch()
    code = "import sys; from flows.retrain import main; sys.argv = ['retrain']; sys.exit(main())"
    first = python(root, code, prefect_env)
    end = time.monotonic() + 300
    while not (root / "pid").exists() or not (root / "pid").read_text():
        assert first.poll() is None and time.monotonic() < end, first.communicate()
        time.sleep(0.05)
    second = python(root, code, prefect_env)
    stage = int((root / "pid").read_text())
    waits = f"another retraining (process {first.pid}) works here; waiting"
    assert any(waits in row for row in iter(second.stdout.readline, ""))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    ends(stage)
    assert release.releases(root) == []
    (root / "slow").unlink()
    told, _ = second.communicate(timeout=600)
    assert second.returncode == 0 and "Promoted: release/1: the first release" in told, told
    runs = httpx.post(f"{prefect_env['PREFECT_API_URL']}/flow_runs/filter", json={
        "flows": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_DESC", "limit": 2}).json()
    assert sorted(run["state"]["name"] for run in runs) == ["Crashed", "Promoted"]


@pytest.mark.parametrize(("profile", "said"), [("../x", "letters, digits, - and _ only"), ("9", "a letter first"),
                                               ("none", "no profile none")])
def test_a_bad_profile_is_one_line(toy, profile, said):
    root, _ = toy
    with pytest.raises(params.ParamsError, match=said):
        retrain.prepare(root, profile, git(root, "rev-parse", "HEAD"))


def test_the_worktree_holds_what_is_committed_and_keeps_its_outputs(toy):
    root, _ = toy
    (root / "step.py").write_text("an edit under way")
    place = retrain.prepare(root, "default", git(root, "rev-parse", "HEAD"))
    assert "def evaluate" in (place / "step.py").read_text()
    (place / "data").mkdir(exist_ok=True)
    (place / "data/corpus.txt").write_text("made")
    (place / "stray.py").write_text("of a commit before")
    retrain.prepare(root, "default", git(root, "rev-parse", "HEAD"))
    assert (place / "data/corpus.txt").read_text() == "made" and not (place / "stray.py").exists()
    assert git(root, "branch", "--show-current") == "main"
