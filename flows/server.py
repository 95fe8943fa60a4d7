"""The chain's one Prefect server: started once, detached, on loopback, and reused by every later run.

    python -m flows.server                         start or find it, print its address
    python -m flows.server COMMAND [ARGUMENT ...]  the same, then become COMMAND with its address in PREFECT_API_URL
    python -m flows.server --stop                  stop it

Its database, log and address live in PREFECT_HOME (`.prefect` in the working directory unless set). A
PREFECT_API_URL that the caller has set is another server, which is used as it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from flows.environment import loopback_direct

PORT = 4200       # Prefect's own; the next free one is taken where it is busy
PATIENCE = 120    # seconds for the first start, which builds the database


class ServerError(RuntimeError):
    """The Prefect server cannot be had; one line with the reason and the log to read."""


def home() -> Path:
    """Where the server keeps its state: PREFECT_HOME, else `.prefect` here."""
    return Path(os.environ.get("PREFECT_HOME") or ".prefect").absolute()


def environment(place: Path, port: int) -> dict[str, str]:
    """os.environ for the server in `place` and for its clients: local, silent, quiet on the terminal."""
    return {
        **os.environ,
        "PREFECT_HOME": str(place),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the chain prints its own lines
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "1",
        **loopback_direct(),
    }


def running(place: Path) -> int | None:
    """Port of the live server whose state is in `place`, or None. It must be the very process that we started."""
    try:
        noted = json.loads((place / "server.json").read_text(encoding="utf-8"))
        alive = psutil.Process(noted["pid"]).create_time() == noted["created"]
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return noted["port"] if alive and healthy(noted["port"]) else None


def healthy(port: int) -> bool:
    """Whether a Prefect API answers on loopback `port`."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_port(wanted: int = PORT) -> int:
    """`wanted`, or the first free loopback port of the hundred after it. Raises ServerError when all are taken."""
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError(f"no free port between {wanted} and {wanted + 99} on 127.0.0.1: stop what listens there")


def ensure(place: Path) -> int:
    """Port of the server in `place`, started where none runs. Raises ServerError when it does not come up."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs starting together share one server
        port = running(place)
        if port is not None:
            return port
        print("starting the local Prefect server (once; it is reused) ...", file=sys.stderr, flush=True)
        return start(place)


def start(place: Path) -> int:
    """Start a detached server and wait until it answers; its port. Raises ServerError."""
    port = free_port()
    log = place / "server.log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, cwd=place,
            env={**environment(place, port), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"},
        )
    noted = {"pid": process.pid, "created": psutil.Process(process.pid).create_time(), "port": port}
    (place / "server.json").write_text(json.dumps(noted) + "\n", encoding="utf-8")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerError(f"the Prefect server ended with code {process.returncode} as it started: read {log}")
        if healthy(port):
            return port
        time.sleep(0.2)
    process.terminate()
    raise ServerError(f"the Prefect server did not answer on port {port} within {PATIENCE} s: read {log}")


def stop(place: Path) -> bool:
    """Stop the server of `place`; whether there was one. It gets ten seconds to end, then it is killed."""
    if running(place) is None:
        return False
    noted = json.loads((place / "server.json").read_text(encoding="utf-8"))
    process = psutil.Process(noted["pid"])
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.terminate()
    _, left = psutil.wait_procs(family, timeout=10)
    for member in left:
        member.kill()
    (place / "server.json").unlink(missing_ok=True)
    return True


def main() -> None:
    """The command line of the module's docstring."""
    command = sys.argv[1:]
    if command in (["-h"], ["--help"]):
        print(__doc__)
        return
    if command == ["--stop"]:
        print("stopped" if stop(home()) else "no server of this checkout is running")
        return
    if os.environ.get("PREFECT_API_URL"):
        url, settings = os.environ["PREFECT_API_URL"], dict(os.environ)
    else:
        try:
            port = ensure(home())
        except (ServerError, OSError) as error:
            sys.exit(f"error: {error}")
        url, settings = f"http://127.0.0.1:{port}/api", environment(home(), port)
    if not command:
        print(url.removesuffix("/api"))
        return
    try:
        os.execvpe(command[0], command, settings)
    except OSError as error:
        sys.exit(f"error: cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
