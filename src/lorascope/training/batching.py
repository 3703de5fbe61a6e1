"""Packed rows and batches of rows of similar length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lorascope.data.tokenization import TokenizedSplit
from lorascope.errors import ConfigError, first_line, out_of_memory
from lorascope.evaluation.loss import token_losses

if TYPE_CHECKING:
    import torch


LONGEST = 64  # tokens of a row that are compared
TOLERANCE = 1e-3  # nats; in float32 a correct mask leaves 1e-6, and ALiBi leaks 2e-3 in an untrained model
TOLERANCE_IN_HALF = 0.2  # in 16 bits a product of another shape rounds differently; what leaks is a row's own copy
REMEDY = "Take train.packing=false."


def check_packing(trainer: Any, data: TokenizedSplit) -> None:
    """Compare the losses of short rows that are packed with those of the rows alone.

    TRL packs rows without an attention mask: transformers derives it from positions that restart at 0. Models with
    positions of their own (ALiBi, OPT's) or with a state ignore these, and would learn each row as a continuation of
    the ones before. The first row is also the third: a model that looks across the rows knows it already.

    Raises:
        ConfigError: when they differ, or the model refuses packed rows.
    """
    import torch

    chosen = sorted(range(min(len(data), LONGEST)), key=lambda row: abs(len(data.input_ids[row]) - LONGEST // 4))[:2]
    rows = [list(data.input_ids[row])[:LONGEST] for row in (chosen[0], chosen[-1], chosen[0])]
    model, training = trainer.model, trainer.model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = [token for row in rows for token in row]
            lengths = [len(row) for row in rows]
            batch = trainer.data_collator([{"input_ids": ids, "labels": ids, "seq_lengths": lengths}])
            packed, alone = _losses(trainer, batch), torch.cat([_losses_alone(trainer, row) for row in rows])
    except Exception as error:  # a model's own refusal is of any type
        if out_of_memory(error):
            raise
        raise ConfigError("train.packing", f"the model refuses packed rows: {first_line(error)}", REMEDY) from error
    finally:
        model.train(training)
    limit = TOLERANCE if next(model.parameters()).dtype is torch.float32 else TOLERANCE_IN_HALF
    gap = float((packed - alone).abs().max()) if packed.shape == alone.shape else float("inf")
    if not gap <= limit:
        change = f"a token's loss changes by {gap:.2g} nats when others stand before it"
        raise ConfigError("train.packing", f"{model.config.model_type} looks across packed rows: {change}.", REMEDY)


def _losses_alone(trainer: Any, row: list[int]) -> torch.Tensor:
    import torch

    ids = torch.tensor([row])
    return _losses(trainer, {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})


def _losses(trainer: Any, batch: dict[str, Any]) -> torch.Tensor:
    from accelerate.utils import send_to_device

    inputs = send_to_device(batch, trainer.args.device)
    return token_losses(trainer.model, {k: v for k, v in inputs.items() if k != "labels"}, inputs["labels"])


def by_length(lengths: Sequence[int], rows: int, seed: int) -> Any:
    """Transformers' sampler of rows of similar length, with a random stream of its own.

    transformers draws from torch's common stream, as an adapter's dropout does: two strategies would see the rows in
    another order from the second epoch on.

    Args:
        lengths: of every row, in tokens.
        rows: of one step of the optimizer.
        seed: of the run; it decides the order, with the epoch.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    class ByLength(LengthGroupedSampler):
        """Knows its epoch, so that a training that is resumed within one draws the same order again."""

        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            """Called before each epoch."""
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            key = hashlib.sha256(f"{seed}/{self.epoch}".encode()).digest()
            self.generator = torch.Generator().manual_seed(int.from_bytes(key[:4], "big"))
            order: Iterator[int] = super().__iter__()
            return order

    return ByLength(rows, lengths=list(lengths))
