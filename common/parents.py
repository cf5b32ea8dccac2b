"""Processes that end when the process that started them is gone, however it ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """From now on this process gets the signal as soon as the process that asked for it has ended.

    For the first line of what `multiprocessing` starts, in whichever way: behind a server of processes too it
    is the process that called `start`, not the server. Elsewhere it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()
