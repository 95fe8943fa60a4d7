"""Keep freed memory in the process: training allocates the same large tensors at every step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed() -> None:
    """Tell glibc to reuse freed blocks instead of returning them to the kernel; elsewhere nothing happens.

    By default large tensors are mapped anew, and zeroed page by page, at each use: a seventh of a small model's
    training step on one core.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
