"""Processes that end when the process that started them is gone, however it ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext


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


def serve(*loaded: str) -> ForkServerContext | SpawnContext:
    """Where fresh processes come from that end with this one: a server, where the system has such.

    It is started unless it runs already, and loads these modules once for all of its processes. The first
    call is for the main thread: the server ends with the thread that starts it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["common.server", *loaded])
    # whoever signals every process, as a cluster does before it preempts, means us alone
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR2})
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # which a process heeds when it gets it
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    return context
