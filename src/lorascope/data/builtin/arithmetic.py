"""Seeded arithmetic problems, with a probe of longer numbers."""

from __future__ import annotations

import operator
import random
from typing import Any

from lorascope.data.rows import Row, Rows, exchange
from lorascope.errors import ConfigError, DataError

SYSTEM = "Answer with the number."
SIGNS = {"+": ("+", operator.add), "-": ("-", operator.sub), "*": ("×", operator.mul)}


def load(
    *, seed: int = 1, digits: int = 2, operations: str = "+-", rows: int = 1200, eval_rows: int = 200, longer: int = 100
) -> Rows:
    """Problems and results.

    Args:
        seed: of the problems; the run's seed does not change them.
        digits: numbers are below 10 ** digits; those of the probe `longer` have one digit more, both.
        operations: of + - *, each as often; differences are never below zero.
        eval_rows: problems in the eval split, none of them trained, nor with its numbers swapped.

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
        what = f"{longer} problems were asked for."
        raise DataError("dataset.options.longer", what, f"Take {there_are // 2} at most.")
    draw = random.Random(seed)
    problems = _problems(draw, signs, 0, 10**digits, rows + eval_rows)
    return Rows(
        train=problems[eval_rows:],
        eval=problems[:eval_rows],
        origin=f"made by lorascope, seed {seed}",
        probes={"longer": _problems(draw, signs, 10**digits, 10 ** (digits + 1), longer)},
        license="Apache-2.0",
        split="by problem: none is in both halves, nor with its numbers swapped",
    )


def _problems(draw: random.Random, signs: list[str], low: int, high: int, wanted: int) -> tuple[Row, ...]:
    """Different problems with numbers of [low, high); a problem and its swapped form count as one."""
    found: dict[tuple[Any, ...], Row] = {}
    while len(found) < wanted:
        sign, numbers = draw.choice(signs), [draw.randrange(low, high), draw.randrange(low, high)]
        left, right = sorted(numbers, reverse=True) if sign == "-" else numbers
        symbol, apply = SIGNS[sign]
        row = exchange(f"{left} {symbol} {right} = ?", str(apply(left, right)), SYSTEM)
        found.setdefault((sign, *sorted(numbers)), row)
    return tuple(found.values())
