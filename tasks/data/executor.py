"""Runs a datatrove pipeline where `runtime.executor` says: processes of this machine, a Ray cluster, or Slurm.

The number of tasks (ranks) belongs to the data, never to the machine: each rank reads its own input shard and
writes its own output shard, so the bytes are the same whatever the number of workers. A stage publishes its
outputs whole or not at all, so datatrove's completion markers, which know neither inputs nor parameters, start
fresh on every run.
"""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import setup_default_logger

from tasks import progress, stage
from tasks.data import remembered
from tasks.params import Runtime

LOGS = Path(".resume")
ROOT = Path(__file__).resolve().parents[2]
ATTEMPTS = 3  # runs of a rank whose worker dies
POLL_SECONDS = 0.5
SLURM_POLL_SECONDS = 10.0


def run(name: str, steps: list[PipelineStep], tasks: int, runtime: Runtime) -> Counter[str]:
    """Run `steps` over `tasks` ranks and return the sum of every count the steps registered by `stat_update`.

    `name` names the progress bar and the log folder `.resume/<name>/datatrove`. Raises what a rank raised (the
    first one seen), StageError where the executor cannot be had or a Slurm job ends with ranks missing.
    """
    logs = (LOGS / name / "datatrove").absolute()
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    executor = {"local": local, "ray": ray, "slurm": slurm}[runtime.executor](name, steps, tasks, runtime, logs)
    with shown(name, tasks, logs), quiet(logs / "console.log"):
        executor.run()
        if isinstance(executor, Slurm):
            executor.wait()
        elif missing := executor.get_incomplete_ranks(skip_completed=True):
            raise stage.StageError(f"{name}: {len(missing)} of {tasks} shards were not done, the first is {missing[0]}: "
                                   f"see {logs}/logs/task_{missing[0]:05d}.log")
    for step in steps:
        if isinstance(memory := getattr(step, "memory", None), remembered.Memory):
            memory.settle()
    return counts(logs, tasks)


def local(name: str, steps: list[PipelineStep], tasks: int, runtime: Runtime, logs: Path) -> PipelineExecutor:
    """Forked processes of this machine (in this process for one worker); they die with the stage."""
    return Local(steps, tasks=tasks, workers=min(runtime.workers, tasks), logging_dir=str(logs))


class Local(LocalPipelineExecutor):
    """datatrove's local executor with workers whose death is noticed: its pool waits for ever for a rank whose
    process was killed (out of memory, most often). The ranks that had not completed are run again."""

    def run(self) -> None:
        """Run every rank. Raises what a rank raised, StageError where workers died ATTEMPTS times."""
        pipeline = self.pipeline
        if self.workers == 1:
            for rank in range(self.tasks):
                self.pipeline = copy.deepcopy(pipeline)
                self._run_for_rank(rank)
            return
        tether_children()
        context = multiprocessing.get_context("fork")
        for _ in range(ATTEMPTS):
            missing = self.get_incomplete_ranks()
            with ProcessPoolExecutor(self.workers, context, become, (self,)) as pool:
                try:
                    for done in as_completed([pool.submit(run_rank, rank) for rank in missing]):
                        done.result()
                    return
                except BrokenProcessPool:
                    continue
                finally:
                    pool.shutdown(cancel_futures=True)
        missing = self.get_incomplete_ranks()
        raise stage.StageError(f"workers were killed {ATTEMPTS} times with {len(missing)} of {self.tasks} shards to go "
                               f"(first: {missing[0]}), most likely for want of memory: lower runtime.workers")


_executor: Local | None = None


def become(executor: Local) -> None:
    """In a forked worker: hold the executor, inherited and never pickled."""
    global _executor
    _executor = executor


def run_rank(rank: int) -> None:
    """In a forked worker: one rank, on steps whose counts start from nothing."""
    fresh = copy.copy(_executor)
    fresh.pipeline = copy.deepcopy(_executor.pipeline)
    fresh._run_for_rank(rank)


def ray(name: str, steps: list[PipelineStep], tasks: int, runtime: Runtime, logs: Path) -> PipelineExecutor:
    """The Ray cluster of RAY_ADDRESS, or one started here; the repository must be shared between its nodes."""
    try:
        import ray as cluster
    except ImportError:
        raise stage.StageError("runtime.executor is ray but Ray is not installed: pip install ray, "
                               "or set local") from None
    from datatrove.executor.ray import RayPipelineExecutor

    if not cluster.is_initialized():
        cluster.init(runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, logging_level=runtime.log_level)
    return RayPipelineExecutor(steps, tasks=tasks, workers=min(runtime.workers, tasks), logging_dir=str(logs))


def slurm(name: str, steps: list[PipelineStep], tasks: int, runtime: Runtime, logs: Path) -> PipelineExecutor:
    """A Slurm array job; partition, account and time limit come from sbatch's own SBATCH_* variables."""
    if not shutil.which("sbatch"):
        raise stage.StageError("runtime.executor is slurm but there is no sbatch here: run on a login node, "
                               "or set local")
    return Slurm(
        steps, tasks=tasks, workers=runtime.workers, logging_dir=str(logs), job_name=f"catena-{name}", qos="",
        time=os.environ.get("SBATCH_TIMELIMIT", ""), partition=os.environ.get("SBATCH_PARTITION", ""), requeue=False,
        env_command=f"cd {shlex.quote(os.getcwd())}; export PYTHONPATH={shlex.quote(str(ROOT))} "
                    f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
    )


class Slurm(SlurmPipelineExecutor):
    """datatrove's Slurm executor, waited for: a stage must not end before its ranks have."""

    def get_sbatch_args(self, max_array: int = 1) -> dict:
        """sbatch's options without the empty ones, which sbatch would refuse."""
        given = super().get_sbatch_args(max_array)
        return {key: value for key, value in given.items() if value != ""}

    def launch_merge_stats(self) -> None:
        """No second job: the counts are added up here."""

    def wait(self) -> None:
        """Return when every rank has completed. Raises StageError when the job is gone and ranks are missing."""
        while missing := self.get_incomplete_ranks(skip_completed=True):
            queue = subprocess.run(["squeue", "-h", "-j", str(self.job_id)], capture_output=True, text=True)
            if queue.returncode != 0 or not queue.stdout.strip():
                missing = self.get_incomplete_ranks(skip_completed=True)
                if missing:
                    raise stage.StageError(f"Slurm job {self.job_id} ended with {len(missing)} of {self.tasks} ranks "
                                           f"missing (first: {missing[0]}): see {self.slurm_logs_folder}")
            time.sleep(SLURM_POLL_SECONDS)


def counts(logs: Path, tasks: int) -> Counter[str]:
    """Totals by label over all steps and ranks, read from datatrove's stats files."""
    total: Counter[str] = Counter()
    for rank in range(tasks):
        for step in json.loads((logs / "stats" / f"{rank:05d}.json").read_text(encoding="utf-8")):
            for label, value in step["stats"].items():
                total[label] += value["total"] if isinstance(value, dict) else value
    return total


_tethered = False


def tether_children() -> None:
    """From here on, processes forked by this one die with it: a killed stage leaves no worker writing."""
    global _tethered
    if not _tethered:
        os.register_at_fork(after_in_child=stage.die_with_parent)
        _tethered = True


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send datatrove's console chatter, its workers' included, to `log`; the stage prints its own one line."""
    try:
        with log.open("w", encoding="utf-8") as sink, contextlib.redirect_stderr(sink):
            setup_default_logger()
            yield
    finally:
        setup_default_logger()


@contextlib.contextmanager
def shown(name: str, tasks: int, logs: Path) -> Iterator[None]:
    """A progress bar over the ranks that have completed."""
    done = threading.Event()
    with progress.track(total=tasks, what=name, unit="shard") as bar:

        def count() -> None:
            bar.update(len(list((logs / "completions").glob("*"))) - bar.n)

        def watch() -> None:
            while not done.wait(POLL_SECONDS):
                count()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            count()
