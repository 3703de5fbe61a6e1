"""The terminal: progress, notices, and the silence of libraries.

What they leave, a million objects, never goes. Importing torch, transformers, PEFT and TRL takes 4.6 s of a CPU in
place of 5.9 s without the collector; each full collection later takes 0.3 s less, and the end of the process 1.2 s.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

WIDTH = 118  # of what is piped into a file, where rich would assume 80


def console(*, stderr: bool = False) -> Console:
    """The terminal, or whatever stands in for it."""
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else WIDTH
    silent = output() == QUIET or (output() == JSON and not stderr)
    return Console(highlight=False, soft_wrap=True, width=width, stderr=stderr, quiet=silent)


def quiet() -> Console:
    """For what somebody else tells."""
    return Console(quiet=True)


# -q and --json, for a script or an agent; a variable, so that processes of any launcher know it
OUTPUT, QUIET, JSON = "LORASCOPE_OUTPUT", "quiet", "json"


def output() -> str:
    """Who reads: nobody (quiet), a program (json), or a person (empty)."""
    return os.environ.get(OUTPUT, "")


@contextmanager
def printing(*, quiet: bool = False, as_json: bool = False) -> Iterator[None]:
    """Inside, only errors and results are printed: where they are with `quiet`, what they are with `as_json`."""
    before = os.environ.get(OUTPUT)
    if quiet or as_json:
        os.environ[OUTPUT] = JSON if as_json else QUIET
    try:
        yield
    finally:
        os.environ.pop(OUTPUT, None)
        os.environ |= {} if before is None else {OUTPUT: before}


_results: list[TextIO] = []  # where they go while stdout is somewhere else


@contextmanager
def only_results() -> Iterator[None]:
    """Inside, what libraries print goes nowhere with -q, to stderr with --json: transformers greets W&B on stdout."""
    with open(os.devnull, "w") as nowhere:
        _results.append(sys.stdout)
        try:
            with redirect_stdout({QUIET: nowhere, JSON: sys.stderr}.get(output(), sys.stdout)):
                yield
        finally:
            _results.pop()


def result(place: str | Path | None, data: Callable[[], Any] | None = None) -> None:
    """What a script is told: the place with -q, a line of JSON with --json; a person has been told already."""
    out = _results[-1] if _results else sys.stdout
    if output() == JSON and data:
        print(json.dumps(data(), ensure_ascii=False), file=out, flush=True)
    elif output() == QUIET and place is not None:
        print(place, file=out, flush=True)


# told of every bar's progress: title, steps, of how many, note
Listener = Callable[[str, int, int, str], None]
_listeners: list[Listener] = []
_told: list[set[str]] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, somebody else shows what bars would, and a notice that was given is not given again."""
    _listeners.append(listener)
    _told.append(set())
    try:
        yield
    finally:
        _listeners.pop()
        _told.pop()


class Bar:
    """Progress over a known number of steps: a bar in a terminal, five lines elsewhere."""

    def __init__(self, out: Console, title: str, total: int) -> None:
        self.out, self.title, self.total = out, title, max(total, 1)
        self.done, self.note, self.began, self.told = 0, "", time.perf_counter(), 0
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeRemainingColumn(), console=out, transient=True,
            disable=not out.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task(f"{title:<10}", total=self.total, note="")

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if error is None and self.told < 4:
            self._tell()

    def step(self, steps: int = 1, note: str | None = None, *, tell: bool = True) -> None:
        """So many steps further; `tell` may print a line where there is no bar."""
        self.done += steps
        self.note = self.note if note is None else note
        self.bar.update(self.task, completed=self.done, note=self.note)
        for listener in _listeners:
            listener(self.title, self.done, self.total, self.note)
        if tell and self.done * 4 // self.total > self.told:
            self._tell()

    def _tell(self) -> None:
        self.told = self.done * 4 // self.total
        if not self.out.is_terminal:
            seconds = time.perf_counter() - self.began
            self.out.print(f"{self.title:<10} {self.done}/{self.total}  {seconds:.0f} s  {self.note}".rstrip())


@contextmanager
def waiting(out: Console, what: str) -> Iterator[None]:
    """Shows that something takes its time."""
    if out.is_terminal:
        with out.status(what):
            yield
    else:
        yield


def warn(text: Any) -> None:
    """A notice that does not end the run."""
    if output() == QUIET or any(str(text) in told for told in _told):
        return
    for told in _told:
        told.add(str(text))
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[yellow]note[/]  {text}")


def hush() -> None:
    """Quieten transformers, datasets, bitsandbytes and the hub client, unless LORASCOPE_DEBUG is set."""
    if os.environ.get("LORASCOPE_DEBUG"):
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # "Failed to load CPU gemm_4bit_forward": bitsandbytes then takes its own kernel, which is what is meant
    for name in ("bitsandbytes", "transformers", "huggingface_hub", "peft", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate|torch)\b")
    import datasets
    import huggingface_hub
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    bars = huggingface_hub.utils.disable_progress_bars if output() else huggingface_hub.utils.enable_progress_bars
    bars()  # a download of gigabytes is worth one
    datasets.disable_progress_bars()


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
