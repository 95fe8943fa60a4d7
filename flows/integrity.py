"""A model directory held against its own manifest.json: every byte, and no file more or less.

The server makes the same check of every file that the manifest names before it loads one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tasks.quantize.manifest import NAME


def faults(directory: Path) -> list[str]:
    """One line for each way in which `directory` is not what its manifest.json says; [] where it is whole."""
    path = directory / NAME
    if not directory.is_dir():
        return [f"{directory} is no directory"]
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        if not isinstance(sums, dict) or not sums or not all(isinstance(total, str) for total in sums.values()):
            raise ValueError("it lists no sha256")
    except FileNotFoundError:
        return [f"{path} is missing: quantize and export write one; a directory without it has nothing to be held to"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{path} is damaged ({type(error).__name__}): restore it (dvc checkout) or export the model again"]
    told = []
    found = {file.relative_to(directory).as_posix(): file for file in sorted(directory.rglob("*"))
             if not file.is_dir() or file.is_symlink()}
    for name in sorted(sums.keys() - found.keys()):
        told.append(f"{directory / name} is missing: {NAME} lists it")
    for name, file in found.items():
        if name == NAME:
            continue
        if name not in sums:
            told.append(f"{file} is not listed in {NAME}: it came there later")
            continue
        try:
            with file.open("rb") as opened:
                total = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            told.append(f"{file} cannot be read: {error.strerror}")
            continue
        if total != sums[name]:
            told.append(f"{file} is damaged: sha256 {total[:12]}..., {NAME} says {sums[name][:12]}...")
    return told
