"""Triton reads TRITON_INTERPRET when it is first imported, and any test module may be the first to import it."""

import ctypes
import os


def has_driver() -> bool:
    """Whether the CUDA driver is on this machine (asked without torch, which takes seconds to import)."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


if not has_driver():
    os.environ.setdefault("TRITON_INTERPRET", "1")
