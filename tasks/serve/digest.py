"""What a model directory is, in one number: the digest that /v1/models, X-Model-Digest and a lineage record share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks.serve.engine.directory import ModelError, read_json

MANIFEST = "manifest.json"


def digest(directory: Path) -> str:
    """`sha256:` and the sha256 over the lines `NAME SHA256` of the directory's files, sorted by name.

    Sums are those of manifest.json where there is one (loading verifies them against the files), else of the files.
    """
    try:
        if (directory / MANIFEST).is_file():
            sums = read_json(directory / MANIFEST).get("sha256", {})
        else:
            sums = {path.relative_to(directory).as_posix(): sha256(path)
                    for path in directory.rglob("*") if path.is_file()}
    except OSError as error:
        raise ModelError(f"{directory} cannot be read: {error.strerror}") from None
    lines = "".join(f"{name} {total}\n" for name, total in sorted(sums.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def sha256(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
