"""Heavy libraries, imported without the work that nobody needs: sweeps over what never goes, a compiler never asked.

While torch, transformers, PEFT and TRL are imported, Python's garbage collector looks 1,500 times at a million objects
that stay; it is a quarter of the time. Each full sweep later looks at them again, and so do two when the process ends.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_processes: list[None] = []  # one where `whole_process` is at work


@contextmanager
def whole_process() -> Iterator[None]:
    """Around all that a process does: what its imports leave is never swept again, not even when it ends.

    Not for a library in someone's notebook: what is garbage among the frozen objects stays.
    """
    atexit.register(gc.freeze)  # the interpreter sweeps twice on its way out
    _processes.append(None)
    try:
        yield
    finally:
        _processes.pop()


@contextmanager
def importing() -> Iterator[None]:
    """Inside, libraries are imported, and the collector rests."""
    collects, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if _processes and len(sys.modules) > before:
            gc.freeze()
        if collects:
            gc.enable()
