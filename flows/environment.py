"""The environment every stage runs in, the same through Prefect, `dvc repro` and a shell.

    python -m flows.environment COMMAND [ARGUMENT ...]

replaces itself with COMMAND under that environment. No stage depends on it for what it writes: it keeps the
chain offline, private and quick on shared cores.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def stage_environment(workspace: Path) -> dict[str, str]:
    """os.environ with the chain's settings for stages run in `workspace`."""
    interpreter = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{interpreter}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # `python` in a cmd is this one
        "SHELL": shutil.which("bash") or "/bin/sh",   # bash execs a lone command, so a stage's parent is DVC itself
        "PYTHONPATH": "",                             # the workspace's code and no other checkout's
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "passive",                 # spinning threads collapse on shared cores (9x, docs/LOG.md)
        "TORCH_EXTENSIONS_DIR": str(workspace / ".runtime" / "torch_extensions"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",  # libraries on each other; not the reader's to mend
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        **loopback_direct(),
    }


def loopback_direct() -> dict[str, str]:
    """no_proxy, in both spellings, with this machine in it: what is served here is not asked of a proxy."""
    hosts = {"127.0.0.1", "localhost"}
    for name in ("no_proxy", "NO_PROXY"):
        hosts |= {host.strip() for host in os.environ.get(name, "").split(",") if host.strip()}
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(sorted(hosts)))


def main() -> None:
    """Exec the command line after the module's name in the stage environment of the working directory."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m flows.environment COMMAND [ARGUMENT ...]")
    try:
        os.execvpe(sys.argv[1], sys.argv[1:], stage_environment(Path.cwd()))
    except OSError as error:
        sys.exit(f"error: cannot run {sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
