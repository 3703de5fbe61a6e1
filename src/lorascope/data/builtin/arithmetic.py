"""Seeded arithmetic problems, with a probe of longer numbers."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from lorascope.data.rows import Row, Rows, exchange
from lorascope.errors import ConfigError, DataError

SYSTEM = "Answer with the number."
SIGNS = {"+": "+", "-": "-", "*": "×"}


class Problem(NamedTuple):
    """An operation on two numbers."""

    sign: str
    left: int
    right: int

    @property
    def answer(self) -> int:
        """The result."""
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.sign]

    def to_row(self) -> Row:
        """The question and its answer."""
        return exchange(f"{self.left} {SIGNS[self.sign]} {self.right} = ?", str(self.answer), SYSTEM)


def load(
    *, seed: int = 1, digits: int = 2, operations: str = "+-", rows: int = 1200, eval_rows: int = 200, longer: int = 100
) -> Rows:
    """Problems and results.

    Args:
        seed: of the problems; the run's seed does not change them.
        digits: numbers are below 10 ** digits; those of the probe `longer` have one digit more, both.
        operations: of + - *, each as often; differences are never below zero.
        rows: problems in the train split.
        eval_rows: problems in the eval split, none of them trained, nor with its numbers swapped.
        longer: problems of the probe.

    Raises:
        ConfigError: for an operation that is not one of them.
        DataError: for more rows than there are problems.
    """
    signs = sorted(set(operations))
    if not signs or set(signs) - set(SIGNS):
        raise ConfigError("dataset.options.operations", f"{operations!r} is not made of + - *.", "Take some of them.")
    there_are = len(signs) * 10**digits * (10**digits + 1) // 2
    if 2 * (rows + eval_rows) > there_are:
        raise DataError(
            "dataset.options.rows",
            f"{rows} and {eval_rows} problems were asked for; numbers of {digits} digits make {there_are}.",
            "Take half of them at most, or raise dataset.options.digits.",
        )
    if 2 * longer > there_are:
        raise DataError(
            "dataset.options.longer", f"{longer} problems were asked for.", f"Take {there_are // 2} at most."
        )
    draw = random.Random(seed)
    problems = _problems(draw, signs, 0, 10**digits, rows + eval_rows)
    beyond = _problems(draw, signs, 10**digits, 10 ** (digits + 1), longer)
    return Rows(
        train=tuple(map(Problem.to_row, problems[eval_rows:])),
        eval=tuple(map(Problem.to_row, problems[:eval_rows])),
        origin=f"made by lorascope, seed {seed}",
        probes={"longer": tuple(map(Problem.to_row, beyond))},
        license="Apache-2.0",
        split="by problem: none is in both halves, nor with its numbers swapped",
    )


def _problems(draw: random.Random, signs: list[str], low: int, high: int, wanted: int) -> list[Problem]:
    """Different problems with numbers of [low, high); a problem and its swapped form count as one."""
    found: dict[tuple[Any, ...], Problem] = {}
    while len(found) < wanted:
        sign, numbers = draw.choice(signs), [draw.randrange(low, high), draw.randrange(low, high)]
        problem = Problem(sign, *(sorted(numbers, reverse=True) if sign == "-" else numbers))
        found.setdefault((sign, *sorted(numbers)), problem)
    return list(found.values())
