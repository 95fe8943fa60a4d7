"""Artifacts to and from the team's DVC remote, with one clear line where that cannot be done.

    ./run push [TARGET...]     what dvc.lock names and the run-cache, to the default remote
    ./run pull [TARGET...]     the same from there, into this checkout

Plain `dvc push` and `dvc pull` do the same; docs/TEAM.md says how to set a remote up.
"""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.config import ConfigError
from dvc.exceptions import DvcException, FileTransferError
from dvc.repo import Repo

CREDENTIALS = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "Forbidden", "ExpiredToken",
               "InvalidToken", "Unable to locate credentials", "Permission denied", "PermissionError")
UNREACHABLE = ("Could not connect", "Connection refused", "ConnectError", "Connect timeout", "timed out",
               "Name or service", "EndpointConnectionError", "getaddrinfo", "ConnectionError")
FULL = ("QuotaExceeded", "InsufficientStorage", "No space left", "no space left", "EntityTooLarge", "XMinioStorageFull",
        "StorageFull", "Disk quota exceeded", "file too large")
BROKEN = ("InternalError", "Internal Error", "ServiceUnavailable", "SlowDown")
MISSING = ("NoSuchBucket", "bucket does not exist")


class RemoteError(RuntimeError):
    """The remote cannot be used; the message is one line with the remedy."""


def push(root: Path, targets: list[str] | None = None) -> int:
    """Send what `root`'s dvc.lock names, and its run-cache, to the default remote; the number of files sent.

    Safe to repeat: what arrived stays there. Raises RemoteError.
    """
    with opened(root) as repo, told(repo, "push"):
        return repo.push(targets=targets or None, run_cache=True)


def pull(root: Path, targets: list[str] | None = None) -> int:
    """Bring what `root`'s dvc.lock names, and the run-cache, from the default remote; the number of files brought.

    Raises RemoteError.
    """
    with opened(root) as repo, told(repo, "pull"):
        return repo.pull(targets=targets or None, run_cache=True)["stats"]["fetched"]


@contextmanager
def opened(root: Path) -> Iterator[Repo]:
    """The DVC repository at `root`. Raises RemoteError where it is none or names no default remote."""
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            name = repo.config["core"].get("remote")
            if not name:
                raise RemoteError("no DVC remote is set here: dvc remote add -d NAME URL (docs/TEAM.md)")
            if name not in repo.config["remote"]:
                raise RemoteError(f"core.remote names {name!r}, which is not set: dvc remote add (docs/TEAM.md)")
            yield repo
    except ConfigError as error:
        raise RemoteError(f"DVC's configuration: {' '.join(str(error).split())}") from error


@contextmanager
def told(repo: Repo, doing: str) -> Iterator[None]:
    """Turn what DVC raises and logs meanwhile into one RemoteError."""
    name = repo.config["core"]["remote"]
    remote = repo.config["remote"][name]
    at = f" at {remote['endpointurl']}" if "endpointurl" in remote else ""
    where = f"the remote {name} ({remote['url']}{at})"
    said = Said()
    loggers = [logging.getLogger(one) for one in ("dvc", "dvc_data", "dvc_objects")]
    before = [(one.handlers, one.propagate) for one in loggers]
    for one in loggers:
        one.handlers, one.propagate = [said], False
    try:
        yield
    except Exception as error:  # plugins raise what their clients raise: botocore's, asyncssh's, OSError
        if isinstance(error, DvcException) and not isinstance(error, FileTransferError):
            raise RemoteError(" ".join(str(error).split())) from error  # a bad target, a lock, files in the way
        words = " | ".join([*chain(error), *said.lines])
        line = f"{explain(where, words, error)}; nothing is lost: ./run {doing} goes on from here"
        raise RemoteError(line) from error
    finally:
        for one, (handlers, propagate) in zip(loggers, before):
            one.handlers, one.propagate = handlers, propagate


class Said(logging.Handler):
    """Keeps what DVC logs as an error, with the exceptions behind it: its own say only how many files failed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [record.getMessage(), *(chain(record.exc_info[1]) if record.exc_info else ())]


def chain(error: BaseException | None) -> list[str]:
    """An exception and all behind it, each as `Type: message`."""
    lines = []
    while error is not None and len(lines) < 10:
        lines.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
        error = error.__cause__ or error.__context__
    return lines


def explain(where: str, words: str, error: BaseException) -> str:
    """What is the matter with the remote, and the remedy, from all that was said."""
    def has(marks: tuple[str, ...]) -> bool:
        return any(mark in words for mark in marks)

    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or has(FULL):
        return f"{where} is full: free space there (dvc gc -c -w), or have its limit raised"
    if has(MISSING):
        return f"{where}: there is no such bucket: make it, or correct the url (dvc remote modify)"
    if has(CREDENTIALS):
        return f"{where} refuses these credentials: set them by dvc remote modify --local, or AWS_* variables"
    if has(UNREACHABLE):
        return f"{where} cannot be reached: is the address right, the server up, a proxy in the way?"
    if has(BROKEN):
        return f"{where} failed inside: its disk may be full, or it is broken; its own log says which"
    return f"{where}: {words[:300]}"


def main() -> int:
    """The command line. Exit codes: 0 done, 1 not, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="./run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("doing", choices=("push", "pull"))
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="stage or output (default: all)")
    given = parser.parse_args()
    try:
        count = {"push": push, "pull": pull}[given.doing](Path.cwd(), given.targets)
    except (RemoteError, DvcException, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{given.doing}: {count} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
