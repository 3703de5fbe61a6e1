"""Read rows from a data set on the Hugging Face hub or a local copy of one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lorascope.config.schema import DatasetConfig
from lorascope.data.columns import answer_column, classes, find_shape
from lorascope.data.rows import RawRow, Rows
from lorascope.data.splits import RawSource, read_halves, said, split_words
from lorascope.errors import DataError


def load(dataset: DatasetConfig) -> Rows:
    """Both halves: `split` and `eval_split`, or a data set of its own, or `split` divided by `eval_share`.

    Raises:
        DataError: when a data set cannot be had, or for the first bad row unless they are skipped.
    """
    assert dataset.path
    place, held_out = HubLocation(dataset.path, dataset.subset, dataset.split, dataset.revision), eval_place(dataset)
    found = _fetch(place, dataset.streaming)
    main, other = RawSource(partial(_raw, found, place.split), place.path), None
    labels = _classes(dataset, found)
    if held_out:
        apart = _fetch(held_out, dataset.streaming)
        other = RawSource(partial(_raw, apart, held_out.split), held_out.path)
    train, rest, shape, skipped = read_halves(dataset, labels, main, other)
    split = f"eval half: {held_out.words}, {held_out.split}" if held_out else split_words(dataset)
    origin = ", evaluated on ".join(dict.fromkeys(one.words for one in (place, held_out) if one))
    license = str(found.info.license or "")
    return Rows(train, rest, origin, shape, skipped, labels=labels, license=license, split=split)


@dataclass(frozen=True)
class HubLocation:
    """A split of a data set, and where its settings stand."""

    path: str
    subset: str | None
    split: str
    revision: str
    half: str = ""  # what its settings' names begin with

    @property
    def words(self) -> str:
        """Id and revision."""
        return f"{self.path}@{self.revision}"


def eval_place(dataset: DatasetConfig) -> HubLocation | None:
    """Where the eval half is; None where it is a share of the rows."""
    if dataset.eval_path:
        split = dataset.eval_split or dataset.split
        return HubLocation(dataset.eval_path, dataset.eval_subset, split, dataset.eval_revision, "eval_")
    if dataset.eval_split:
        return HubLocation(dataset.path or "", dataset.subset, dataset.eval_split, dataset.revision)
    return None


def _classes(dataset: DatasetConfig, found: Any) -> tuple[str, ...]:
    """The names of the classes: the user's, or those that the data set gives its answers' numbers."""
    if dataset.labels:
        return classes(dataset.labels)
    if not found.features:  # a stream of JSON tells none
        return ()
    shape = find_shape(set(found.features), said(dataset), dataset.path or "")
    feature = found.features.get(answer_column(shape) or "")
    return tuple(getattr(feature, "names", None) or ())


def _raw(found: Any, split: str) -> Iterator[RawRow]:
    for number, row in enumerate(found, start=1):
        yield f"{split}, row {number}", row


def _fetch(place: HubLocation, streaming: bool) -> Any:
    import datasets

    try:
        cache = _cache_of(Path(place.path), datasets.config.HF_DATASETS_CACHE) if os.path.isdir(place.path) else None
        return datasets.load_dataset(
            place.path,
            place.subset,
            split=place.split,
            revision=place.revision,
            cache_dir=cache,
            streaming=streaming,
        )
    except Exception as error:  # datasets passes on what its builders and the hub raise
        raise explain(error, place) from error


def _cache_of(folder: Path, caches: Path) -> str:
    """A cache of its own for a folder as it is now.

    A folder with a card is found in the common cache by its last name and its card, whatever its files hold.
    """
    files = sorted(file for file in folder.absolute().rglob("*") if file.is_file())
    now = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return str(Path(caches, "lorascope", hashlib.sha256(repr(now).encode()).hexdigest()[:16]))


def explain(error: Exception, wanted: HubLocation) -> DataError:
    """The failure to load a data set in the user's words."""
    if type(error).__name__ == "DatasetGenerationError":  # which says no more than that
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    text, name = str(error).strip(), type(error).__name__
    first = text.splitlines()[0] if text else name
    place = f"dataset.{wanted.half}path={wanted.path}"
    if "gated" in text.lower():
        return DataError(
            place, "the hub says that this data set is gated.", "Accept its terms there, then set HF_TOKEN."
        )
    if re.search("Unknown split|Bad split|Split name|^(Unrecognized i|I)nstruction", text):
        return DataError(f"dataset.{wanted.half}split={wanted.split}", first, "Name a split that it has.")
    if name == "HFValidationError":
        return DataError(place, "is neither a folder nor a hub id.", "Write ORG/NAME, or ./FOLDER.")
    if "Config name is missing" in text or "BuilderConfig" in text:
        return DataError(f"dataset.{wanted.half}subset", first, f"Name one: dataset.{wanted.half}subset=NAME")
    if name == "DatasetNotFoundError":
        return DataError(
            place, "the hub knows no such data set, or it is private.", "Check the id; a folder works too."
        )
    if "reach" in text or "connect" in text.lower() or "offline" in text.lower():
        return DataError(place, "the hub cannot be reached, and it is not in the local cache.", "Connect once.")
    return DataError(place, f"{name}: {first}", "See dataset=file for files of your own.")
