"""Requests to stop a run: noted, told apart, and not taken for two where one comes twice."""

from __future__ import annotations

import signal

import pytest

from common import interrupt
from common.interrupt import SIGNALS, StopRequest


class Acted(Exception):
    """Whoever waited for the signal acts on it."""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted(number):
    before = signal.getsignal(number)
    with pytest.raises(Acted), StopRequest() as stop:
        assert stop.number is None
        signal.raise_signal(number)
        assert stop.number == number
        raise Acted
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("ending", ["at its end", "closed"])
def test_a_signal_that_nobody_acted_on_acts_as_usual(number, ending):
    def noted():
        with StopRequest():
            yield
            signal.raise_signal(number)
            if ending == "closed":
                yield

    heard, work = [], noted()
    before = signal.signal(number, lambda *given: heard.append(given[0]))
    try:
        list(work) if ending == "at its end" else (next(work), next(work), work.close())
        assert heard == [number]
    finally:
        signal.signal(number, before)


def test_one_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_request_may_come_twice_and_a_later_one_acts_at_once(monkeypatch):
    now = 0.0
    monkeypatch.setattr(interrupt, "monotonic", lambda: now)
    with StopRequest() as stop:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            now += 0.4
            signal.raise_signal(number)
        assert stop.number == signal.SIGTERM
        now += 0.4
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
