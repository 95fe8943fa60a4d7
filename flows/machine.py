"""On which machine each entry of dvc.lock was made: machines.json, committed beside the lock and hashed by no stage.

Weights are the same bytes on one machine at one number of threads. Another processor, or another version of a library,
may round other bits: who compares hashes (flows/verify.py) must know whether that can be the cause.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from tasks.report.lineage import processor

FILE = "machines.json"
INSTRUCTIONS = re.compile(r"(sse|avx|amx|fma|f16c|bmi|vaes|vpclmul|asimd|sve|neon|fp16|bf16|i8mm|dotprod)")
# variables by which numeric libraries are told to compute as on another processor
ARITHMETIC = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS",
              "NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE")


def describe(root: Path) -> dict[str, Any]:
    """What decides how this machine rounds: processor, instructions, threads of `root`'s params, library versions."""
    params = root / "params.yaml"
    values = yaml.safe_load(params.read_text(encoding="utf-8")) if params.exists() else {}
    found = {"processor": processor(), "instructions": instructions(), "architecture": platform.machine(),
             "threads": (values.get("runtime") or {}).get("threads"), "python": platform.python_version(),
             "libraries": libraries(root)}
    told = {name: os.environ[name] for name in ARITHMETIC if name in os.environ}
    return found | ({"told": told} if told else {})


def instructions() -> str:
    """The vector instructions of the processor, sorted; empty where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = next((line.split(":", 1)[1].split() for line in lines if re.match(r"(flags|Features)\s*:", line)), [])
    return " ".join(sorted(flag for flag in flags if INSTRUCTIONS.search(flag)))


def libraries(root: Path) -> dict[str, str]:
    """Versions of the packages that pyproject.toml's `chain` group names, and of the array library below them."""
    project = root / "pyproject.toml"
    if not project.exists():
        return {}
    listed = tomllib.loads(project.read_text(encoding="utf-8"))["dependency-groups"]["chain"]
    names = {re.match(r"[\w.-]+", entry)[0] for entry in listed if isinstance(entry, str)} | {"numpy", "scipy"}
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(entry: dict[str, Any]) -> str:
    """sha256, in short, of the paths and md5 of a raw lock entry's outs."""
    lines = "".join(f"{out['path']} {out.get('md5', '')}\n" for out in entry.get("outs", ()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def read(root: Path) -> dict[str, dict[str, Any]]:
    """machines.json as {"machines": {id: machine}, "stages": {name: {"outs", "machine"}}}; empty where there is none.

    Raises ValueError where it is damaged.
    """
    try:
        kept = json.loads((root / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"machines": {}, "stages": {}}
    if not isinstance(kept, dict) or not all(isinstance(kept.get(part), dict) for part in ("machines", "stages")):
        raise ValueError(f"{root / FILE} is no record of machines: restore it from git, or delete it")
    return kept


def maker(kept: dict[str, dict[str, Any]], name: str, entry: dict[str, Any]) -> dict[str, Any] | None:
    """The machine that made this entry's outs; None where that is not recorded."""
    record = kept["stages"].get(name)
    return kept["machines"].get(record["machine"]) if record and record["outs"] == fingerprint(entry) else None


def record(root: Path, names: Iterable[str]) -> None:
    """Note in machines.json that the entries of these stages in `root`'s dvc.lock were made here."""
    try:
        kept = read(root)
    except ValueError:
        kept = {"machines": {}, "stages": {}}
    here = describe(root)
    key = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:12]
    entries = (yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8")) or {}).get("stages") or {}
    stages = {name: one for name, one in kept["stages"].items()
              if name in entries and one["outs"] == fingerprint(entries[name])}
    stages |= {name: {"machine": key, "outs": fingerprint(entries[name])} for name in names if name in entries}
    used = {one["machine"] for one in stages.values()}
    machines = {name: one for name, one in (kept["machines"] | {key: here}).items() if name in used}
    text = json.dumps({"machines": machines, "stages": stages}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if not (root / FILE).exists() or (root / FILE).read_text(encoding="utf-8") != text:
        partial = root / f".{FILE}.partial-{os.getpid()}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(root / FILE)


def differences(made: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What differs between two machines, one phrase a thing; empty where they compute alike."""
    told = []
    for key in sorted(made.keys() | here.keys()):
        before, now = made.get(key), here.get(key)
        if before == now:
            continue
        if isinstance(before or now, dict):
            before, now = before or {}, now or {}
            told += [f"{name} {before.get(name, 'none')}, here {now.get(name, 'none')}"
                     for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
        elif key == "instructions":
            lost, more = set(before.split()) - set(now.split()), set(now.split()) - set(before.split())
            told.append("instructions" + (f" without {' '.join(sorted(lost))}" if lost else "")
                        + (f" and with {' '.join(sorted(more))}" if more else ""))
        else:
            told.append(f"{key} {before}, here {now}")
    return told
