"""The vocabulary's logits: the largest tensors of a step where many tokens have a loss."""

from __future__ import annotations

from lorascope.estimate.adapter import Lora
from lorascope.estimate.blocks import Block, total
from lorascope.estimate.setting import Setting
from lorascope.estimate.shapes import Shapes
from lorascope.estimate.storage import FLOAT32

# The logits are computed for the columns in which some row has a loss; rows end at different places.
COLUMNS = 2
# TRL's loss on CUDA computes tiles of so many tokens and so many entries of the vocabulary
TILE_TOKENS, TILE_ENTRIES = 4096, 32768


def training_logits(shapes: Shapes, setting: Setting, adapter: list[Lora]) -> list[Block]:
    """At the loss and the beginning of its backward."""
    losses = setting.batch_size * setting.supervised
    head_adapted = any(one.name == shapes.head.name for one in adapter)
    if setting.on_cuda and not head_adapted:
        tile = min(losses, TILE_TOKENS) * min(shapes.head.d_out, TILE_ENTRIES)
        return [Block("tile", tile * setting.width), Block("gradient", losses * shapes.hidden * FLOAT32, 2)]
    # log-probabilities and, in the backward, two gradients of them
    chosen = losses * shapes.head.d_out * FLOAT32
    return max([Block("logits", chosen, 3)], _forward(shapes, setting, setting.batch_size), key=total)


def evaluation_logits(shapes: Shapes, setting: Setting) -> list[Block]:
    """At the loss of an evaluation's largest batch."""
    return _forward(shapes, setting, evaluated_rows(setting))


def evaluated_rows(setting: Setting) -> int:
    """Rows of an evaluation's largest batch."""
    return max(1, setting.evaluated // setting.length)


def _forward(shapes: Shapes, setting: Setting, rows: int) -> list[Block]:
    """Logits of some columns, those with a loss in float32, and their log-probabilities."""
    columns = min(setting.length, COLUMNS * setting.supervised)
    chosen = rows * setting.supervised * shapes.head.d_out
    computed = Block("logits", rows * columns * shapes.head.d_out * setting.width)
    return [computed, Block("log-probabilities", chosen * FLOAT32, 2)]
