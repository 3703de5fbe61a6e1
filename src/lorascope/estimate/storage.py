"""Bytes that lie still during a run: the base's weights, the adapter, its gradients, the optimizer's state."""

from __future__ import annotations

from collections.abc import Iterable

from lorascope.config import Scheme
from lorascope.estimate.setting import Setting
from lorascope.estimate.shapes import Matrix, Shapes

FLOAT32 = 4
# bitsandbytes, QLoRA's storage (arXiv:2305.14314): one float32 absmax for 64 numbers; with double quantization
# one byte instead, and one float32 for 256 of these; two tables of codes beside them
BLOCK, BLOCK_OF_BLOCKS = 64, 256
CODES = 4 * (16 + 256)
# below so many numbers bitsandbytes keeps an 8-bit optimizer's state in float32
SMALLEST_8BIT = 4096
# float32 numbers of state for each trained number; AdamW's two moments where the name is not here
STATES = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "lion_32bit": 1, "paged_lion_32bit": 1, "adafactor": 0}


def quantized_bytes(matrix: Matrix, scheme: Scheme, double_quant: bool) -> int:
    """Bytes of a weight that bitsandbytes holds, with all that it needs to be read again."""
    if scheme is Scheme.int8:
        return matrix.parameters + FLOAT32 * matrix.d_out
    blocks = -(-matrix.parameters // BLOCK)
    statistics = blocks + FLOAT32 * -(-blocks // BLOCK_OF_BLOCKS) + CODES if double_quant else FLOAT32 * blocks + 64
    return -(-matrix.parameters // 2) + statistics


def weights_bytes(shapes: Shapes, setting: Setting) -> int:
    """Bytes of the base as it is held: what is not quantized has the base's dtype."""
    quantized = quantized_matrices(shapes, setting)
    kept = shapes.parameters - sum(one.parameters for one in quantized)
    return (
        sum(quantized_bytes(one, setting.scheme, setting.double_quant) for one in quantized)
        + kept * setting.width
        + shapes.buffer_bytes
    )


def quantized_matrices(shapes: Shapes, setting: Setting) -> list[Matrix]:
    """The weights that are stored quantized in this setting."""
    return [] if setting.scheme is Scheme.none else [one for one in shapes.matrices if one.quantized]


def optimizer_bytes(tensors: Iterable[int], optimizer: str) -> int:
    """Bytes of an optimizer's state.

    Args:
        tensors: how many numbers each trained tensor has.
        optimizer: as transformers' `optim` names it.
    """
    if "8bit" in optimizer:
        moments = 1 if "lion" in optimizer else 2
        return sum(
            moments * (count + FLOAT32 * -(-count // BLOCK_OF_BLOCKS)) if count >= SMALLEST_8BIT else 8 * count
            for count in tensors
        )
    return FLOAT32 * STATES.get(optimizer, 2) * sum(tensors)
