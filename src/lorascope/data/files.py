"""Find the user's files, and read both splits from them."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lorascope.config.schema import DatasetConfig, Documents
from lorascope.data.columns import column_settings, infer_format
from lorascope.data.file_readers import KINDS, PLAIN, READERS, ending_of, opened, read_file, seekable
from lorascope.data.rows import RawRow, Rows
from lorascope.data.splits import RawSource, read_splits
from lorascope.errors import DataError


def paths_of(given: str | Sequence[str] | None) -> list[str]:
    """The paths of a setting that holds one or several."""
    return [given] if isinstance(given, str) else list(given or ())


def find_files(given: str | Sequence[str], key: str = "dataset.path") -> list[Path]:
    """The files of one or several paths, folders or globs, in their order; those of a folder or glob are sorted.

    Raises:
        DataError: for none, for one of an unknown kind or named twice, and for files that are the train and the test
            part of a set.
    """
    found = [file for pattern in paths_of(given) for file in _matching(pattern, key)]
    if twice := [file for file in found if found.count(file) > 1]:
        raise DataError(f"{key}={twice[0]}", "is named twice.", "Name each file once; a glob may hold it too.")
    return found


def _matching(pattern: str, key: str) -> list[Path]:
    path = Path(os.path.expanduser(pattern))
    if os.path.isdir(path):  # which takes names of every length and kind
        found = _saved(path, key) or _readable(path)
    elif os.path.isfile(path):
        found = [path]
    else:
        found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
    if not found and os.path.isdir(path):
        raise DataError(f"{key}={pattern}", "no file in it can be read.", KINDS)
    if not found:
        beside = path.parent.glob("*") if os.path.isdir(path.parent) else []
        near = difflib.get_close_matches(path.name, [one.name for one in beside if one.name != path.name])
        hint = f"Did you mean {path.parent / near[0]}?" if near else f"Files are read from {Path.cwd()}."
        raise DataError(f"{key}={pattern}", "there is no such file.", hint)
    for file in found:
        if ending_of(file) not in READERS:
            raise DataError(f"{key}={file}", f"'{ending_of(file) or file.suffix}' files cannot be read.", KINDS)
    _check_parts(pattern, found, key)
    return found


def _readable(folder: Path) -> list[Path]:
    """The files of a folder that can be read; plain text only where there is nothing else, since it may be a README."""
    found = sorted(file for file in folder.iterdir() if ending_of(file) in READERS and file.is_file())
    return [file for file in found if ending_of(file) not in PLAIN] or found


def _saved(folder: Path, key: str) -> list[Path]:
    """The files of a folder that `save_to_disk` of datasets wrote, in their order; none for another folder."""
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        paths = f"{key}={folder / names[0]}" + (f" dataset.eval_path={folder / names[-1]}" if names[1:] else "")
        raise DataError(f"{key}={folder}", f"it holds the parts {', '.join(names)}.", f"Name them: {paths}")
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return []
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / one["filename"] for one in state["_data_files"]]


# names of parts, as datasets reads them from the names of files and folders
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "heldout"),
}


def _check_parts(pattern: str, files: Sequence[Path], key: str) -> None:
    """Refuse files of which some are, by their names, what others are to be evaluated on."""
    if len(files) < 2:
        return
    above = Path(os.path.commonpath([file.parent for file in files]))
    parts: dict[str, list[Path]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", str(file.relative_to(above).with_suffix("")).lower())
        parts.setdefault(next((part for part, names in PARTS.items() if {*names} & {*words}), "other"), []).append(file)
    held_out = [part for part in ("validation", "test") if part in parts]
    if not held_out or len(parts) == 1:
        return
    main = next(part for part in ("train", "other", *held_out) if part in parts)
    listed = "; ".join(f"{part}: {', '.join(file.name for file in those[:3])}" for part, those in parts.items())
    first, second = (_glob(parts[part]) for part in (main, held_out[0]))
    remedy = f"Name them: {key}={first} dataset.eval_path={second}"
    raise DataError(f"{key}={pattern}", f"it holds parts by name ({listed}), which are not read as one.", remedy)


def _glob(files: Sequence[Path]) -> str:
    """A pattern for these files, or the only one."""
    if len(files) == 1:
        return str(files[0])
    start = os.path.commonprefix([str(file) for file in files])  # noqa: RUF071 (a pattern, not a folder)
    return f"'{start}*'"


def content_hash(dataset: DatasetConfig) -> str:
    """SHA-256 over the bytes of all files, so that an edited file makes another run; 16 hex digits."""
    digest = hashlib.sha256()
    for file in _all_files(dataset):
        with opened(file, decompress=False) as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()[:16]


def content_size(dataset: DatasetConfig) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in _all_files(dataset))


def _all_files(dataset: DatasetConfig) -> Iterator[Path]:
    """The files that are read, or all that a local folder of a hub data set holds."""
    for key, given in (("dataset.path", dataset.path), ("dataset.eval_path", dataset.eval_path)):
        if given and dataset.source == "file":
            yield from find_files(given, key)
        elif given and (folder := Path(os.path.expanduser(given))).is_dir():
            yield from sorted(file for file in folder.rglob("*") if file.is_file())


def load(dataset: DatasetConfig) -> Rows:
    """Both splits of the user's files."""

    plain: set[bool] = set()

    def source(given: str | Sequence[str], key: str) -> RawSource:
        files = find_files(given, key)
        plain.update(ending_of(file) in PLAIN for file in files)
        return RawSource(partial(_all_rows, files, key, dataset), ", ".join(paths_of(given)), "files of its own")

    main = source(dataset.path, "dataset.path")
    other = source(dataset.eval_path, "dataset.eval_path") if dataset.eval_path else None
    if dataset.documents is not Documents.file and True not in plain:
        what = "divides plain text, and no file is of that kind."
        raise DataError(
            f"dataset.documents={dataset.documents}", what, f"Leave it out, or name {', '.join(PLAIN)} files."
        )
    rows = read_splits(dataset, main, other, dataset.labels or _stored_classes(dataset), main.place)
    if True not in plain:
        return rows
    each = "each file is a document" if dataset.documents is Documents.file else "blank lines divide documents"
    return replace(rows, shape=f"{rows.shape} ({each})")


def _stored_classes(dataset: DatasetConfig) -> list[str]:
    """The names of the classes that datasets writes into Arrow and Parquet files; none where there are none."""
    import pyarrow
    import pyarrow.parquet

    file = find_files(dataset.path)[0]
    try:
        if ending_of(file) == ".parquet":
            schema = pyarrow.parquet.read_schema(seekable(file))
        elif ending_of(file) == ".arrow":
            schema = pyarrow.ipc.open_stream(seekable(file)).schema
        else:
            return []
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError):  # the reader says what is wrong with the file
        return []
    features = about.get("info", {}).get("features") or {}
    if not any(isinstance(one, dict) and one.get("names") for one in features.values()):
        return []
    left = set(schema.names).difference(dataset.drop)
    answer = infer_format(left, column_settings(dataset), file.name).answer
    return list((features.get(answer) or {}).get("names") or ())


def _all_rows(files: Sequence[Path], key: str, dataset: DatasetConfig) -> Iterator[RawRow]:
    for file in files:
        if dataset.streaming and ending_of(file) == ".json":
            raise DataError(f"{key}={file}", "a JSON list cannot be streamed.", "Write JSON Lines.")
        yield from read_file(file, dataset.documents)
