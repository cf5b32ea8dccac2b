"""The file of a lock, which another host left and a heartbeat keeps fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.lock import Held, locked
from tests.hostile.formats import Format, write_json

NAME = "nyuv2_snip_90"
FIELDS = ("host", "pid", "since")


def holder() -> dict:
    return {"host": "elsewhere", "pid": 4711, "since": "2026-01-01 00:00:00"}


def read_lock(path: Path) -> Any:
    """Who is told to whoever comes second: everything, or nothing where the file says nothing of use."""
    try:
        with locked(path.parent, NAME):
            return "taken"
    except Held as error:
        sentence = str(error)
        if not sentence.isprintable() or NAME not in sentence or len(sentence) > 600:
            raise AssertionError(f"it is told badly: {sentence!r}") from None
        return "held"
    finally:
        path.unlink(missing_ok=True)


def legal_lock(path: tuple, fault: str) -> bool:
    """A file that does not say who holds it is that of a process that died while it began."""
    return True


FORMATS = (Format("lock", f".{NAME}.lock", holder, write_json, read_lock, legal=legal_lock),)
