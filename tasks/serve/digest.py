"""What a model directory is, in one number: the digest that /v1/models, X-Model-Digest and a lineage record share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks.serve.engine.directory import read_json, sha256

MANIFEST = "manifest.json"


def digest(directory: Path) -> str:
    """`sha256:` and the sha256 over the lines `NAME SHA256` of the directory's files, sorted by name.

    Sums are those of manifest.json where there is one (loading verifies them against the files), else of the files.
    """
    if (directory / MANIFEST).is_file():
        sums = read_json(directory / MANIFEST).get("sha256", {})
    else:
        sums = {path.relative_to(directory).as_posix(): sha256(path)
                for path in directory.rglob("*") if path.is_file()}
    lines = "".join(f"{name} {total}\n" for name, total in sorted(sums.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
