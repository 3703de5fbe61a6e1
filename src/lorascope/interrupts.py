"""Signals that ask a run to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lorascope.errors import complain

PREEMPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, run the same command again
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Preempted(KeyboardInterrupt):
    """The run was asked to end; what it had is saved."""


class _Requests:
    """What was asked for, and whether it can wait."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self.deferring = 0
        self.holding = 0
        self.kept: list[tuple[int, FrameType | None]] = []  # what came while held


_requests = _Requests()


def install() -> None:
    """Listen to SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in this process."""
    _requests.asked = None
    _requests.kept.clear()
    for number in SIGNALS:
        signal.signal(number, _heard)


def _heard(number: int, frame: FrameType | None) -> None:
    if _requests.holding:
        _requests.kept.append((number, frame))
        return
    name = signal.Signals(number).name
    if _requests.asked is not None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C stops at once
        return  # a scheduler may ask many times
    _requests.asked = name
    if not _requests.deferring:
        raise Preempted(name)
    complain(f"{name}: saving at the end of this step, then stopping. Ctrl-C stops at once.")


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal is only noted: whoever is in there asks `asked()` where it can stop."""
    _requests.deferring += 1
    try:
        yield
    finally:
        _requests.deferring -= 1


@contextmanager
def held() -> Iterator[None]:
    """Inside, no signal comes through; what came is heard afterwards. For writes that must not be cut.

    Python's own handler is told, not the system: a mask holds for one thread, and any other may take the signal.
    """
    _requests.holding += 1
    try:
        yield
    finally:
        _requests.holding -= 1
        while _requests.kept and not _requests.holding:
            _heard(*_requests.kept.pop(0))


def asked() -> str | None:
    """The signal that asked this process to end, if one did."""
    return _requests.asked


def stop_if_asked() -> None:
    """Leave, if a signal asked for it.

    Raises:
        Preempted: with the signal's name.
    """
    if _requests.asked is not None:
        raise Preempted(_requests.asked)
