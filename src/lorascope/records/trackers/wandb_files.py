"""What W&B keeps in a run's folder: its sessions in their order, what each of them holds, and which are sent."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.records.store import WANDB

HEADER, BLOCK = 7, 32 * 1024  # bytes: of a .wandb file and of each record in it; of LevelDB's blocks
WHOLE, LAST = 1, 4  # LevelDB's types of a chunk with which a record ends
NOTHING = -1  # the last step, where there is none
BEGAN = re.compile(r"\d{8}_\d{6}")


@dataclass(frozen=True)
class Session:
    """What one process told of a W&B run: `wandb/[offline-]run-TIME-ID/run-ID.wandb`."""

    file: Path

    @property
    def began(self) -> tuple[str, str]:
        """Sorts sessions by their beginning, to the second."""
        name = self.file.parent.name
        time = BEGAN.search(name)
        return (time[0] if time else "", name)

    @property
    def sent(self) -> bool:
        """Whether W&B has it, or needs it no more."""
        return self._mark.exists() or self._delivered()

    @property
    def _mark(self) -> Path:
        return self.file.with_name(f"{self.file.name}.synced")  # W&B's own mark: `wandb sync` heeds it too

    def mark(self, *, sent: bool) -> None:
        """Remember that it is sent, or that it is not."""
        if sent:
            self._mark.touch()
        else:
            self._mark.unlink(missing_ok=True)

    def begun(self) -> bool:
        """Whether it holds anything that could be sent; a process that was killed at once leaves none."""
        return any(record.HasField("run") for record in read_wandb(self.file))

    def steps(self) -> list[int]:
        """The steps of its rows."""
        return [record.history.step.num for record in read_wandb(self.file) if record.HasField("history")]

    def _delivered(self) -> bool:
        """Whether an online session's last words were answered and nothing was refused, as W&B's own log has it.

        W&B tells its caller of a timeout, but of nothing else that kept data from being sent.
        """
        answered = False
        try:
            lines = (self.file.parent / "logs" / "debug-internal.log").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        for line in lines:
            with suppress(ValueError):
                said = json.loads(line)
                message = str(said.get("msg"))
                if message == "filestream: sending request":
                    complete, answered = bool(said.get("complete")), False
                elif message == "filestream: request sent":
                    answered = complete
                elif str(said.get("level")).startswith("ERROR") and not message.startswith("api:"):
                    return False  # of api: there is a line for each attempt, also for those that were made again
        return answered


def sessions(folder: Path) -> list[Session]:
    """The sessions in a run's folder, the first one first."""
    files = (folder / WANDB).glob("*run-*/run-*.wandb")  # latest-run is a link to one of them
    return sorted((Session(file) for file in files if not file.parent.is_symlink()), key=lambda one: one.began)


def read_wandb(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, W&B's protocol buffers, as far as they are whole.

    The file is LevelDB's log: a header, then blocks of chunks, each a crc32, a length, a type and so many bytes.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
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
