"""Read rows from a data set on the Hugging Face hub or a local copy of one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lorascope.config.schema import DatasetConfig
from lorascope.data import messages
from lorascope.data.columns import column_settings, infer_format
from lorascope.data.file_readers import without_nested_nulls
from lorascope.data.rows import RawRow, Rows
from lorascope.data.splits import RawSource, read_splits
from lorascope.errors import DataError

# what a failure's name and text hold, setting, what is wrong (its first line where empty), remedy; the first is taken
EXPLANATIONS = (
    ("(?i)gated", "path", "the hub says that this data set is gated.", "Accept its terms there, then set HF_TOKEN."),
    (
        r"Unknown split|Bad split|Split name|^\w+: (Unrecognized i|I)nstruction",
        "split", "", "Name a split that it has.",
    ),
    ("^HFValidationError", "path", "is neither a folder nor a hub id.", "Write ORG/NAME, or ./FOLDER."),
    ("Config name is missing|BuilderConfig", "subset", "", "Name one: dataset.{half}subset=NAME"),
    (
        "^DatasetNotFoundError",
        "path", "the hub knows no such data set, or it is private.", "Check the id; a folder works too.",
    ),
    (
        "reach|(?i:connect|offline)",
        "path", "the hub cannot be reached, and it is not in the local cache.", "Connect once.",
    ),
    ("", "path", "{name}: {first}", "See dataset=file for files of your own."),
)  # fmt: skip


class HubLocation(NamedTuple):
    """A split of a data set."""

    path: str
    subset: str | None
    split: str
    revision: str
    half: str = ""  # the prefix of its settings

    def __str__(self) -> str:
        return f"{self.path}@{self.revision}"


def load(dataset: DatasetConfig) -> Rows:
    """Both splits: `split` and `eval_split`, or a data set of its own, or `split` divided by `eval_share`."""
    assert dataset.path
    place, other = HubLocation(dataset.path, dataset.subset, dataset.split, dataset.revision), None
    if dataset.eval_path:
        split = dataset.eval_split or dataset.split
        other = HubLocation(dataset.eval_path, dataset.eval_subset, split, dataset.eval_revision, "eval_")
    elif dataset.eval_split:
        other = place._replace(split=dataset.eval_split)
    found = _without(_fetch(place, dataset.streaming), dataset.drop, place)
    rows = read_splits(
        dataset,
        RawSource(partial(_rows, found, place.split), place.path),
        other and _source(other, dataset),
        _labels(dataset, found.features),
        ", evaluated on ".join(dict.fromkeys(str(one) for one in (place, other) if one)),
    )
    return dataclasses.replace(rows, license=str(found.info.license or ""))


def _source(place: HubLocation, dataset: DatasetConfig) -> RawSource:
    rows = partial(_rows, _without(_fetch(place, dataset.streaming), dataset.drop, place), place.split)
    return RawSource(rows, place.path, f"eval half: {place}, {place.split}")


def _without(found: Any, drop: Sequence[str], place: HubLocation) -> Any:
    """A data set without dropped columns, none of which is decoded; a DataError for images, videos and sounds."""
    features = found.features or {}
    for name, feature in features.items():
        if name not in drop and type(feature).__name__ in ("Image", "Audio", "Video"):
            what = f"its column '{name}' holds {type(feature).__name__.lower()}s, and only text is learned."
            raise DataError(place.path, what, messages.dropping(name))
    return found.remove_columns([name for name in features if name in drop])


def _labels(dataset: DatasetConfig, features: Any) -> tuple[str, ...]:
    """The names of the classes: the user's, or those that the data set gives its answers' numbers."""
    if dataset.labels or not features:  # a stream of JSON has no features
        return tuple(dataset.labels)
    form = infer_format(set(features).difference(dataset.drop), column_settings(dataset), dataset.path or "")
    return tuple(getattr(features.get(form.answer), "names", None) or ())


def _rows(found: Any, split: str) -> Iterator[RawRow]:
    for number, row in enumerate(found, start=1):
        yield f"{split}, row {number}", without_nested_nulls(row)


def _fetch(place: HubLocation, streaming: bool) -> Any:
    import datasets

    path = os.path.expanduser(place.path)
    try:
        if os.path.isfile(os.path.join(path, "state.json")) or os.path.isfile(os.path.join(path, "dataset_dict.json")):
            return _saved(path, place.split)
        cache = _cache_of(Path(path), datasets.config.HF_DATASETS_CACHE) if os.path.isdir(path) else None
        named = {"split": place.split, "revision": place.revision, "cache_dir": cache, "streaming": streaming}
        return datasets.load_dataset(path, place.subset, **named)
    except Exception as error:  # datasets passes on what its builders and the hub raise
        raise _explained(error, place) from error


def _saved(folder: str, split: str) -> Any:
    """A split of what `save_to_disk` of datasets wrote."""
    import datasets

    found = datasets.load_from_disk(folder)
    parts = found if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}
    if split not in parts:
        raise ValueError(f'Unknown split "{split}". Should be one of {[*parts]}.')
    return parts[split]


def _cache_of(folder: Path, caches: Path) -> str:
    """A cache for a folder as it is now; the common one knows it by its last name and its card only."""
    files = sorted(file for file in folder.absolute().rglob("*") if file.is_file())
    now = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return str(Path(caches, "lorascope", hashlib.sha256(repr(now).encode()).hexdigest()[:16]))


def _explained(error: Exception, place: HubLocation) -> DataError:
    if type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it says no more than that
    name, text = type(error).__name__, str(error).strip()
    first = text.splitlines()[0] if text else name
    setting, what, remedy = next(rest for pattern, *rest in EXPLANATIONS if re.search(pattern, f"{name}: {text}"))
    value = getattr(place, setting)
    key = f"dataset.{place.half}{setting}" + (f"={value}" if value else "")
    return DataError(key, what.format(name=name, first=first) or first, remedy.format(half=place.half))
