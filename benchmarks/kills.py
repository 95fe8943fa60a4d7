"""Claim: however often it is killed, and wherever, the chain ends in the bytes of a run that nothing disturbed.

    python -m benchmarks.kills [--kills 20] [--seed 1] [--until STAGE]

The tiny profile's chain, whole or up to a stage, twice from nothing in two clones of this checkout's commit: once
undisturbed by plain `dvc repro`, once as the flow, killed with SIGKILL until it has been killed so often, each time
started again, then left to end. Each kill waits for none, one or two stages to end and then for a random while, so that
the kills spread over the chain; a random process of the run is the first to die: the flow, DVC, or the stage itself.
The last line is one JSON document. Exit code 1 where a hash differs.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from flows import server
from flows.environment import stage_environment

ROOT = Path(__file__).resolve().parents[1]
STARTED = re.compile(r"^\s*(\S+) \| (started|Completed|Restored|Cached)")


def workspace(place: Path) -> Path:
    """The tiny profile's workspace in a fresh clone."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place)], check=True)
    (place / "dvc.lock").unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-m", "flows.workspace", "tiny"], cwd=place, env=environment(place),
                          capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def environment(root: Path) -> dict[str, str]:
    """The stages', without what belongs to another Prefect."""
    return {key: value for key, value in stage_environment(root).items() if not key.startswith("PREFECT_")}


def outs(root: Path) -> dict[str, dict[str, str]]:
    """stage -> path -> md5, of the stages that have ended."""
    lock = root / "dvc.lock"
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] if lock.is_file() else {}
    return {name: {out["path"]: out["md5"] for out in entry["outs"]} for name, entry in stages.items()}


class Flow:
    """The flow in a workspace, its stages watched by its own lines."""

    def __init__(self, root: Path, until: list[str]):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", sys.executable, "-m", "flows.chain", "--profile", "tiny", *until],
            cwd=root, env=environment(root) | {"PYTHONUNBUFFERED": "1"}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        self.running: set[str] = set()
        self.ended = 0
        self.said: list[str] = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        """Follow the lines to their end."""
        for line in self.process.stdout or ():
            self.said.append(line)
            if found := STARTED.match(line):
                (self.running.add if found[2] == "started" else self.running.discard)(found[1])
                self.ended += found[2] == "Completed"

    def last(self, seconds: float, stages: int) -> bool:
        """Whether the run still goes on `seconds` after `stages` stages have ended and another one has begun."""
        while self.ended < stages or not self.running:
            if self.process.poll() is not None:
                return False
            time.sleep(0.05)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def die(self, draw: random.Random) -> tuple[list[str], str]:
        """Kill a random process of the run, then the rest: the stages at work, and who was first to die."""
        flow = psutil.Process(self.process.pid)
        served = {one.pid for child in flow.children() if "prefect" in child.cmdline()
                  for one in [child, *child.children(recursive=True)]}
        family = [flow] + [one for one in flow.children(recursive=True) if one.pid not in served]
        at_work, first = sorted(self.running), draw.choice(family)
        try:
            words = first.cmdline()
        except psutil.NoSuchProcess:
            words = ["ended by itself"]
        for one in [first, *family]:
            try:
                one.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                pass
        self.process.wait()
        psutil.wait_procs(family, timeout=30)
        self.reader.join(10)
        return at_work, next((word for word in words if word.startswith(("tasks.", "flows.")) or word == "dvc"),
                             Path(words[0]).name if words else "zombie")

    def end(self) -> None:
        """Wait for the run's own end; its last lines are the error where it failed."""
        self.process.wait()
        self.reader.join(10)
        if self.process.returncode:
            sys.exit("".join(self.said[-30:]))


def forget(top: Path, root: Path, stage: str) -> None:
    """Let `stage` have to run again."""
    shutil.rmtree(top / "killed/.dvc/cache/runs", ignore_errors=True)
    lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    del lock["stages"][stage]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")


def main() -> int:
    """Both runs, the table of kills and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", metavar="STAGE", help="as far as this stage (default: the whole chain)")
    given = parser.parse_args()
    draw, top = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="kills-"))
    until = ["--until", given.until] if given.until else []
    told: list[dict[str, Any]] = []
    try:
        calm, root = workspace(top / "calm"), workspace(top / "killed")  # both now: the checkout may move on
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", *([given.until] if given.until else [])], cwd=calm,
                       env=environment(calm), check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - begin
        wanted = outs(calm)
        print(f"undisturbed: {len(wanted)} stages in {whole:.0f} s\n{'kill':>4}  {'stages at work':<44} first to die",
              flush=True)
        while len(told) < given.kills:
            run = Flow(root, until)
            if not run.last(draw.uniform(0, 1.5 * whole / len(wanted)), draw.randint(0, 2)):
                run.end()  # the chain came to its end before the last kill: a stage of it once more
                forget(top, root, draw.choice(sorted(wanted)))
                continue
            at_work, first = run.die(draw)
            told.append({"stages": at_work, "first": first})
            print(f"{len(told):>4}  {', '.join(at_work):<44} {first}", flush=True)
        Flow(root, until).end()
        found = outs(root)
        differing = sorted(path for name in wanted for path in wanted[name]
                           if found.get(name, {}).get(path) != wanted[name][path])
    finally:
        for home in top.glob("*/.prefect"):
            server.stop(home)
        for home in top.glob("*/.profiles/*/.prefect"):
            server.stop(home)
        shutil.rmtree(top, ignore_errors=True)
    struck = sorted({name for one in told for name in one["stages"]})
    print(f"{len(told)} kills in {len(struck)} stages; of {sum(map(len, wanted.values()))} outputs of {len(wanted)} "
          f"stages {len(differing)} differ {', '.join(differing)}".rstrip())
    print(json.dumps({"benchmark": "kills", "kills": told, "stages": len(wanted), "differing": differing,
                      "undisturbed_seconds": round(whole, 1)}))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
