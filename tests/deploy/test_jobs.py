"""Job files for Slurm and Kubernetes: values from the profile, judged by the schemas and parsers of those systems."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from flows import jobs, workspace
from tasks import params

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.33.0"  # the first with a job's successPolicy for good

# options of sbatch(1) that the templates may use, with the form of their values
SBATCH = {
    "job-name": r"[\w-]+", "nodes": r"\d+", "ntasks": r"\d+", "ntasks-per-node": r"\d+", "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+", "mem": r"\d+[KMGT]", "time": r"\d+:\d\d:\d\d", "partition": r"[\w,.-]+",
    "account": r"[\w.-]+", "exclusive": "", "requeue": "", "signal": r"B:TERM@\d+", "open-mode": "append",
    "output": r"[\w%-]+\.out"}


def values(profile: str, **cluster: object) -> dict:
    """params.yaml under a profile, with other values of `cluster:`."""
    made = params.load(ROOT / "params.yaml")
    if profile != "default":
        made = workspace.overlay(made, workspace.read_profile(ROOT / f"profiles/{profile}.yaml"), profile)
    return {**made, "cluster": made["cluster"] | cluster}


def options(text: str) -> dict[str, str]:
    """The #SBATCH options of a script as sbatch reads them: before the first command, each checked."""
    found = {}
    head = text.split("\nset -", 1)[0]
    assert "#SBATCH" not in text[len(head):], "sbatch stops reading at the first command"
    for line in head.splitlines()[1:]:
        assert line.startswith("#"), line
        if line.startswith("#SBATCH"):
            name, _, value = re.fullmatch(r"#SBATCH --([a-z-]+)(=?)(.*)", line).groups()
            assert re.fullmatch(SBATCH[name], value), line
            assert name not in found
            found[name] = value
    return found


@pytest.mark.parametrize("profile", ["default", "cluster", "h200"])
def test_slurm_scripts_hold_the_profiles_values_and_bash_reads_them(profile):
    given = values(profile, partition="gpu,long", account="team-1")
    made = jobs.render("slurm", profile, given)
    cluster = given["cluster"]
    train, worker = options(made["train.sbatch"]), options(made["worker.sbatch"])
    assert train["nodes"] == str(cluster["nodes"]) and train["mem"] == f"{cluster['memory_gib']}G"
    assert train.get("gpus-per-node") == (str(cluster["gpus"]) if cluster["gpus"] else None)
    assert train["partition"] == worker["partition"] == "gpu,long" and train["account"] == "team-1"
    assert ("slots=" in made["train.sbatch"]) == bool(given["runtime"]["hostfile"])
    for text in made.values():
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
        assert "[[" not in text and "[%" not in text
    assert "partition" not in options(jobs.render("slurm", profile, values(profile))["train.sbatch"])


def test_the_slurm_script_writes_the_hostfile_and_runs_the_stages(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, body in {"bin/scontrol": 'test "$*" = "show hostnames node[1-2]" && printf "node1\\nnode2\\n"',
                       "run": 'echo "$@" >ran'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    text = jobs.render("slurm", "cluster", values("cluster"))["train.sbatch"]
    subprocess.run(["bash"], input=text, text=True, check=True, env={
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "node[1-2]"})
    assert (tmp_path / "hostfile").read_text() == "node1 slots=8\nnode2 slots=8\n"
    assert (tmp_path / "ran").read_text() == "--profile cluster repro pretrain@scratch\n"


@pytest.mark.parametrize("profile", ["default", "cluster", "h200"])
def test_the_training_job_is_a_valid_kubernetes_object(profile):
    given = values(profile)
    service, job = yaml.safe_load_all(jobs.render("kubernetes", profile, given)["train.yaml"])
    for one in (service, job):
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    assert spec["completions"] == spec["parallelism"] == given["cluster"]["nodes"]
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert f"{job['metadata']['name']}-$index.{pod['subdomain']}" in (DEPLOY / "kubernetes/node.sh").read_text()
    limits = pod["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == (str(given["cluster"]["gpus"]) if given["cluster"]["gpus"] else None)
    assert {"cpu": str(given["cluster"]["cpus"])}.items() <= limits.items()
    del job["spec"]["template"]["spec"]["containers"][0]["image"]
    job["spec"]["completion"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):  # the judge can say no
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_the_pool_makes_a_valid_pod_by_prefects_own_worker():
    """A run's pod as Prefect's Kubernetes worker makes it from the template and the deployment's variables."""
    script = """
import asyncio, json, sys, uuid
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
async def main():
    made = await KubernetesWorkerJobConfiguration.from_template_and_values(
        json.loads(sys.stdin.read()), {"working_dir": "/catena", "env": {"CATENA": "1"}},
        client=PrefectClient("http://127.0.0.1:9/api"))  # nothing in the template is to be looked up on a server
    made.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), name="a run", flow_id=uuid.uuid4()))
    print(json.dumps(made.job_manifest))
asyncio.run(main())
"""
    pool = jobs.render("kubernetes", "cluster", values("cluster"))["work-pool.json"]
    done = subprocess.run([sys.executable, "-c", script], input=pool, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    pod = job["spec"]["template"]["spec"]
    assert (pod.pop("completions"), pod.pop("parallelism")) == (1, 1)  # asked for by Prefect, dropped by Kubernetes
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    container = pod["containers"][0]
    assert container["image"] == "catena:0.1.0" and container["workingDir"] == "/catena"
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert {"name": "CATENA", "value": "1"} in container["env"]
    assert container["volumeMounts"][0]["mountPath"] == "/catena"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"


@pytest.mark.parametrize("change, said", [
    ({"nodes": 0}, "cluster.nodes = 0"), ({"gpus": 2.5}, "cluster.gpus = 2.5"), ({"pods": 1}, "cluster.pods = 1"),
    ({"image": "a b"}, "cluster.image = 'a b'"), ({"claim": "My_Claim"}, "cluster.claim = 'My_Claim'"),
    ({"partition": "x\n#SBATCH --uid=0"}, "cluster.partition"), ({"nodes": 2}, "runtime.hostfile is null"),
    ({"gpus": 1}, "does not fit runtime.device = cpu")])
def test_faulty_values_are_refused_by_name(change, said):
    with pytest.raises(params.ParamsError) as fault:
        jobs.render("slurm", "default", values("default", **change))
    assert said in str(fault.value)


def test_the_command_writes_the_files_and_names_an_unknown_profile(tmp_path):
    command = [sys.executable, "-m", "flows.jobs", "kubernetes", "--out", str(tmp_path / "out"), "--profile"]
    done = subprocess.run([*command, "cluster"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "out/train.yaml"), str(tmp_path / "out/work-pool.json")], done.stderr
    done = subprocess.run([*command, "none"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "error: no profile none (known: align, cluster" in done.stderr


def test_the_container_file_passes_hadolint_and_makes_runs_own_stamp():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", DEPLOY / "Containerfile"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr
    bad = subprocess.run([hadolint, "-"], input="FROM python\nRUN cd /x\n", capture_output=True, text=True)
    assert bad.returncode != 0  # the judge can say no
    stamp = re.search(r"cat (pyproject\.toml constraints\.txt) \| git hash-object --stdin",
                      (DEPLOY / "Containerfile").read_text())
    assert stamp and 'cat "$root/pyproject.toml" "$root/constraints.txt" | git hash-object --stdin' in \
        (ROOT / "run").read_text()


def test_the_pods_script_parses():
    for script in (DEPLOY / "kubernetes/node.sh",):
        assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_service_is_one_that_systemd_reads(tmp_path):
    text = (DEPLOY / "systemd/catena.service").read_text()
    assert text.count("/srv/catena") >= 3
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "catena.service").write_text(text.replace("/srv/catena", str(tmp_path)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / "catena.service")],
                          capture_output=True, text=True)
    if "Failed to initialize manager" in done.stderr:
        pytest.skip("systemd-analyze cannot run here")
    assert done.returncode == 0 and "catena.service" not in done.stderr, done.stderr
