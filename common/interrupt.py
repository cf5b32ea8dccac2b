"""Ctrl-C, SIGTERM and SIGHUP end a run after its step, with a checkpoint; a later second one ends it at once.

One request may come as several signals: a batch system sends its own to every process, and whoever started
this one hands on what it got.
"""

from __future__ import annotations

import signal
from threading import Event
from time import monotonic
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_REQUEST = 1.0  # seconds within which signals are one request
STARTED_ANEW = Event()  # set when --overwrite has done its work, so that --resume goes on from there


class Interrupted(Exception):
    """A run that was told to stop and saved itself. `code` is the exit status that shells expect."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + number


class StopRequest:
    """Context manager: `number` is the signal that came, None before.

    Whoever acts on it leaves by an exception. Else the signal comes again at the end, and acts as usual: a
    block that ends all the same, or a generator that is closed, is not the end of the command.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:  # nohup
                continue
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        waits = bool(self._before)  # else a later second one has acted
        self._restore()
        if self.number is not None and waits and kind in (None, GeneratorExit):
            signal.raise_signal(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self._since = number, monotonic()
        elif monotonic() - self._since > ONE_REQUEST:
            self._restore()
            signal.raise_signal(number)  # which acts as usual

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
