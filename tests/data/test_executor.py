"""The executor: counts, errors, dead parents, and Slurm through stand-ins for sbatch and squeue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tasks import params, stage
from tasks.data import documents, executor, retention

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = {"threads": 1, "workers": 2, "executor": "local", "device": "cpu", "host": "127.0.0.1", "port": 0,
           "slots": 1, "api_key": None, "log_level": "INFO", "hostfile": None}


def runtime(**changes: object) -> params.Runtime:
    """A runtime section."""
    return params.section(params.Runtime, "runtime", {"runtime": RUNTIME | changes})


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Read four shards of three documents, write them back."""
    monkeypatch.chdir(tmp_path)
    for shard in range(4):
        items = [documents.Document(text="x" * (n + 1), id=f"{shard}:{n}", metadata={"reason": "odd"} if n == 1 else {})
                 for n in range(3)]
        documents.write(Path(f"in/{shard:05d}.jsonl"), items)
    return [documents.ReadShards(Path("in")), documents.WriteShards(Path("out"), Path("rejected"))]


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_are_summed_over_ranks(steps, workers):
    """The retention table's rows, whatever the workers."""
    table = retention.table(executor.run("demo", steps, 4, runtime(workers=workers)))
    assert table == {"read": 12, "kept": 8, "failed": 0, "dropped": {"odd": 4}, "characters_in": 24,
                     "characters_out": 16}
    assert len(list(Path("out").glob("*.jsonl"))) == len(list(Path("rejected").glob("*.jsonl"))) == 4


def test_lost_documents_are_noticed():
    """read must be kept + dropped + failed."""
    with pytest.raises(stage.StageError, match="read 5 but kept 3"):
        retention.table({"read": 5, "kept": 3, "dropped/short": 1})


def test_a_rerun_starts_fresh(steps):
    """datatrove's completion markers of an earlier run do not make ranks look done."""
    executor.run("demo", steps, 4, runtime())
    Path("out/00002.jsonl").unlink()
    executor.run("demo", steps, 4, runtime())
    assert Path("out/00002.jsonl").exists()


def test_the_console_stays_quiet(steps, capfd):
    """datatrove's log goes to .resume, the terminal sees the progress bar alone."""
    executor.run("demo", steps, 4, runtime())
    shown = capfd.readouterr()
    assert "PIPELINE" not in shown.out + shown.err
    assert "PIPELINE" in Path(".resume/demo/datatrove/console.log").read_text()


def test_missing_ray_and_slurm_say_so(steps, monkeypatch):
    """One line with the remedy."""
    monkeypatch.setenv("PATH", str(Path.cwd()))
    with pytest.raises(stage.StageError, match="no sbatch"):
        executor.run("demo", steps, 4, runtime(executor="slurm"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(stage.StageError, match="Ray is not installed"):
        executor.run("demo", steps, 4, runtime(executor="ray"))


def stand_in(folder: Path, works: bool, monkeypatch) -> None:
    """sbatch that runs every array task at once, srun that runs its command, squeue that knows no job."""
    folder.mkdir()
    task = 'bash "$script" || true' if works else "true"
    for name, body in (
        ("sbatch", f'''for a in "$@"; do script=$a
            case $a in --export=ALL,*) export "${{a#--export=ALL,}}";; esac; done
            last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script"); export SLURM_NODELIST=localhost
            grep -q 'partition=$' "$script" && exit 3
            for i in $(seq 0 "$last"); do export SLURM_ARRAY_TASK_ID=$i; {task}; done >> sbatch.log 2>&1
            echo Submitted batch job 7'''),
        ("srun", 'while [ "$1" != launch_pickled_pipeline ]; do shift; done; exec "$@"'),
        ("squeue", "exit 0"),
        ("scontrol", "echo localhost"),
    ):
        path = folder / name
        path.write_text(f"#!/bin/bash\n{textwrap.dedent(body)}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(executor, "SLURM_POLL_SECONDS", 0.1)


def test_slurm_runs_every_rank_and_is_waited_for(steps, tmp_path, monkeypatch):
    """The same table and files as a local run."""
    stand_in(tmp_path / "bin", True, monkeypatch)
    table = retention.table(executor.run("demo", steps, 4, runtime(executor="slurm")))
    assert table["kept"] == 8, (tmp_path / "sbatch.log").read_text()[-2000:]
    assert len(list(Path("out").glob("*.jsonl"))) == 4


def test_slurm_job_that_dies_is_one_line(steps, tmp_path, monkeypatch):
    """The job is gone and ranks are missing."""
    stand_in(tmp_path / "bin", False, monkeypatch)
    with pytest.raises(stage.StageError, match="4 of 4 ranks missing"):
        executor.run("demo", steps, 4, runtime(executor="slurm"))


SELF_KILLER = """
    import os, signal, sys, time
    from pathlib import Path
    from datatrove.pipeline.base import PipelineStep
    from tasks import params
    from tasks.data import documents, executor
    class Fatal(PipelineStep):
        type, name = "x", "fatal"
        def __init__(self, times, process):
            super().__init__()
            self.times, self.process, self.marks = times, process, Path("killed").absolute()
        def run(self, data, rank=0, world_size=1):
            self.marks.mkdir(exist_ok=True)
            if rank == 2 and len(list(self.marks.iterdir())) < self.times:
                (self.marks / str(time.monotonic_ns())).touch()
                os.kill(os.getpid() if self.process == "own" else os.getppid(), signal.SIGKILL)
                os._exit(1)
            yield from data
    def steps(times, process):
        return [documents.ReadShards(Path("in")), Fatal(times, process),
                documents.WriteShards(Path("out"), Path("rejected"))]
"""


def script(tmp_path: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run SELF_KILLER and `body` as a program in tmp_path."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(SELF_KILLER) + textwrap.dedent(body))
    return subprocess.run([sys.executable, str(path), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=240,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"})


def test_a_killed_worker_is_retried_and_a_deadly_shard_is_one_line(steps, tmp_path):
    """Two deaths of a worker cost nothing but time; the third is told with what to do."""
    executor.run("demo", steps, 4, runtime())
    whole = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for path in Path("out").iterdir():
        path.unlink()
    body = f"""
        runtime = params.Runtime(**{RUNTIME!r})
        print(dict(executor.run("demo", steps(int(sys.argv[1]), "own"), 4, runtime)))
    """
    done = script(tmp_path, body, "2")
    assert done.returncode == 0 and "'kept': 8" in done.stdout, done.stderr[-2000:]
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == whole
    for mark in Path("killed").iterdir():
        mark.unlink()
    failed = script(tmp_path, body, "3")
    assert failed.returncode != 0 and "lower runtime.workers" in failed.stderr


def test_a_ray_cluster_of_two_nodes_gives_the_same_bytes_and_retries(steps, tmp_path):
    """A local cluster of two nodes with one core each; the worker of one shard is killed once."""
    pytest.importorskip("ray", reason="Ray is not installed")
    executor.run("demo", steps, 4, runtime())
    whole = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for path in Path("out").iterdir():
        path.unlink()
    done = script(tmp_path, f"""
        import ray
        from ray.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1}})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, runtime_env={{"env_vars": {{"PYTHONPATH": {str(ROOT)!r}}}}})
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        class Where(PipelineStep):
            type, name = "x", "where"
            def __init__(self):
                super().__init__()
                self.folder = Path("nodes").absolute()
            def run(self, data, rank=0, world_size=1):
                self.folder.mkdir(exist_ok=True)
                (self.folder / ray.get_runtime_context().get_node_id()).touch()
                yield from data
        runtime = params.Runtime(**{RUNTIME | {"executor": "ray"}!r})
        print(dict(executor.run("demo", [*steps(1, "parent"), Where()], 4, runtime)))
        ray.shutdown()
        cluster.shutdown()
    """)
    assert done.returncode == 0 and "'kept': 8" in done.stdout, done.stderr[-3000:]
    assert len(list(Path("killed").iterdir())) == 1 and len(list(Path("nodes").iterdir())) == 2
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == whole


def test_killed_stage_leaves_no_worker(steps, tmp_path):
    """kill -9 of the stage: its forked workers die too, and write nothing more."""
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(f"""
        import time, sys
        sys.path.insert(0, {str(ROOT)!r})
        sys.path.insert(0, {str(ROOT / 'tests/data')!r})
        from pathlib import Path
        from datatrove.pipeline.base import PipelineStep
        from tasks import params
        from tasks.data import executor
        class Slow(PipelineStep):
            type, name = "x", "slow"
            def run(self, data, rank=0, world_size=1):
                Path(f"started-{{rank}}").touch()
                time.sleep(8)
                Path(f"ended-{{rank}}").touch()
                yield from ()
        executor.run("slow", [Slow()], 2, params.Runtime(**{RUNTIME!r}))
    """))
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while time.monotonic() < until and len(list(tmp_path.glob("started-*"))) < 2:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert not list(tmp_path.glob("ended-*"))
