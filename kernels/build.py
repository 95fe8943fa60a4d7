"""Build the C++ kernels once for this machine and load them: `library()`.

Every instruction set is its own object file with its own flags; the shared library chooses at run time (CATENA_ISA
forces a lower one). The compiler is $CXX, g++, clang++, or the `ziglang` package. The binary lies in
.runtime/kernels under a hash of sources, flags, compiler and processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KERNELS = Path(__file__).resolve().parent
CACHE = KERNELS.parent / ".runtime" / "kernels"
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-ffp-contract=off", "-Wall",
          "-pthread")
X86 = {"avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512bf16", "-mavx2",
                  "-mfma", "-mf16c", "-mprefer-vector-width=512"),
       "avx2": ("-mavx2", "-mfma", "-mf16c")}


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


def sources() -> list[Path]:
    """Every file the library is made of, in a fixed order."""
    return sorted(path for path in KERNELS.rglob("*") if path.suffix in (".h", ".cpp"))


def units() -> dict[str, tuple[str, ...]]:
    """Object name -> source and its own flags."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    isas = {**(X86 if x86 else {}), "scalar": ()}
    made = {isa: ("step/isa.cpp", *flags) for isa, flags in isas.items()}
    return made | {"abi": ("step/abi.cpp", *(("-DCATENA_X86",) if x86 else ()))}


def build() -> Path:
    """The shared library, built where it is not there yet. Raises CompilerMissing, RuntimeError on a failed build."""
    command = compiler()
    known = hashlib.sha256(repr((COMMON, units(), command, platform.machine())).encode())
    for path in sources():
        known.update(path.relative_to(KERNELS).as_posix().encode() + b"\0" + path.read_bytes())
    final = CACHE / f"{known.hexdigest()[:24]}.so"
    if final.is_file():
        return final
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".build-") as folder:
        made = {name: Path(folder) / f"{name}.o" for name in units()}
        lines = [[*command, *COMMON, *flags, "-c", str(KERNELS / source), "-o", str(made[name])]
                 for name, (source, *flags) in units().items()]
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            list(workers.map(run, lines))
        whole = Path(folder) / "kernels.so"
        run([*command, "-shared", "-pthread", *map(str, made.values()), "-o", str(whole)])
        whole.rename(final)
    return final


def run(line: list[str]) -> None:
    """Run one compiler command. Raises CompilerMissing with its first lines where it fails."""
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:600]
        raise CompilerMissing(f"{line[0]} cannot build the kernels ({said}): set CXX to a C++17 compiler")


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, loaded. Raises CompilerMissing where they cannot be built."""
    return ctypes.CDLL(str(build()))
