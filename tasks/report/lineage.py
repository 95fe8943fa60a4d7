"""What made the numbers: every stage's command and hashes from dvc.lock, the commit, the machine, the packages.

Shown on the page, never in a hashed output: the same commit on two machines has two of these.
"""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import yaml

PACKAGES = ("torch", "deepspeed", "transformers", "peft", "trl", "datatrove", "lm-eval", "onnxruntime", "dvc", "prefect")


def stages(lock: Path = Path("dvc.lock")) -> list[dict[str, Any]]:
    """One row a stage in dvc.lock, in its order: name, cmd, params, deps and outs as (path, md5, bytes)."""
    if not lock.exists():
        return []
    entries = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})

    def files(entry: dict[str, Any], side: str) -> list[tuple[str, str, int]]:
        return [(item["path"], item.get("md5", ""), item.get("size", 0)) for item in entry.get(side, [])]

    return [{"name": name, "cmd": entry["cmd"], "params": entry.get("params", {}).get("params.yaml", {}),
             "deps": files(entry, "deps"), "outs": files(entry, "outs")} for name, entry in entries.items()]


def commit() -> str:
    """`git describe` of the working tree, marked -dirty when it differs from the commit; empty outside git."""
    answer = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    return answer.stdout.strip()


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines()
             if line.startswith("model name")] if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """What this runs on, in words: processor, cores, memory, system, Python and the pinned packages' versions."""
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
