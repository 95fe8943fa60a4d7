"""The flow on a small real pipeline: the ends of stages, the same lock as dvc repro, kills, failures, two at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import httpx
import yaml

from flows import machine
from flows.chain import SLOTS
from tests.flows.conftest import api_of, ends, sh


def states(env: dict[str, str], root: Path) -> list[tuple[str, dict[str, str]]]:
    """(state of the run, stage -> state) of this workspace's flow runs, oldest first, from the server."""
    api = env["PREFECT_API_URL"]
    tag = {"flow_runs": {"tags": {"all_": [f"workspace:{root}"]}}}
    runs = httpx.post(f"{api}/flow_runs/filter", json={**tag, "sort": "EXPECTED_START_TIME_ASC"}).json()
    told = []
    for run in runs:
        tasks = httpx.post(f"{api}/task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}).json()
        told.append((run["state"]["name"], {task["name"]: task["state"]["name"] for task in tasks}))
    return told


def finish(process, code: int = 0) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    return output


def wait_for(path: Path, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)
    return path.read_text()


def settled(env: dict[str, str], root: Path, wanted: list[tuple[str, dict[str, str]]]) -> None:
    """Task states reach the server a moment after the run; wait for them."""
    end = time.monotonic() + 20
    while (told := states(env, root)) != wanted:
        assert time.monotonic() < end, told
        time.sleep(0.2)


def test_first_run_then_nothing_to_do_then_one_param(pipeline, run_chain, prefect_env):
    output = finish(run_chain(pipeline))
    assert (pipeline / "out/d.txt").read_text() == "1\n2\n3\n4\n"
    assert "4 Completed" in output and prefect_env["PREFECT_API_URL"].removesuffix("/api") in output
    every = dict.fromkeys("abcd", "Completed")
    settled(prefect_env, pipeline, [("Completed", every)])
    flow_lock = (pipeline / "dvc.lock").read_bytes()
    kept, entries = machine.read(pipeline), yaml.safe_load(flow_lock)["stages"]
    assert kept["stages"].keys() == set("abcd") and machine.maker(kept, "d", entries["d"])["threads"] is None
    entries["d"]["outs"][0]["md5"] = "0" * 32
    assert machine.maker(kept, "d", entries["d"]) is None  # the record speaks of the outs it saw, no others

    assert "4 Cached" in finish(run_chain(pipeline))
    settled(prefect_env, pipeline, [("Completed", every), ("Completed", dict.fromkeys("abcd", "Cached"))])
    assert (pipeline / "dvc.lock").read_bytes() == flow_lock

    (pipeline / "params.yaml").write_text("a: 1\nb: 7\n")
    finish(run_chain(pipeline))
    assert states(prefect_env, pipeline)[2][1] == {"a": "Cached", "b": "Completed", "c": "Cached", "d": "Completed"}
    (pipeline / "params.yaml").write_text("a: 1\nb: 2\n")
    (pipeline / "out/b.txt").unlink()
    finish(run_chain(pipeline))
    assert states(prefect_env, pipeline)[3][1] == {"a": "Cached", "b": "Restored", "c": "Cached", "d": "Restored"}
    assert (pipeline / "dvc.lock").read_bytes() == flow_lock


def test_flow_and_plain_repro_leave_the_same_lock(pipeline, run_chain):
    finish(run_chain(pipeline))
    lock = (pipeline / "dvc.lock").read_bytes()
    (pipeline / "dvc.lock").unlink()
    (pipeline / "out/a.txt").unlink()
    done = sh(sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache", cwd=pipeline)
    assert done.returncode == 0, done.stderr
    assert (pipeline / "dvc.lock").read_bytes() == lock


def test_failure_names_stage_and_its_line_and_skips_what_is_below(pipeline, run_chain, prefect_env):
    (pipeline / "fail").write_text("b")
    output = finish(run_chain(pipeline), code=1)
    assert "error: b: the switch says no (1 > 0): remove the file fail" in output.splitlines()
    settled(prefect_env, pipeline, [("Failed", {"a": "Completed", "b": "Failed", "c": "Completed", "d": "Skipped"})])
    (pipeline / "fail").unlink()
    finish(run_chain(pipeline))
    assert states(prefect_env, pipeline)[1][1] == {"a": "Cached", "b": "Completed", "c": "Cached", "d": "Completed"}


def test_an_alarm_of_a_stage_is_an_event_of_the_server(pipeline, run_chain, prefect_env):
    (pipeline / "alarm").write_text("b")
    assert "watchman: t: step 9: spike" in finish(run_chain(pipeline))
    wanted, end = {"filter": {"event": {"name": ["catena.alarm"]}}}, time.monotonic() + 60
    while not (found := httpx.post(f"{prefect_env['PREFECT_API_URL']}/events/filter", json=wanted).json()["events"]):
        assert time.monotonic() < end, "the event did not come"
        time.sleep(0.2)
    assert found[0]["payload"] == {"line": "t: step 9: spike"}
    assert found[0]["resource"]["prefect.resource.id"] == "catena.stage.b"
    # and its bar an artifact, which the end of the stage completed
    shown = httpx.post(f"{prefect_env['PREFECT_API_URL']}/artifacts/filter", json={
        "artifacts": {"key": {"any_": ["progress-b"]}, "type": {"any_": ["progress"]}}}).json()
    assert [one["data"] for one in shown] == [100.0] and shown[0]["description"].startswith("ran in ")
    assert shown[0]["task_run_id"]


def test_killed_flow_leaves_no_stage_behind_and_the_next_ends_in_the_same_bytes(pipeline, run_chain, prefect_env):
    finish(run_chain(pipeline))
    lock = (pipeline / "dvc.lock").read_bytes()
    (pipeline / "params.yaml").write_text("a: 1\nb: 2\n# run b again\n")
    (pipeline / "step.py").write_text((pipeline / "step.py").read_text() + "# changed\n")
    (pipeline / "pids/b").unlink()
    (pipeline / "slow").write_text("b")
    process = run_chain(pipeline)
    stage = int(wait_for(pipeline / "pids/b"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ends(stage)
    assert states(prefect_env, pipeline)[1][0] == "Running"

    (pipeline / "slow").unlink()
    output = finish(run_chain(pipeline))
    assert "1 earlier run killed; closed as Crashed" in output
    told = states(prefect_env, pipeline)
    assert told[1][0] == "Crashed" and told[1][1]["b"] == "Crashed" and told[1][1]["a"] == "Completed"
    assert told[2][1]["a"] == "Cached" and told[2][1]["b"] == "Completed"
    before, after = (yaml.safe_load(text)["stages"] for text in (lock, (pipeline / "dvc.lock").read_bytes()))
    assert {name: entry["outs"] for name, entry in before.items()} == \
           {name: entry["outs"] for name, entry in after.items()}


def test_a_second_run_waits_for_the_first(pipeline, run_chain):
    (pipeline / "slow").write_text("a")
    first = run_chain(pipeline)
    wait_for(pipeline / "pids/a")
    second = run_chain(pipeline)
    assert f"another run (process {first.pid}) works here; waiting" in second.stdout.readline()
    assert second.poll() is None
    (pipeline / "slow").unlink()
    finish(first)
    assert "4 Cached" in finish(second)


def test_interrupt_stops_the_stage_and_says_how_to_go_on(pipeline, run_chain):
    (pipeline / "slow").write_text("a")
    process = run_chain(pipeline)
    stage = int(wait_for(pipeline / "pids/a"))
    process.send_signal(signal.SIGINT)
    assert "./run goes on from here" in finish(process, code=130)
    ends(stage)


def test_alone_means_alone(pipeline, run_chain):
    (pipeline / "slow").write_text("a")
    process = run_chain(pipeline)
    wait_for(pipeline / "pids/a")
    time.sleep(2)
    assert not (pipeline / "pids/c").exists()
    (pipeline / "slow").unlink()
    finish(process)
    assert (pipeline / "out/c.txt").exists()


def test_broken_pipeline_is_one_line(pipeline, run_chain):
    (pipeline / "dvc.yaml").write_text("stages:\n  a:\n    cmd: python step.py ${nowhere}\n")
    output = finish(run_chain(pipeline), code=1)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "nowhere" in errors[0]


def test_a_global_limit_holds_stages_back_until_a_slot_is_free(pipeline, run_chain, prefect_env):
    with api_of(prefect_env) as api:
        api.post("/v2/concurrency_limits/", json={"name": SLOTS, "limit": 1, "active": True}).raise_for_status()
        slot = {"names": [SLOTS], "slots": 1, "mode": "concurrency"}
        api.post("/v2/concurrency_limits/increment", json=slot).raise_for_status()
        try:
            process = run_chain(pipeline)
            while "waits for one of the catena-stages" not in (line := process.stdout.readline()):
                assert line
            time.sleep(2)
            assert not (pipeline / "pids").exists()
            api.post("/v2/concurrency_limits/decrement", json=slot).raise_for_status()
            finish(process)
            assert api.get(f"/v2/concurrency_limits/{SLOTS}").json()["active_slots"] == 0
        finally:
            api.delete(f"/v2/concurrency_limits/{SLOTS}")
