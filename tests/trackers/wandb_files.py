"""W&B's own files of a run, read without W&B: LevelDB blocks of its protocol buffers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32 * 1024  # bytes: of a .wandb file and of each record in it; of LevelDB's blocks
WHOLE, LAST = 1, 4  # LevelDB's types of a chunk with which a record ends


def sessions(folder: Path) -> list[Path]:
    """The files in a run's folder, the first one first; latest-run is a link to one of them."""
    files = [file for file in (folder / "wandb").glob("*run-*/run-*.wandb") if not file.parent.is_symlink()]
    return sorted(files, key=lambda file: file.parent.name.removeprefix("offline-"))


def steps(file: Path) -> list[int]:
    """The steps of its rows."""
    return [record.history.step.num for record in read_wandb(file) if record.HasField("history")]


def read_wandb(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, W&B's protocol buffers, as far as they are whole.

    The file is LevelDB's log: a header, then blocks of chunks, each a crc32, a length, a type and so many bytes.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    raw = path.read_bytes()
    position, pending = HEADER, b""
    while position + HEADER <= len(raw):
        if BLOCK - position % BLOCK < HEADER:  # no chunk's header fits into the rest of a block
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", raw, position + 4)
        pending += raw[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if position > len(raw):
            return
        if kind in (WHOLE, LAST):
            record = Record()
            try:
                record.ParseFromString(pending)
            except DecodeError:
                return
            pending = b""
            yield record
