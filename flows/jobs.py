"""Write the files by which a profile's jobs run on a cluster, from its values (`cluster:` and `runtime:`).

    ./run --profile NAME jobs slurm         train.sbatch and worker.sbatch
    ./run --profile NAME jobs kubernetes    train.yaml and work-pool.json

into .runtime/jobs/NAME, or --out DIRECTORY; their paths are printed, nothing is submitted. Each file's head says how it
is used. Templates: deploy/. Guide: docs/OPERATE.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jinja2
import yaml
from pydantic import Field

from flows import workspace
from flows.serve import IN_IMAGE
from tasks import params

TEMPLATES = Path(__file__).resolve().parents[1] / "deploy"
NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
FILES = {"slurm": ("train.sbatch", "worker.sbatch"), "kubernetes": ("train.yaml", "work-pool.yaml")}


class Cluster(params.Section):
    """`cluster:` of params.yaml: the machines of one job. Sizes are those of a node."""

    nodes: int = Field(ge=1, le=100_000)
    gpus: int = Field(ge=0, le=64, description="of a node, a rank each; 0: one rank a node, on CPU")
    cpus: int = Field(ge=1, le=4096)
    memory_gib: int = Field(ge=1, le=65536)
    hours: int = Field(ge=1, le=8760, description="after which a job is ended")
    partition: str | None = Field(pattern=r"^[\w,.-]+$", description="Slurm's; null: the user's default")
    account: str | None = Field(pattern=r"^[\w.-]+$", description="Slurm's; null: the user's default")
    image: str = Field(pattern=r"^[\w][\w./:@-]*$", description="container image, by tag or digest")
    namespace: str = Field(pattern=NAME)
    claim: str = Field(pattern=NAME, description="volume claim with the checkout")
    secret: str = Field(pattern=NAME, description="of type kubernetes.io/ssh-auth, with ssh-publickey beside it")


def render(kind: str, profile: str, values: dict[str, Any]) -> dict[str, str]:
    """File name -> text of the files of `kind` (slurm, kubernetes) for a params.yaml's values.

    Raises ParamsError for a faulty section, and where training over nodes lacks `runtime.hostfile`.
    """
    cluster = params.section(Cluster, "cluster", values)
    hostfile = params.section(params.Runtime, "runtime", values).hostfile
    ranks = max(cluster.gpus, 1)
    if cluster.nodes * ranks > 1 and hostfile is None:
        raise params.ParamsError(f"profile {profile}: cluster.nodes = {cluster.nodes} and cluster.gpus = "
                                 f"{cluster.gpus} are several ranks but runtime.hostfile is null: name the file that "
                                 "the job writes its hosts to, such as hostfile")
    if bool(cluster.gpus) != values["runtime"]["device"].startswith("cuda"):
        raise params.ParamsError(f"profile {profile}: cluster.gpus = {cluster.gpus} does not fit runtime.device = "
                                 f"{values['runtime']['device']}: cuda with GPUs, cpu without")
    stages = [f"pretrain@{track}" for track in values["trained"]]
    amount = {"cpu": str(cluster.cpus), "memory": f"{cluster.memory_gib}Gi"}
    amount |= {"nvidia.com/gpu": str(cluster.gpus)} if cluster.gpus else {}
    here = {"profile": profile, "run": "./run" if profile == "default" else f"./run --profile {profile}",
            "cluster": cluster, "ranks": ranks, "home": IN_IMAGE, "hostfile": hostfile,
            "stages": " ".join(stages), "stages_list": json.dumps(stages),
            "resources": json.dumps({"requests": amount, "limits": amount})}
    # brackets, since braces are bash's and Prefect's
    engine = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES / kind), undefined=jinja2.StrictUndefined,
                                variable_start_string="[[", variable_end_string="]]", block_start_string="[%",
                                block_end_string="%]", keep_trailing_newline=True, trim_blocks=False)
    made = {name: engine.get_template(name).render(here) for name in FILES[kind]}
    if "work-pool.yaml" in made:  # Prefect reads JSON
        made["work-pool.json"] = json.dumps(yaml.safe_load(made.pop("work-pool.yaml")), indent=1) + "\n"
    return made


def main() -> int:
    """The command line of the module's docstring: 0 written, 2 refused."""
    parser = argparse.ArgumentParser(prog="./run --profile NAME jobs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(FILES), help="what schedules jobs there")
    parser.add_argument("--profile", default="default", help=argparse.SUPPRESS)  # given by ./run
    parser.add_argument("--out", type=Path, help="directory for the files")
    given = parser.parse_args()
    try:
        values = params.load()
        if given.profile != "default":
            path = Path("profiles", f"{given.profile}.yaml")
            values = workspace.overlay(values, workspace.read_profile(path), str(path))
        made = render(given.kind, given.profile, values)
        out = given.out or Path(".runtime/jobs", given.profile)
        out.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (out / name).write_text(text, encoding="utf-8")
            print((out / name).resolve())
    except (params.ParamsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
