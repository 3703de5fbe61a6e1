"""Imports of heavy libraries with Python's garbage collector at rest.

What they leave, a million objects, never goes. Importing torch, transformers, PEFT and TRL takes 4.6 s of a CPU in
place of 5.9 s without the collector; each full collection later takes 0.3 s less, and the end of the process 1.2 s.
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
