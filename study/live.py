"""What a study's runs are saying, on a terminal: the last line of the log that was written last."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .isolated import last_line
from .plan import ALONE

RHYTHM = 1.0  # seconds between looks
CLEAR = "\r\x1b[K"


@contextmanager
def live(dest: Path, stream: TextIO | None = None) -> Iterator[None]:
    """Inside, the line is renewed every second; nothing where the stream (stderr) is no terminal."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield
        return
    done = threading.Event()

    def show() -> None:
        while not done.wait(RHYTHM):
            stream.write(CLEAR + latest(dest)[: shutil.get_terminal_size().columns - 1])
            stream.flush()

    shower = threading.Thread(target=show, daemon=True)
    shower.start()
    try:
        yield
    finally:
        done.set()
        shower.join()
        stream.write(CLEAR)
        stream.flush()


def latest(dest: Path) -> str:
    """Such as "nyuv2_snip_90.launch: 40 % ...": of the log below a folder that was written last."""
    logs = [log for below in ("*", f"*/{ALONE}") for log in dest.glob(f"{below}/logs/*.log")]
    if not logs:
        return ""
    newest = max(logs, key=lambda log: log.stat().st_mtime)
    return f"{newest.stem}: {last_line(newest)}"
