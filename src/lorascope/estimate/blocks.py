"""Tensors that live together, and the memory that they take where they live."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lorascope.config import Device

# On a CPU, glibc serves blocks below 32 MiB (DEFAULT_MMAP_THRESHOLD_MAX) from a heap that does not fit torch's aligned
# blocks into the holes that they leave, and gives nothing back. Measured at six settings of two models, as the peak
# with and without MALLOC_MMAP_THRESHOLD_=131072, where every block is given back: 1.36 to 1.54 times what is alive.
HEAP, MAPPED = 1.45, 32 * 2**20


class Block(NamedTuple):
    """Tensors of one size that live together."""

    what: str
    size: float  # bytes of each
    copies: float = 1


def total(blocks: Iterable[Block]) -> float:
    """Bytes of all blocks."""
    return sum(block.size * block.copies for block in blocks)


def resident(blocks: Iterable[Block], device: Device) -> int:
    """Bytes of memory that they take on a device."""
    blocks = list(blocks)
    large = total(block for block in blocks if block.size >= MAPPED or device is not Device.cpu)
    return round(large) + lasting(blocks, device)


def lasting(blocks: Iterable[Block], device: Device) -> int:
    """Of these bytes, those that the process keeps when the tensors are gone."""
    return round(HEAP * total(block for block in blocks if block.size < MAPPED)) if device is Device.cpu else 0
