"""What a loader's worker process sets up for itself; results are the same without it."""

from __future__ import annotations

import ctypes
import signal

import cv2
from torch.utils.data import get_worker_info

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's settings, see man mallopt
LARGEST_KEPT = 32 * 2**20  # bytes, glibc's limit
KEPT = 256 * 2**20  # bytes


def prepare(_worker: int = 0) -> None:
    """One thread for cv2, as the workers are the parallelism, and freed memory kept for the next sample."""
    cv2.setNumThreads(0)
    keep_freed_memory()
    leave_signals_to_parent()


def leave_signals_to_parent() -> None:
    """Ctrl-C and a batch system's SIGTERM reach every process of a run, and the parent needs its workers to
    finish its step and save itself. They end when it tells them to, or when it is gone."""
    if get_worker_info() is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def keep_freed_memory() -> None:
    """Let malloc reuse large blocks. By default each plane is returned to the system and faulted in anew,
    which takes longer than cutting it. Does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function, no such library, Windows
        return
    mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(TRIM_THRESHOLD, KEPT)
