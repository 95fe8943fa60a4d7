"""Safe unpacking of a package file (zip, wheel, tar in any compression): only what is asked for, and bounded.

Refused: paths that leave the folder, links and devices, and archives that unpack to more than the bounds (a small
file can hold petabytes). Members come in the order of the archive: a compressed tar has no other cheap one.
"""

from __future__ import annotations

import fnmatch
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tasks.stage import StageError

FILE_LIMIT, TOTAL_LIMIT, COUNT_LIMIT = 512 << 20, 4 << 30, 200_000
BLOCK = 1 << 20


def members(archive: Path, name: str, take: list[str], beside: list[str]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of the members that match a glob of `take` or `beside`, in the order of the archive.

    What is unsafe is refused among the first and passed over among the second.

    `*` in a glob also crosses slashes. `name` names the archive in errors.
    Raises StageError: not an archive, unsafe member, over a bound.
    """
    total = count = 0
    for path, file in entries(archive, name):
        taken = any(fnmatch.fnmatchcase(path, glob) for glob in take)
        if not taken and not any(fnmatch.fnmatchcase(path, glob) for glob in beside):
            continue
        if file is None or path.startswith("/") or ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path:
            if not taken:
                continue
            raise StageError(f"{name}: member {path!r} is a link or device or leaves its folder: refused")
        with file:
            data = bounded(file, name, path)
        total, count = total + len(data), count + 1
        if total > TOTAL_LIMIT or count > COUNT_LIMIT:
            raise StageError(f"{name} unpacks to more than {TOTAL_LIMIT >> 20} MiB or {COUNT_LIMIT} files: refused; "
                             "narrow its `take`")
        yield path, data


def bounded(file: IO[bytes], name: str, path: str) -> bytes:
    """All of `file`, at most FILE_LIMIT bytes, whatever its header promised."""
    try:
        data = file.read(FILE_LIMIT + 1)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise StageError(f"{name}: member {path!r} cannot be read ({error}): the archive is damaged") from None
    if len(data) > FILE_LIMIT:
        raise StageError(f"{name}: member {path!r} is larger than {FILE_LIMIT >> 20} MiB: refused")
    return data


def entries(archive: Path, name: str) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(path, opened file; None for a link or device) of each member that is no folder."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for info in opened.infolist():
                    if not info.is_dir():
                        link = (info.external_attr >> 16) & 0o170000 == 0o120000
                        yield info.filename, None if link else opened.open(info)
        else:
            with tarfile.open(archive) as opened:
                for info in opened:
                    if not info.isdir():
                        yield info.name, opened.extractfile(info) if info.isreg() else None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise StageError(f"{name} is neither a whole zip nor a whole tar archive ({error})") from None


def write(folder: Path, path: str, data: bytes) -> None:
    """Write one unpacked file below `folder`."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
