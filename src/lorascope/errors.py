"""Errors that a user can correct: place, value, remedy."""

from __future__ import annotations

import re
import sys

# a text that begins with one of these continues the place: "train.epochs must be > 0"; others follow a colon
VERBS = frozenset((
    "are", "asks", "cannot", "does", "exceeds", "fits", "has", "have", "holds", "is", "lacks", "makes", "must", "names",
    "needs", "sees", "takes", "was", "were", "would",
))  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")  # no terminal should get these


class LorascopeError(Exception):
    """An error that the user can correct; the command prints it without a traceback.

    Args:
        place: where it is wrong: a config key, an override, a file.
        what: what is wrong there, with the value.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, place: str, what: str, remedy: str = "") -> None:
        self.place, self.what, self.remedy = place, what, remedy
        text = self.problem + (f"\n  {remedy}" if remedy else "")
        super().__init__(CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text))

    @property
    def problem(self) -> str:
        """Place and what is wrong there, without the remedy."""
        return f"{self.place}{' ' if self.what.partition(' ')[0] in VERBS else ': '}{self.what}"

    def __reduce__(self) -> tuple[type[LorascopeError], tuple[str, str, str]]:
        # launchers send errors between processes
        return type(self), (self.place, self.what, self.remedy)


class ConfigError(LorascopeError):
    """A setting that is not allowed; it is found before anything is loaded."""

    exit_code = 2


class ModelError(LorascopeError):
    """A base model that cannot be found, read or fine-tuned."""


class DataError(LorascopeError):
    """Data that cannot be found or learned from."""


class PlanError(LorascopeError):
    """A strategy that does not fit the model, or an adapter that differs from its plan."""


class RunError(LorascopeError):
    """A run that cannot be started, or that failed."""


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory, on whatever device."""
    return type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "not enough memory" in str(error).lower()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def complain(error: object) -> None:
    """Print an error on stderr as it is: no markup, no wrapping."""
    print(error, file=sys.stderr, flush=True)
