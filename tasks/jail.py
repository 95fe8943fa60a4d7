"""Runs whole CPython that a model wrote, where nothing of the machine can be reached: bubblewrap, seccomp, limits.

The code sees a read-only interpreter, an empty scratch directory and nothing else: user, mount, process, network, IPC
and host-name namespaces of its own, no capability, no environment, no home. Time, memory, processes, file sizes and
output are bounded. Where any of it is missing, `Jail` refuses to start and says why: there is no fallback.
(sandbox.py is the other sandbox: a subset of Python without imports, a thousandth of the cost.)
"""

from __future__ import annotations

import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks import seccomp
from tasks.sandbox import SandboxError, SandboxUnavailable

SECONDS = 5.0            # wall time of one run
MEMORY = 512 << 20       # bytes of address space of one process, and of resident memory of all together
LOOK = 0.1               # seconds between two looks at that
PROCESSES = 16           # of the sandbox's user, threads among them
SCRATCH = 16 << 20       # bytes of the scratch directory
FILE = 16 << 20          # bytes of one file
OUTPUT = 8_000           # bytes of stdout and stderr together that are kept; more ends the run
SOURCE = 20_000          # characters of code
NOBODY = 65_534          # who the code runs as where we are root: limits on processes do not hold for root
SYSTEM = Path("/usr/bin/python3")
REMEDY = "install bubblewrap (Debian: apt-get install bubblewrap)"


@dataclass(frozen=True)
class Finished:
    """How a run ended: its exit status and what it wrote (stderr after stdout, as it came)."""

    status: int
    output: str


class Jail:
    """A checked way to run code; every run is a new sandbox, and nothing is carried over."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        """Raises SandboxUnavailable where a run that should be shut in is not."""
        self.seconds, self.memory = seconds, memory
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxUnavailable(f"no sandbox for model-written Python: bwrap not found; {REMEDY}")
        self.program, self.filter = program, seccomp.program()
        try:
            probe = self.run("import os; print(len(os.listdir('/proc/self/task')), os.environ.get('HOME'), "
                             "os.path.exists('/etc/passwd'))")
        except SandboxError as error:
            raise SandboxUnavailable(f"no sandbox for model-written Python: {error}; user namespaces may be off here "
                                     "(sysctl kernel.unprivileged_userns_clone, a container without them)") from None
        if probe != Finished(0, "1 None False\n"):
            raise SandboxUnavailable("no sandbox for model-written Python: the trial run said "
                                     f"{probe.output.strip()[-200:]!r}; {REMEDY}")

    def run(self, code: str) -> Finished:
        """Run `code` as a program. Raises SandboxError, one line, where a bound is reached."""
        if len(code) > SOURCE:
            raise SandboxError(f"the code is {len(code)} characters long, at most {SOURCE} are run")
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(self.filter)      # far below a pipe's capacity
        try:
            process = subprocess.Popen(
                self.command(reading), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                pass_fds=[reading], env={}, cwd="/", start_new_session=True, preexec_fn=self.bound,
                **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}))
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(f"the sandbox does not start: {error}") from None
        finally:
            os.close(reading)
        try:
            return self.watched(process, code)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)   # bwrap's end is its process namespace's end
            process.wait()
            process.stdout.close()

    def command(self, filter_fd: int) -> list[str]:
        """bubblewrap's command line around an isolated interpreter that reads its program from stdin."""
        # the system's own first: where we are root the code runs as nobody, who may not read a Python in our home
        interpreter = SYSTEM if SYSTEM.exists() else Path(sys.executable).resolve()
        binds = ["--ro-bind", "/usr", "/usr"]
        for name in ("lib", "lib64", "bin"):
            place = Path("/") / name
            if place.is_symlink():
                binds += ["--symlink", os.readlink(place), str(place)]
            elif place.is_dir():
                binds += ["--ro-bind", str(place), str(place)]
        if not interpreter.is_relative_to("/usr"):
            binds += ["--ro-bind", sys.base_prefix, sys.base_prefix]
        return [self.program, "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL",
                "--die-with-parent", "--new-session", "--hostname", "sandbox", *binds,
                "--proc", "/proc", "--dev", "/dev",
                "--size", str(SCRATCH), "--tmpfs", "/tmp", "--chdir", "/tmp",
                "--remount-ro", "/dev", "--remount-ro", "/",
                "--seccomp", str(filter_fd), "--", str(interpreter), "-I", "-S", "-B", "-"]

    def bound(self) -> None:
        """Limits, set between fork and exec."""
        whole = int(self.seconds) + 1
        for limit, most in ((resource.RLIMIT_AS, self.memory), (resource.RLIMIT_CPU, whole),
                            (resource.RLIMIT_NPROC, PROCESSES), (resource.RLIMIT_FSIZE, FILE),
                            (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(limit, (most, most))

    def watched(self, process: subprocess.Popen, code: str) -> Finished:
        """Feed the program in and read what it writes, until it ends or a bound is reached."""
        deadline, output = time.monotonic() + self.seconds, b""
        try:
            process.stdin.write(code.encode("utf-8", errors="replace"))
            process.stdin.close()
        except BrokenPipeError:
            pass    # it did not start; its output says why
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SandboxError(f"stopped after {self.seconds:g} s")
                if sum(resident(process.pid)) > self.memory:    # a limit holds for each process, not for all
                    raise SandboxError(f"stopped: its processes took more than {self.memory >> 20} MiB")
                if not selector.select(min(left, LOOK)):
                    continue
                part = os.read(process.stdout.fileno(), 1 << 16)
                if not part:
                    break
                output += part
                if len(output) > OUTPUT:
                    raise SandboxError(f"stopped: it wrote more than {OUTPUT} bytes")
        try:
            status = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise SandboxError(f"stopped after {self.seconds:g} s") from None
        return Finished(status, output.decode("utf-8", errors="replace"))


def resident(process: int) -> Iterator[int]:
    """Bytes of resident memory of a process and of each below it; what has ended meanwhile counts nothing."""
    waiting = [process]
    while waiting:
        one = waiting.pop()
        try:
            yield int(Path(f"/proc/{one}/statm").read_text().split()[1]) * resource.getpagesize()
            for task in os.listdir(f"/proc/{one}/task"):
                waiting += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except (OSError, IndexError):
            continue
