"""A lock that dies with its process: who works on something in a folder, told to whoever comes second.

The file `.{name}.lock` says host, process and since when. Its holder has it under a POSIX record lock, which
the kernel drops when that process ends, however it ends; a forked worker does not keep it. Where such locks
do not reach another host's process, the file's heartbeat does: a file of another host is stale when it has
not been touched for `STALE` seconds by the clock of the file system. Taking over happens under the record
lock, so of several that come at once one wins.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from common.choices import printable

BEAT, STALE = 10.0, 60.0  # seconds between heartbeats; without one for so long another host's lock is stale

NAME_OR_DEST = "--name or --dest"

_mine: set[str] = set()  # a record lock does not keep a process from itself


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. since: local time, ISO."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        host, since = (printable(text)[:80] for text in (self.host, self.since))  # of a file of anybody's
        return f"process {self.pid} on {host} since {since}"


class Held(ValueError):
    """Another process is at work; `holder` says who, None where its file does not tell."""

    def __init__(self, what: str, holder: Holder | None, instead: str = NAME_OR_DEST) -> None:
        by = f"by {holder}" if holder else "by another process"
        super().__init__(f"{what} is in use {by}: wait for its end, or choose another {instead}")
        self.holder = holder


@contextmanager
def locked(
    folder: str | Path, name: str, ending: str = "lock", instead: str = NAME_OR_DEST
) -> Iterator[None]:
    """Hold `.{name}.{ending}` in a folder while the block runs; the file is gone afterwards.

    instead: what the second may choose another of. A folder that is not there is made, and removed again if
    nothing was written to it. Raises Held while another process, or this one, holds the lock, and OSError
    where no file can be written.
    """
    path = Path(folder) / f".{name}.{ending}"
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    key = str(path.resolve())
    what = f"{Path(folder) / name}"
    if key in _mine:
        raise Held(what, Holder(socket.gethostname(), os.getpid(), "before"), instead)
    handle = _take(path, what, instead)
    _mine.add(key)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(handle, done), daemon=True)
    try:
        beat.start()
        yield
    finally:
        done.set()
        beat.join()
        _mine.discard(key)
        _forget(path, handle)
        with suppress(OSError):  # somebody wrote to it
            for parent in made:
                parent.rmdir()


def _take(path: Path, what: str, instead: str) -> int:
    """An open handle of the lock file, locked and with our name in it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(handle)
            os.close(handle)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise OSError(f"cannot lock {path}: {error.strerror}") from error
            raise Held(what, holder, instead) from None
        if not _is_at(path, handle):  # its holder has just finished and removed it
            os.close(handle)
            continue
        holder = _read(handle)
        if holder is not None and holder.host != socket.gethostname() and not _is_stale(path, handle):
            os.close(handle)
            raise Held(what, holder, instead)
        now = Holder(socket.gethostname(), os.getpid(), datetime.now().isoformat(" ", "seconds"))
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(now)).encode(), 0)
        return handle


def _read(handle: int) -> Holder | None:
    """Who has put their name into a lock file; None where it is no such name."""
    try:
        holder = Holder(**json.loads(os.pread(handle, 4096, 0)))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = tuple(map(type, (holder.host, holder.pid, holder.since)))
    return holder if kinds == (str, int, str) else None


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _is_stale(path: Path, handle: int) -> bool:
    """Whether nobody has touched the file for long; the time is that of a file made now, beside it."""
    with tempfile.TemporaryFile(dir=path.parent) as fresh:
        return os.fstat(fresh.fileno()).st_mtime - os.fstat(handle).st_mtime > STALE


def _beat(handle: int, done: threading.Event) -> None:
    while not done.wait(BEAT):
        os.utime(handle)


def _forget(path: Path, handle: int) -> None:
    if _is_at(path, handle):
        path.unlink(missing_ok=True)
    os.close(handle)
