"""One stage through DVC, in a process group that dies with the runner that started it.

    python -m flows.reproduce STAGE [--force]      (stdin: a pipe that the runner holds open)

A runner killed outright cannot stop what it started, and an orphaned stage would go on writing beside the next
run. So this process leads a group of its own (DVC, shell, stage) and kills all of it when the pipe closes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def watch(descriptor: int) -> None:
    """Block until `descriptor` reaches its end, which the runner's death brings, then kill the whole group."""
    while os.read(descriptor, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main() -> int:
    """Run `dvc --wait-for-lock repro --single-item STAGE` in this process; its exit code."""
    if len(sys.argv) < 2 or sys.argv[2:] not in ([], ["--force"]):
        sys.exit("usage: python -m flows.reproduce STAGE [--force]")
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    pipe = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=watch, args=(pipe,), daemon=True).start()
    from dvc.cli import main as dvc

    return dvc(["--wait-for-lock", "repro", "--single-item", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
