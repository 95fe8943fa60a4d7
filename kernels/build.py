"""Build the C++ kernels once for this machine and load them: `library()`.

Every instruction set is its own object file with its own flags; the shared library chooses at run time (CATENA_ISA
forces a lower one). The compiler is $CXX, g++, clang++, or the `ziglang` package. The binary lies in
.runtime/kernels under a hash of sources, flags, compiler and processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kernels.compiler import CompilerMissing, compiler, run  # noqa: F401, whoever loads the library catches it

KERNELS = Path(__file__).resolve().parent
CACHE = KERNELS.parent / ".runtime" / "kernels"
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-ffp-contract=off", "-Wall",
          "-pthread")
X86 = {"avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512bf16", "-mavx2",
                  "-mfma", "-mf16c", "-mprefer-vector-width=512"),
       "avx2": ("-mavx2", "-mfma", "-mf16c")}


def sources() -> list[Path]:
    """Every file the library is made of, in a fixed order."""
    files = (path for path in KERNELS.rglob("*") if path.suffix in (".h", ".cpp"))
    return sorted(path for path in files if path.parent.name != "training")  # a library of its own


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


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, loaded. Raises CompilerMissing where they cannot be built."""
    return ctypes.CDLL(str(build()))
