"""The C++ compiler that builds the kernels: $CXX, g++, clang++, or the `ziglang` package."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys


class CompilerMissing(RuntimeError):
    """No C++ compiler can build the kernels here; the message is one line with the remedy."""


def compiler() -> list[str]:
    """The compiler's command: $CXX, else g++ or clang++ on PATH, else `ziglang`. Raises CompilerMissing."""
    if given := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(given[0]):
            return given
        raise CompilerMissing(f"CXX={given[0]} is not on PATH: unset it or install that compiler")
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise CompilerMissing("no C++ compiler: install g++, or `pip install ziglang`, or set CXX")


def run(line: list[str]) -> None:
    """Run one compiler command. Raises CompilerMissing with its first lines where it fails."""
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:600]
        raise CompilerMissing(f"{line[0]} cannot build the kernels ({said}): set CXX to a C++17 compiler")
