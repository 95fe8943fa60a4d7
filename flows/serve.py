"""Leave Catena running: retraining by the clock, on new data, and by a button of the Prefect UI.

    ./run schedule             register everything below, then work and watch until stopped (what a service runs)
    ./run schedule register    only register: the worker runs elsewhere, or is started by hand
    ./run schedule watch       only watch the sources and tell Prefect when one has changed
    ./run schedule show        what is registered, what runs next, which limits hold

Registered are a work pool (processes of this machine unless the pool is there with another type), the deployments
`retrain` (cron, event, button) and `chain` (button), the automation that starts a retraining when a watched source
has changed, and the global limit on stages at work. Values: `schedule:` in params.yaml. Guide: docs/OPERATE.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import Field, model_validator

from flows import watch
from tasks import params, stage

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.deployments.runner import RunnerDeployment

CHANGED = "catena.sources.changed"  # the event of the automation
STOPPING = 30                       # seconds that a worker has to end its runs
IN_IMAGE = "/catena"                # where the checkout lies in a pod (deploy/Containerfile)
FLOWS = {"retrain": ("flows.retrain", "retrain"), "chain": ("flows.scheduled", "run")}


class Schedule(params.Section):
    """`schedule:` of params.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="of the work pool and the deployments")
    cron: str | None = Field(description="five fields; null: never by the clock")
    timezone: str = Field(description="an IANA name")
    watch: list[str] = Field(description="paths, globs and URLs")
    watch_seconds: int = Field(ge=1, le=86400, description="between two looks")
    stages: int = Field(ge=1, le=1024, description="stages at work at once in all runs")

    @model_validator(mode="after")
    def readable(self) -> Schedule:
        """Refuse a cron or a zone that Prefect cannot read, and six fields (seconds)."""
        from prefect.client.schemas.schedules import CronSchedule

        if len((self.cron or "* * * * *").split()) != 5:
            raise ValueError(f"cron {self.cron!r}: give five fields: minute, hour, day, month, weekday")
        try:
            CronSchedule(cron=self.cron or "* * * * *", timezone=self.timezone)
        except ValueError as error:
            raise ValueError("; ".join(str(fault["msg"]) for fault in error.errors())) from None
        return self

    @property
    def resource(self) -> str:
        """The resource that the event of a changed source is about."""
        return f"catena.sources.{self.name}"


def deployments(flows: dict[str, Flow], schedule: Schedule, home: str, profiles: list[str]) -> list[RunnerDeployment]:
    """The deployments of `flows` (by name: retrain, chain), run in the checkout at `home` by a worker of the pool.

    Only retrain has the cron and the event. A second run of a deployment waits for the first.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.events import DeploymentEventTrigger
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    made = []
    for name, flow in flows.items():
        own: dict[str, Any] = {}
        if name == "retrain":
            own["triggers"] = [DeploymentEventTrigger(
                name=f"{schedule.name}: retrain when a source has changed", enabled=True, expect={CHANGED},
                description="told by ./run schedule, which watches the sources (params.yaml, schedule)",
                match={"prefect.resource.id": schedule.resource},
                parameters={"reason": {"__prefect_kind": "jinja", "template": "changed: {{ event.payload.names }}"}})]
            if schedule.cron:
                own["schedules"] = [Cron(schedule.cron, timezone=schedule.timezone,
                                         slug=f"{schedule.cron} {schedule.timezone}",  # what the UI shows
                                         parameters={"reason": f"cron {schedule.cron} {schedule.timezone}"})]
        deployment = flow.to_deployment(
            schedule.name, work_pool_name=schedule.name, entrypoint_type=EntrypointType.MODULE_PATH,
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
            job_variables={"working_dir": home}, tags=["catena"], **own)
        typed = deployment._parameter_openapi_schema.properties.get("profile")
        if typed is not None:  # a list to choose from, and the server refuses any other
            typed["enum"] = ["default", *profiles]
        made.append(deployment)
    return made


def register(client: SyncPrefectClient, flows: dict[str, Flow], schedule: Schedule, root: Path) -> list[str]:
    """Make or bring up to date the pool, the limit, the deployments and the automation; lines that say what there is.

    A pool that is there keeps its type, template and limit.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    from flows.chain import SLOTS

    try:
        pool = client.read_work_pool(schedule.name)
    except ObjectNotFound:
        pool = client.create_work_pool(WorkPoolCreate(
            name=schedule.name, type="process", description="Catena's runs, by ./run schedule on its machine",
            base_job_template=ProcessWorker.get_default_base_job_template()))
    client.upsert_global_concurrency_limit_by_name(SLOTS, schedule.stages)
    home = str(root) if pool.type == "process" else IN_IMAGE
    profiles = sorted(path.stem for path in (root / "profiles").glob("*.yaml"))
    for deployment in deployments(flows, schedule, home, profiles):
        made = deployment.apply()
        wanted = {one.slug for one in deployment.schedules or ()}
        for old in client.read_deployment_schedules(made):  # applying may leave an earlier schedule in place
            if old.slug not in wanted:
                client.delete_deployment_schedule(made, old.id)
    return shown(client, schedule)


def shown(client: SyncPrefectClient, schedule: Schedule) -> list[str]:
    """What is registered under the schedule's name, a line each. Empty where nothing is."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import ObjectNotFound

    from flows.chain import SLOTS

    try:
        pool = client.read_work_pool(schedule.name)
        limit = client.read_global_concurrency_limit_by_name(SLOTS)
    except ObjectNotFound:
        return []
    ui = str(client.api_url).removesuffix("/api/").removesuffix("/api")
    status = pool.status.value.lower().replace("_", " ") if pool.status else "new"
    lines = [f"pool:        {pool.name} ({pool.type}, {status})",
             f"limit:       {limit.active_slots} of {limit.limit} {SLOTS} taken; all runs share them"]
    for one in client.read_deployments(deployment_filter=DeploymentFilter(name={"any_": [schedule.name]})):
        name = client.read_flow(one.flow_id).name
        lines.append(f"deployment:  {name}/{one.name}: one run at a time; button: {ui}/deployments/deployment/{one.id}")
        for when in one.schedules:
            cron = f"{when.schedule.cron} {when.schedule.timezone}"
            lines.append(f"  cron:      {cron}{'' if when.active and not one.paused else ' (paused)'}")
        for automation in client.read_resource_related_automations(f"prefect.deployment.{one.id}"):
            lines.append(f"  event:     {CHANGED}{'' if automation.enabled else ' (paused)'}: "
                         f"{ui}/automations/automation/{automation.id}")
        planned = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id={"any_": [one.id]}), sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=1,
            flow_run_filter=FlowRunFilter(state={"type": {"any_": ["SCHEDULED"]}}))
        lines += [f"  next:      {run.expected_start_time:%Y-%m-%d %H:%M %Z}" for run in planned]
    return lines


def announce(client: SyncPrefectClient, schedule: Schedule, names: list[str]) -> None:
    """Tell the server that sources have changed. Raises ConnectionError where it did not take the news.

    By a request, which is answered, not by the event socket, which is not.
    """
    from prefect.events import Event, Resource

    about = Resource({"prefect.resource.id": schedule.resource, "prefect.resource.name": "watched sources"})
    event = Event(event=CHANGED, resource=about, payload={"names": ", ".join(names)})
    try:
        client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()
    except httpx.HTTPError as error:
        raise ConnectionError(type(error).__name__) from None


def worker(schedule: Schedule) -> subprocess.Popen[bytes]:
    """A process worker of the pool in a process of its own, which dies with this one."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", schedule.name, "--type", "process",
               "--name", f"{schedule.name} on {os.uname().nodename}"]

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a worker stops by it alone; a shell's & leaves it ignored
        stage.die_with_parent()

    return subprocess.Popen(command, preexec_fn=begin)


def attend(client: SyncPrefectClient, schedule: Schedule, work: subprocess.Popen[bytes] | None) -> int:
    """Watch the sources until stopped, or until the worker (where there is one) has ended; the exit code."""
    values = params.load()
    watched = watch.sources(values, schedule.watch)
    print(f"watching {', '.join(source.name for source in watched)} every {schedule.watch_seconds} s" if watched else
          "nothing to watch: `sources:` has no local directory, file or seed site, and schedule.watch is empty",
          flush=True)
    looks = watch.rounds(watched, watch.NOTES, values["crawl"]["user_agent"],
                         lambda names: announce(client, schedule, names))
    while True:
        for line in next(looks) if watched else ():
            print(line, flush=True)
        end = time.monotonic() + schedule.watch_seconds
        while time.monotonic() < end:
            if work and work.poll() is not None:
                print(f"error: the worker ended with code {work.returncode}", file=sys.stderr)
                return 1
            time.sleep(0.5)


def serve(command: str, schedule: Schedule) -> int:
    """Carry out one of the module's commands against the server of PREFECT_API_URL; the exit code."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        if command in ("up", "register"):
            flows = {name: getattr(importlib.import_module(module), flow) for name, (module, flow) in FLOWS.items()}
            print("\n".join(register(client, flows, schedule, Path.cwd())), flush=True)
        if command == "show":
            lines = shown(client, schedule)
            print("\n".join(lines) or f"nothing is registered as {schedule.name}: ./run schedule registers it")
        if command not in ("up", "watch"):
            return 0
        work = worker(schedule) if command == "up" else None
        try:
            return attend(client, schedule, work)
        except KeyboardInterrupt:
            return 0
        finally:
            if work and work.poll() is None:
                work.terminate()
                try:
                    work.wait(STOPPING)
                except subprocess.TimeoutExpired:
                    work.kill()


def main() -> int:
    """The command line of the module's docstring: 0 done or stopped, 1 the worker ended, 2 nothing could be done."""
    parser = argparse.ArgumentParser(prog="./run schedule", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", default="up", choices=["up", "register", "watch", "show"],
                        help="up, the default, registers, works and watches")
    command = parser.parse_args().command
    if not os.environ.get("PREFECT_API_URL"):
        os.execv(sys.executable, [sys.executable, "-m", "flows.server", sys.executable, "-m", "flows.serve", command])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return serve(command, params.section(Schedule, "schedule", params.load()))
    except httpx.HTTPError as error:
        why = " ".join(str(error).split()) or type(error).__name__
        print(f"error: the Prefect server at {os.environ['PREFECT_API_URL']}: {why}", file=sys.stderr)
    except (params.ParamsError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
