"""Signals that ask a run to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from lorascope.errors import complain

PREEMPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, run the same command again
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Preempted(KeyboardInterrupt):
    """A signal asked the run to end; its state is saved."""


@dataclass
class _Requests:
    asked: str | None = None
    deferring: int = 0
    holding: int = 0
    pending: list[tuple[int, FrameType | None]] = field(default_factory=list)  # signals that came while held


_requests = _Requests()


def install() -> None:
    """Handle SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in this process."""
    _requests.asked = None
    _requests.pending.clear()
    for number in SIGNALS:
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    if _requests.holding:
        _requests.pending.append((number, frame))
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
    """Inside, a signal is only noted; the code there calls `asked` where it can stop."""
    _requests.deferring += 1
    try:
        yield
    finally:
        _requests.deferring -= 1


@contextmanager
def held() -> Iterator[None]:
    """Inside, signals are kept and handled afterwards: for writes that must not be cut.

    Python's own handler keeps them: a mask of the system holds for one thread, and another may take the signal.
    """
    _requests.holding += 1
    try:
        yield
    finally:
        _requests.holding -= 1
        while _requests.pending and not _requests.holding:
            _handle(*_requests.pending.pop(0))


def asked() -> str | None:
    """The signal that asked this process to end, if one did."""
    return _requests.asked


def stop_if_asked() -> None:
    """Raise Preempted, with the signal's name, if one asked this process to end."""
    if _requests.asked is not None:
        raise Preempted(_requests.asked)
