"""Rows out of a data set on the Hugging Face hub, or a folder that `datasets` reads like one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lorascope.config import DatasetConfig
from lorascope.data.files import RawRow, read_rows
from lorascope.data.rows import Rows
from lorascope.data.split import split_rows
from lorascope.errors import DataError


def load(dataset: DatasetConfig) -> Rows:
    """Both halves: `split` and `eval_split`, or `split` divided by `eval_share`.

    Raises:
        DataError: when the data set cannot be had, or for the first bad row unless they are skipped.
    """
    assert dataset.path
    found = _split(dataset, dataset.split)
    rows, shape, skipped = read_rows(lambda: _raw(found, dataset.split), dataset, dataset.path)
    origin = f"{dataset.path}@{dataset.revision}"
    if dataset.eval_split:
        held_out = _split(dataset, dataset.eval_split)
        evaluation, _, more = read_rows(lambda: _raw(held_out, dataset.eval_split or ""), dataset, dataset.path)
        return Rows(tuple(rows), tuple(evaluation), origin, shape, tuple(skipped + more))
    train, rest = split_rows(rows, dataset.eval_share, by_group=dataset.group is not None)
    return Rows(train, rest, origin, shape, tuple(skipped))


def _raw(found: Any, split: str) -> Iterator[RawRow]:
    for number, row in enumerate(found, start=1):
        yield f"{split}, row {number}", row


def _split(dataset: DatasetConfig, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(dataset.path, dataset.subset, split=split, revision=dataset.revision)
    except Exception as error:  # datasets passes on what its builders and the hub raise
        raise explain(error, dataset, split) from error


def explain(error: Exception, dataset: DatasetConfig, split: str) -> DataError:
    """The failure to load a data set in the user's words."""
    if type(error).__name__ == "DatasetGenerationError":  # which says no more than that
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    text, name = str(error).strip(), type(error).__name__
    first = text.splitlines()[0] if text else name
    place = f"dataset.path={dataset.path}"
    if "gated" in text.lower():
        return DataError(
            place, "the hub says that this data set is gated.", "Accept its terms there, then set HF_TOKEN."
        )
    if re.search("Unknown split|Bad split|Split name|^(Unrecognized i|I)nstruction", text):
        return DataError(f"dataset.split={split}", first, "Name a split that it has.")
    if name == "HFValidationError":
        return DataError(place, "is neither a folder nor a hub id.", "Write ORG/NAME, or ./FOLDER.")
    if "Config name is missing" in text or "BuilderConfig" in text:
        return DataError("dataset.subset", first, "Name one: dataset.subset=NAME")
    if name == "DatasetNotFoundError":
        return DataError(
            place, "the hub knows no such data set, or it is private.", "Check the id; a folder works too."
        )
    if "reach" in text or "connect" in text.lower() or "offline" in text.lower():
        return DataError(place, "the hub cannot be reached, and it is not in the local cache.", "Connect once.")
    return DataError(place, f"{name}: {first}", "See dataset=file for files of your own.")
