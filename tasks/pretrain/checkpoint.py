"""Resume checkpoints: written aside and renamed, checksummed, the newest two kept, forgotten when the run is done.

They lie in `.resume/pretrain-TRACK/FINGERPRINT/step-N/`, unknown to DVC; the fingerprint covers code, inputs and
parameters, so a changed run never resumes from another one's weights.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tasks import stage
from tasks.stage import StageError
from tasks.tokenizer.shards import digest

KEPT = 2
MANIFEST = "manifest.json"


def fingerprint(values: dict[str, Any], files: list[Path]) -> str:
    """16 hex digits over `values`, the files' bytes, and the source of every module of `tasks` that is loaded."""
    sources = sorted(Path(module.__file__) for name, module in sys.modules.items()
                     if name.split(".")[0] == "tasks" and getattr(module, "__file__", None))
    state = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in [*files, *sources]:
        state.update(f"{path.name}:{digest(path)};".encode())
    return state.hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one run, in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def claim(self) -> IO[str]:
        """Lock the folder for as long as the returned file is open. Raises StageError where another process trains
        this very run, such as a rank that outlived its killed launcher."""
        self.folder.mkdir(parents=True, exist_ok=True)
        held = (self.folder / "lock").open("w")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            raise StageError(f"another process is training this run in {self.folder}: wait or end it") from None
        return held

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is written before it is sealed."""
        return self.folder / f".step-{step:09d}.partial"

    def seal(self, step: int, progress: dict[str, Any], known: dict[str, str] | None = None) -> None:
        """Make what lies in `path(step)` a checkpoint: note `progress` and checksums, rename, drop older ones. `known`:
        name -> checksum of files whose writer has taken it."""
        partial = self.path(step)
        stage.write_json(partial / "progress.json", progress)
        files = sorted(p for p in partial.rglob("*") if p.is_file())
        names = [(str(path.relative_to(partial)), path) for path in files]
        stage.write_json(partial / MANIFEST, {name: (known or {}).get(name) or digest(path) for name, path in names})
        final = self.folder / f"step-{step:09d}"
        stage.remove(final)
        partial.rename(final)
        for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
            stage.remove(old)

    def latest(self, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """(directory, progress) of the newest whole checkpoint, or None; broken ones are reported through `say`."""
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            if (broken := self._broken(folder)) is None:
                return folder, json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            say(f"checkpoint {folder} is passed over: {broken}")
        return None

    @staticmethod
    def _broken(folder: Path) -> str | None:
        """What is wrong with a checkpoint, or None when every file matches its checksum."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            for name, expected in manifest.items():
                if digest(folder / name) != expected:
                    return f"{name} does not match its checksum"
        except (OSError, ValueError) as error:
            return stage.one_line(error)
        return None
