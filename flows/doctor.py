"""What this machine lacks for the chain, with the remedy for each lack.

    ./run doctor        exit code 0 where nothing that is needed is missing

Standard library only and any Python 3 will do: it must speak where nothing is installed yet.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISK_GB, MEMORY_GB = 12, 8  # installation 3.7 GB, caches and artifacts of a default run, peak memory


def answer(*command):
    """First line that a command prints, or None where it is absent or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip().splitlines()[:1] if done.returncode == 0 else None


def python():
    """A Python 3.11 with venv."""
    for name in filter(None, (os.environ.get("PYTHON"), "python3.11", "python3", "python")):
        version = answer(name, "-c", "import sys, venv, ensurepip; print(sys.version.split()[0])")
        if version and version[0].startswith("3.11."):
            return "ok", "%s (%s)" % (version[0], shutil.which(name)), ""
    return "missing", "no Python 3.11 with venv", "apt-get install python3.11 python3.11-venv, or PYTHON=/path ./run"


def compiler():
    """A C++ compiler, for the kernels and DeepSpeed."""
    name = os.environ.get("CXX") or "g++"
    version = answer(name, "--version")
    return ("ok", version[0], "") if version else ("missing", "no %s" % name, "apt-get install g++, or set CXX")


def git():
    """git, and this directory being its checkout, which DVC and the profiles need."""
    version = answer("git", "--version")
    if not version:
        return "missing", "no git", "apt-get install git"
    if not answer("git", "-C", str(ROOT), "rev-parse", "HEAD"):
        return "missing", "this directory is no git checkout", "clone the repository in place of unpacking an archive"
    return "ok", version[0], ""


def disk():
    """Room for packages, caches and artifacts."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    text = "%.0f GB free" % free
    return ("ok", text, "") if free >= DISK_GB else ("warning", text, "about %d GB are wanted; free some" % DISK_GB)


def memory():
    """Memory to be had now; the chain peaks below the limit."""
    try:
        table = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(table["MemAvailable"].split()[0]) / 1e6
    except (OSError, KeyError, ValueError):
        return "warning", "cannot be read here", "see that %d GB are free" % MEMORY_GB
    text = "%.0f GB free" % free
    return ("ok", text, "") if free >= MEMORY_GB else ("warning", text, "%d GB are wanted; free some" % MEMORY_GB)


def packages():
    """Installed packages against constraints.txt."""
    venv = ROOT / ".venv"
    if not (venv / ".installed").exists():
        return "missing", "nothing installed yet", "./run setup"
    wrong = []
    site = [str(path) for path in venv.glob("lib/python*/site-packages")]
    found = {re.sub(r"[-_.]+", "-", d.metadata["Name"] or "").lower(): d.version
             for d in importlib.metadata.distributions(path=site)}
    pinned = {}  # a name stands several times where its version hangs on the system
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line)
        if match:
            pinned.setdefault(re.sub(r"[-_.]+", "-", match.group(1)).lower(), []).append(match.group(2).split("+")[0])
    for name, versions in pinned.items():
        if name in found and found[name].split("+")[0] not in versions:
            wrong.append("%s %s, not %s" % (name, found[name], " or ".join(versions)))
    if wrong:
        return "warning", "%d differ: %s" % (len(wrong), "; ".join(wrong[:3])), "rm .venv/.installed && ./run setup"
    return "ok", "%d installed as pinned" % len(found), ""


def registry():
    """The package registry that pip is set to, needed by setup and the sources stage."""
    own = ROOT / ".venv/bin/python"
    pip = (str(own) if own.exists() else sys.executable, "-m", "pip")
    told = answer(*pip, "config", "get", "global.index-url")
    url = os.environ.get("PIP_INDEX_URL") or (told[0] if told else "https://pypi.org/simple")
    shown = re.sub(r"//[^/@]*@", "//", url)
    try:
        request = urllib.request.Request(url.rstrip("/") + "/pip/", headers={"User-Agent": "catena-doctor"})
        with urllib.request.urlopen(request, timeout=15) as page:
            page.read(64)
    except Exception as error:  # every cause is one line to the reader: name, route, certificate, password
        return "warning", "%s: %s" % (shown, error), "setup and sources need it; set PIP_INDEX_URL or a proxy"
    return "ok", shown, ""


def port():
    """The ports of the server and of the Prefect UI."""
    busy = []
    for number, what in ((8000, "./run serve"), (4200, "Prefect")):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                busy.append("%d (%s)" % (number, what))
    own = ROOT / ".prefect" / "server.json"
    if busy and own.exists() and json.loads(own.read_text()).get("port") == 4200:
        busy = [text for text in busy if not text.startswith("4200")]
    if not busy:
        return "ok", "8000 and 4200 free or ours", ""
    return "warning", "taken: " + ", ".join(busy), "Prefect takes the next free one; runtime.port for ./run serve"


def gpu():
    """An NVIDIA GPU; the default run needs none."""
    found = answer("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return ("ok", found[0], "") if found else ("ok", "none; the default run is for CPUs", "")


def sandbox():
    """bubblewrap, which shuts in whole Python programs of an agent; the chain itself does without."""
    if shutil.which("bwrap"):
        return "ok", "bubblewrap", ""
    return "ok", "no bubblewrap: ./run agent --programs refuses; the chain needs none (apt-get install bubblewrap)", ""


CHECKS = (python, compiler, git, disk, memory, packages, registry, port, gpu, sandbox)


def main():
    """Print one line a check; 1 where something needed is missing."""
    missing = 0
    for check in CHECKS:
        state, text, remedy = check()
        missing += state == "missing"
        print("%-8s %-10s %s%s" % (state, check.__name__, text, "\n%20s-> %s" % ("", remedy) if remedy else ""))
    return 1 if missing else 0


if __name__ == "__main__":
    argparse.ArgumentParser(prog="./run doctor", description=__doc__.splitlines()[0]).parse_args()
    sys.exit(main())
