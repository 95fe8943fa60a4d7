"""Retraining for real on a Prefect server, with a worker: registered, started by event and button, one at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flows import serve
from flows.chain import SLOTS
from tasks import params
from tests.flows.conftest import ROOT, api_of

# stands in for flows.retrain by its signature: minutes of training are tested elsewhere, starting it is tested here
FLOW = '''
import time
from pathlib import Path
from prefect import flow

@flow(name="retrain", persist_result=False)
def retrain(profile: str = "default", reason: str = "by hand", refresh: bool = True) -> None:
    begun = time.monotonic()
    while Path("hold").exists():
        time.sleep(0.05)
    with Path("ran").open("a") as log:
        log.write(f"{profile}|{reason}|{refresh}|{begun}|{time.monotonic()}\\n")
'''
COMMAND = '''
import sys
from flows import serve
serve.FLOWS = {"retrain": ("retraining", "retrain"), "chain": ("flows.scheduled", "run")}
sys.exit(serve.main())
'''
PATIENCE = 240


@pytest.fixture
def checkout(tmp_path):
    """A directory with what `./run schedule` reads, that watches its folder inbox."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["schedule"] |= {"name": "here", "watch": ["inbox"], "watch_seconds": 1, "cron": "30 4 * * *",
                           "timezone": "Asia/Shanghai", "stages": 3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "retraining.py").write_text(FLOW)
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/tiny.yaml").write_text("{}\n")
    (tmp_path / "inbox").mkdir()
    return tmp_path


@pytest.fixture
def command(checkout, prefect_env):
    """Start `./run schedule` with some words; its Popen, whose output goes to the file `log`."""
    started = []

    def start(*words: str) -> subprocess.Popen:
        with (checkout / "log").open("a") as log:
            process = subprocess.Popen([sys.executable, "command.py", *words], cwd=checkout, stdout=log, stderr=log,
                                       env={**prefect_env, "PYTHONPATH": f"{ROOT}{os.pathsep}{checkout}"})
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(condition, what: str):
    """The first true value of `condition()`."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.2)
    return value


def test_event_and_button_start_the_flow_through_the_worker_one_at_a_time(checkout, command, prefect_env):
    api = api_of(prefect_env)
    said = lambda: (checkout / "log").read_text()  # noqa: E731
    ran = lambda: (checkout / "ran").read_text().splitlines() if (checkout / "ran").exists() else []  # noqa: E731
    service = command()
    until(lambda: "Worker 'here" in said() and "watching inbox every 1 s" in said(), said)
    made = api.get("/deployments/name/retrain/here").json()
    assert made["schedules"][0]["schedule"] | {"cron": "30 4 * * *", "timezone": "Asia/Shanghai"} == \
        made["schedules"][0]["schedule"]
    assert made["global_concurrency_limit"]["limit"] == 1
    assert made["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    typed = made["parameter_openapi_schema"]["properties"]
    assert {name: typed[name]["type"] for name in typed} == \
        {"profile": "string", "reason": "string", "refresh": "boolean"}
    assert typed["profile"]["enum"] == ["default", "tiny"]
    assert api.get(f"/v2/concurrency_limits/{SLOTS}").json()["limit"] == 3
    assert api.get("/deployments/name/chain/here").json()["schedules"] == []

    # new data: the watcher tells, the automation starts the run, the worker carries it out
    (checkout / "hold").touch()
    (checkout / "inbox/new.txt").write_text("a page")
    events = lambda: api.post("/flow_runs/filter", json={  # noqa: E731
        "deployments": {"id": {"any_": [made["id"]]}}, "flow_runs": {"tags": {"all_": ["catena"]}}}).json()
    by_event = until(lambda: [run for run in events() if run["state"]["type"] == "RUNNING"], said)[0]
    assert by_event["parameters"]["reason"] == "changed: inbox"

    # the button, meanwhile: typed parameters, a wrong one refused, and it waits for the first
    wrong = api.post(f"/deployments/{made['id']}/create_flow_run", json={"parameters": {"profile": "nine"}})
    assert wrong.status_code == 409 and "'nine' is not one of ['default', 'tiny']" in wrong.text
    wrong = api.post(f"/deployments/{made['id']}/create_flow_run", json={"parameters": {"refresh": "perhaps"}})
    assert wrong.status_code == 409 and "refresh" in wrong.text
    pressed = api.post(f"/deployments/{made['id']}/create_flow_run", json={
        "parameters": {"profile": "tiny", "reason": "button", "refresh": False}, "state": {"type": "SCHEDULED"}}).json()
    state = lambda run: api.get(f"/flow_runs/{run['id']}").json()["state"]  # noqa: E731
    until(lambda: state(pressed)["name"] == "AwaitingConcurrencySlot", lambda: str(state(pressed)))
    assert ran() == []
    (checkout / "hold").unlink()
    until(lambda: state(by_event)["type"] == "COMPLETED", lambda: str(state(by_event)) + said())
    until(lambda: state(pressed)["type"] == "COMPLETED", lambda: str(state(pressed)) + said())
    first, second = (line.split("|") for line in ran())
    assert first[:3] == ["default", "changed: inbox", "True"] and second[:3] == ["tiny", "button", "False"]
    assert float(second[3]) >= float(first[4])  # one at a time
    service.send_signal(signal.SIGTERM)
    assert service.wait(PATIENCE) == 0, said()

    # registered again without a cron: the schedule goes, the automation is there once
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("cron: 30 4 * * *", "cron: null"))
    assert command("register").wait(PATIENCE) == 0, said()
    assert api.get("/deployments/name/retrain/here").json()["schedules"] == []
    owned = api.get(f"/automations/related-to/prefect.deployment.{made['id']}").json()
    assert [one["trigger"]["match"] for one in owned] == [{"prefect.resource.id": "catena.sources.here"}]
    api.delete(f"/v2/concurrency_limits/{SLOTS}")
    shutil.rmtree(checkout / "inbox")


@pytest.mark.parametrize("change, said", [
    ({"cron": "99 3 * * 1"}, "schedule = "), ({"cron": "0 0 3 * * 1"}, "give five fields"),
    ({"timezone": "Mars/Olympus"}, "Mars/Olympus"), ({"watch_seconds": 0}, "schedule.watch_seconds = 0"),
    ({"name": "My Pool"}, "schedule.name = 'My Pool'"), ({"crom": None}, "schedule.crom = None: no such key"),
    ({"stages": 0}, "schedule.stages = 0")])
def test_a_faulty_schedule_names_its_key(change, said):
    values = params.load(Path(ROOT / "params.yaml"))
    with pytest.raises(params.ParamsError, match="params.yaml: schedule") as fault:
        params.section(serve.Schedule, "schedule", {**values, "schedule": values["schedule"] | change})
    assert said in str(fault.value)


def test_help_needs_no_server_and_a_wrong_word_is_refused(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "none")}
    env.pop("PREFECT_API_URL", None)
    for word, code, said in (("--help", 0, "./run schedule show"), ("later", 2, "invalid choice: 'later'")):
        done = subprocess.run([sys.executable, "-m", "flows.serve", word], cwd=tmp_path, env=env, text=True,
                              capture_output=True)
        assert done.returncode == code and said in done.stdout + done.stderr
    assert not (tmp_path / "none").exists()
