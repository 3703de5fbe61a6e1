"""Hidden states of rows, in memory or in a file: rows and their states come in, padded batches of states come out."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.records.memory import machine_memory

if TYPE_CHECKING:
    import torch

# Of what is free: the training itself still needs memory, and the disk's checkpoints and records their room
SHARE_OF_MEMORY, SHARE_OF_DISK = 0.25, 0.5


class Unfit(Exception):  # noqa: N818, a reason rather than an error
    """Why the states are not used, as the end of a sentence."""


class States:
    """The states of every row, found by the row's own token ids.

    Args:
        rows: token ids of each, in the order in which `put` will get their states.
        like: states of some token, shape (tokens, …), for shape and number format.
        folder: where a file may be made.

    Raises:
        Unfit: when neither memory nor disk has room.
    """

    def __init__(self, rows: Sequence[Sequence[int]], like: torch.Tensor, folder: Path) -> None:
        self.places: dict[bytes, tuple[int, int]] = {}
        end = 0
        for ids in rows:
            self.places[key_of(ids)] = (end, end + len(ids))
            end += len(ids)
        shape = (end, *like.shape[1:])
        self.bytes = end * like[0].numel() * like.element_size()
        self.where = place_for(self.bytes, machine_memory()[1], free_disk(folder))
        self.table = like.new_empty(shape, device="cpu") if self.where == "memory" else _mapped(shape, like, folder)

    def put(self, ids: Sequence[int], states: torch.Tensor) -> None:
        """Keep a row's states, (its tokens, …)."""
        start, end = self.places[key_of(ids)]
        self.table[start:end] = states

    def batch(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """The states of a padded batch, on its device; None where one of its rows is not known.

        Padding gets its row's last state: any state that the model knows would do, since nobody looks at it.

        Args:
            ids: (rows, width).
            mask: the same shape, 0 where there is padding.
        """
        chosen, found = mask.bool().cpu(), ids.cpu()
        keys = [key_of(row[one].tolist()) for row, one in zip(found, chosen, strict=True)]
        if any(key not in self.places for key in keys):
            return None
        batch = self.table.new_empty((*ids.shape, *self.table.shape[1:]))
        for row, key in enumerate(keys):
            start, end = self.places[key]
            batch[row] = self.table[end - 1]
            batch[row, chosen[row]] = self.table[start:end]
        return batch.to(ids.device)


def key_of(ids: Iterable[int]) -> bytes:
    """A row's token ids as bytes."""
    return array("i", ids).tobytes()


def place_for(size: int, memory: int, disk: int) -> str:
    """`memory` or `disk`, where so many bytes fit.

    Raises:
        Unfit: when they fit neither.
    """
    if size <= SHARE_OF_MEMORY * memory:
        return "memory"
    if size <= SHARE_OF_DISK * disk:
        return "disk"
    needed, there, beside = (f"{number / 2**30:.1f}" for number in (size, memory, disk))
    raise Unfit(f"their states take {needed} GiB, and of memory {there} GiB are free, of the disk {beside}")


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def _mapped(shape: tuple[int, ...], like: torch.Tensor, folder: Path) -> torch.Tensor:
    """A tensor in a file without a name, which goes with the tensor, or with the process however that ends."""
    import torch

    numbers = math.prod(shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".states-", dir=folder)
        try:
            # a page that the disk has no room for would end the process when it is written
            reserve = getattr(os, "posix_fallocate", lambda handle, start, size: os.truncate(handle, size))
            reserve(handle, 0, numbers * like.element_size())
            flat = torch.from_file(name, shared=True, size=numbers, dtype=like.dtype)
        finally:
            os.close(handle)
            os.unlink(name)
    except OSError as error:
        raise Unfit(f"a file for them cannot be made in {folder} ({error.strerror})") from error
    return flat.view(shape)
