"""Writing many files safely: whole or not at all, by several processes, with a progress bar."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.files import check_folder, read_json, replacing, write_json
from common.lock import locked
from common.parents import end_with_parent, serve
from dataloaders.index import visible

LOST = (
    "a worker process was ended, as happens when memory runs out: use fewer (--workers, 1 for none) and "
    "start it again"
)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all: a reader never meets half of it."""
    with replacing(path, durable=False) as temporary:
        temporary.write_bytes(data)


def write_png(path: Path, plane: np.ndarray) -> None:
    """plane: uint8 or uint16, [H, W] or RGB [H, W, 3]."""
    bgr = cv2.cvtColor(plane, cv2.COLOR_RGB2BGR) if plane.ndim == 3 else plane
    write_bytes(path, cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes())


def write_npy(path: Path, array: np.ndarray) -> None:
    """Any array of plain numbers."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getbuffer())


@contextmanager
def claimed(
    folder: Path, marker: str, settings: dict[str, object], overwrite: bool = False, way_out: str = ""
) -> Iterator[None]:
    """Inside, a folder is ours alone to fill: new, empty, or begun earlier with the same settings.

    The settings stand in folder/marker. ValueError if something else is there and `overwrite` is not set, or
    another process fills it now.
    """
    check_folder(folder, "the folder")
    with locked(folder, marker, instead="folder"):
        path = folder / marker
        begun = read_json(path) if path.exists() else None
        if begun != settings and visible(folder) and not overwrite:
            what = "files made with other settings" if begun else "other files"
            raise ValueError(f"{folder} already holds {what}: choose an empty folder{way_out}")
        write_json(path, settings)
        yield


def present(*paths: Path) -> bool:
    """Whether all these files are there; written by rename, a file that is there is whole."""
    return all(path.exists() for path in paths)


def default_workers() -> int:
    """One process for each core that this process may use, at most eight."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def _begin() -> None:
    """A worker ends with the command, which Ctrl-C is for; it has one thread, as the processes share the
    cores already."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:  # not imported for the sake of this line
        sys.modules["torch"].set_num_threads(1)


def run_all(function: Callable, jobs: Iterable, workers: int, label: str) -> list:
    """[function(job) for job in jobs] by several processes, in order; function and jobs must pickle.

    The first error stops the rest and is raised here; OSError, in one sentence, where a process is killed.
    """
    jobs = list(jobs)
    if workers <= 1 or len(jobs) <= 1:
        return [function(job) for job in tqdm(jobs, desc=label, disable=None)]
    # fresh processes: a fork of a process with threads may hang
    context = serve(__name__, getattr(function, "func", function).__module__)
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_begin) as pool:
        try:
            # not pool.map: when a process is lost it cancels jobs that the pool is about to fail, and hangs
            futures = [pool.submit(function, job) for job in jobs]
            return [future.result() for future in tqdm(futures, desc=label, disable=None)]
        except BrokenProcessPool as error:
            raise OSError(LOST) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
