"""manifest.json of a model directory: the sha256 of every other file, for the server to check before it loads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks import stage

NAME = "manifest.json"


def write(directory: Path) -> None:
    """Write `directory`/manifest.json over the files that now lie there; call it last."""
    sums = {}
    for file in sorted(directory.iterdir()):
        if file.name != NAME:
            with file.open("rb") as opened:
                sums[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    stage.write_json(directory / NAME, {"sha256": sums})
