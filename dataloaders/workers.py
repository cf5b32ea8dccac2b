"""Loader processes: what each sets up for itself, and what is said when one of them is lost.

The results are the same without it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
from torch.utils.data import DataLoader, get_worker_info

from common.parents import end_with_parent

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's settings, see man mallopt
LARGEST_KEPT = 32 * 2**20  # bytes, glibc's limit
KEPT = 256 * 2**20  # bytes
FEWER = "use fewer loader processes (--num-workers, 0 for none)"
SHARED = f"shared memory (/dev/shm) is too small, full or cannot be written: {FEWER} or give it more room"


def prepare(_worker: int = 0) -> None:
    """One thread for cv2, as the workers are the parallelism, and freed memory kept for the next sample."""
    cv2.setNumThreads(0)
    keep_freed_memory()
    leave_signals_to_parent()


def leave_signals_to_parent() -> None:
    """Ctrl-C and a batch system's SIGTERM reach every process of a run, and the parent needs its workers to
    finish its step and save itself. They end when it tells them to, or when it is gone."""
    if get_worker_info() is not None:
        end_with_parent(signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def keep_freed_memory() -> None:
    """Let malloc reuse large blocks. By default each plane is returned to the system and faulted in anew,
    which takes longer than cropping it. Does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function, no such library, Windows
        return
    mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(TRIM_THRESHOLD, KEPT)


def parcels(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives. OSError, in one sentence, if a process of its is killed or lacks shared memory."""
    if getattr(loader, "num_workers", 0):
        try:
            multiprocessing.Lock()  # what every loader process begins with
        except OSError as error:
            raise OSError(SHARED) from error
    before, workers = set(multiprocessing.active_children()), set[BaseProcess]()
    try:
        iterator = _quiet_start(loader)
        workers = set(multiprocessing.active_children()) - before
        yield from iterator
    except (RuntimeError, ConnectionError, EOFError) as error:
        text = str(error)
        if "shared memory" in text or "</torch_" in text or "/torch_" in text:
            raise OSError(SHARED) from error
        if isinstance(error, RuntimeError) and "DataLoader worker" not in text:
            raise
        for worker in workers:  # the loss of its pipe may be noticed before its end
            worker.join(0.1)
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        if -signal.SIGBUS in codes:  # how a process ends that writes to memory which cannot be had
            raise OSError(SHARED) from error
        how = f"signal {-codes[0]}" if codes and codes[0] < 0 else "an error of the system"
        raise OSError(
            f"a loader process was ended by {how}, as happens when memory runs out: {FEWER}"
        ) from error


def _quiet_start(loader: DataLoader) -> Iterator[Any]:
    """Start the loader's processes without its handler of SIGCHLD, which raises wherever the program is.

    The loss of a process is noticed all the same, when its next batch is waited for.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
