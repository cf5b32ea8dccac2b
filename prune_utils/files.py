"""Files that are written whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".part"  # ends the name of a file that is being written


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` when the block ends without an error.

    The folder is made, the content and the rename are on disk afterwards: `path` is old or new, never half,
    whatever kills the process. OSError names `path` and the free space; the temporary file is gone then.
    durable=False, for thousands of files that can be made again, does not wait for the disk, and leaves what
    killed writers of `path` left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if durable:
            remove_partial(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
        try:
            yield temporary
            if durable:
                _sync(temporary, os.O_RDONLY)
            temporary.replace(path)
            if durable and hasattr(
                os, "O_DIRECTORY"
            ):  # a rename survives a power failure only when its folder does
                _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}{_free(path.parent)}") from error


def remove_partial(path: Path) -> None:
    """Remove what writers of `path` left that were killed while they wrote."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        left.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    return f" ({shutil.disk_usage(folder).free / 2**20:.0f} MiB free there)"
