"""TRL's SFTTrainer with exact losses, guards against NaN and atomic checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import TrainConfig
from lorascope.data.tokenization import TokenizedSplit
from lorascope.errors import ConfigError, RunError
from lorascope.evaluation.loss import token_losses
from lorascope.interrupts import Preempted, asked
from lorascope.training import checkpoints
from lorascope.training.batching import by_length
from lorascope.training.resume import restore_adapter, restore_sums, save_sums, size_of

if TYPE_CHECKING:
    import torch
    from trl import SFTTrainer as Base

    from lorascope.training.checkpoints import Saving
else:
    Base = object  # TRL is imported where a training begins


def check_finite(
    step: int, losses: Sequence[torch.Tensor], norm: Any, batches: Sequence[Any], data: TokenizedSplit
) -> None:
    """Stop on a loss or gradient norm that is not finite: one look at the device for a whole step.

    Args:
        step: that is about to be made.
        losses: of its batches, summed up.
        norm: of the gradients.
        batches: what was read, `input_ids` of shape (rows, width).
        data: whose rows they are.

    Raises:
        RunError: naming step, what is not finite, and rows.
    """
    import torch

    loss = torch.stack([one.float() for one in losses]).sum()
    whole = torch.stack([loss, torch.as_tensor(norm, dtype=torch.float32, device=loss.device)])
    if torch.isfinite(whole).all():
        return
    what = " and ".join(
        f"{name} {value}"
        for name, value in zip(("loss", "gradient norm"), whole.tolist(), strict=True)
        if not torch.isfinite(torch.tensor(value))
    )
    raise RunError(
        f"step {step}",
        f"{what}: not a number to learn from. Rows of the batch: {_rows(batches, data)}.",
        "Lower train.learning_rate or target.alpha, take model.dtype=bfloat16 for float16, or look at these rows.",
    )


def _rows(batches: Sequence[Any], data: TokenizedSplit) -> str:
    """The numbers of the train rows that stand in these batches, packed or not."""

    def text(ids: Sequence[int]) -> str:
        return f",{','.join(map(str, ids))},"

    read = [text(ids) for batch in batches for ids in batch.tolist()]
    found = [number for number, ids in enumerate(data.input_ids) if any(text(ids) in one for one in read)]
    return ", ".join(map(str, found[:32])) + (" …" if len(found) > 32 else "") if found else "not known"


KEPT = 2  # checkpoints, beside the best


@cache
def trainer_class() -> Any:
    """TRL's trainer with what is replaced of it, made where TRL may be imported."""
    from trl import SFTTrainer

    return type("Trainer", (RunTrainer, SFTTrainer), {})


class RunTrainer(Base):
    """What is replaced of TRL's trainer, for a class that has both as its bases.

    TRL's eval loss averages batch means and so depends on the batch size. Its training loss scores every position
    where there is no Triton (half of a step's time on a CPU, for prompts that have no loss): there the same sum is
    taken over the supervised ones alone. Its checkpoints appear before they are whole.
    """

    # compat.TRAINER_HOOKS lists the methods of transformers' Trainer that this class replaces or calls

    control: Any
    evaluation_is_due = False

    def begin(
        self,
        measure: Callable[[], Mapping[str, float]],
        data: TokenizedSplit,
        settings: TrainConfig,
        saving: Saving,
        trained_head: bool,
        warn: Callable[[str], None],
    ) -> None:
        """What `SFTTrainer.__init__` does not take."""
        from transformers.trainer_callback import PrinterCallback

        self.measure, self.data, self.settings, self.saving = measure, data, settings, saving
        self.trained_head, self.warn = trained_head, warn
        self.losses: list[Any] = []  # of this step's batches
        self.read: list[Any] = []  # their token ids
        latest = saving.latest
        self.best = latest.meta["best"] if latest else None  # {"eval_loss": …, "step": …}
        self.seconds_before = latest.meta["trained"]["seconds"] if latest else 0.0
        self.began = self.saved_at = time.perf_counter()
        self.remove_callback(PrinterCallback)
        self.add_callback(_saver(self))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the supervised tokens of an optimizer's step, one loss whatever the device."""
        plain = self.args.loss_type == "nll" and self.label_smoother is None and not self.aux_loss_enabled
        if self.trained_head and not plain:
            raise ConfigError(
                "train.sft",
                "label smoothing, loss_type=dft and a router's auxiliary loss pass a trained lm_head by.",
                "Leave them out, or lm_head: it would never be trained (trl#4612).",
            )
        if not plain or return_outputs or (self.args.device.type == "cuda" and not self.trained_head):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        losses = token_losses(model, {k: v for k, v in inputs.items() if k != "labels"}, inputs["labels"])
        return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        grouped = self.settings.group_by_length
        return by_length(sampler.lengths, sampler.batch_size, self.args.seed) if grouped else sampler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """One batch, whose loss and token ids are kept for the guards."""
        self.read.append(inputs["input_ids"])
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.losses.append(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once a step, before the optimizer's."""
        norm = super()._get_grad_norm(model, grad_norm)
        check_finite(self.state.global_step + 1, self.losses, 0.0 if norm is None else norm, self.read, self.data)
        self.losses, self.read = [], []
        return norm

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The run's own measure; one that a signal cuts is saved as due."""
        self.evaluation_is_due = True
        try:
            metrics = dict(self.measure())
        except Preempted:
            self._save_checkpoint(self.model, None)
            raise
        self.evaluation_is_due = False
        self.log(metrics)
        loss = metrics["eval_loss"]
        if self.settings.keep_best and (self.best is None or loss < self.best["eval_loss"]):
            self.best = {"eval_loss": loss, "step": self.state.global_step}
            self.control.should_save = True
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def trained(self) -> dict[str, Any]:
        """Steps, tokens, train loss and seconds so far, over all sessions."""
        total = self._total_loss_scalar + self._tr_loss.item() * self.is_in_train
        return {
            "steps": self.state.global_step,
            "tokens": int(self.state.num_input_tokens_seen),
            "train_loss": total / max(self.state.global_step, 1),
            "seconds": self.seconds_before + time.perf_counter() - self.began,
        }

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        meta = {
            **self.saving.meta,
            "best": self.best,
            "finished": step >= self.state.max_steps and not self.evaluation_is_due,
            "trained": self.trained(),
        }
        self.saved_at = time.perf_counter()
        try:
            checkpoints.write(self.saving.folder, step, self._fill, meta, size_of(self))
        except OSError as error:
            self.warn(f"the checkpoint of step {step} could not be written ({error.strerror}); the one before stays")
            return
        checkpoints.thin_out(self.saving.folder, KEPT, self.best["step"] if self.best else None)

    def _fill(self, folder: Path) -> None:
        self.store_flos()
        # with an adapter on lm_head, PEFT would add the base's whole embeddings, and say so
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        save_sums(self, folder)
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        restore_adapter(self.model, Path(resume_from_checkpoint))


def _saver(trainer: Any) -> Any:
    """The callback, made where transformers may be imported."""
    from transformers import TrainerCallback

    return type("Saver", (Saver, TrainerCallback), {})(trainer)


class Saver:
    """Decides when to save and when to stop; puts the sums of a resumed training back."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count, once the training loop has set its own sums to zero."""
        trainer = self.trainer
        latest = trainer.saving.latest
        trainer.began = trainer.saved_at = time.perf_counter()
        if latest and restore_sums(trainer, latest.path):
            trainer.evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint where one is due, and for the end where a signal came."""
        settings = self.trainer.settings
        minutes = (time.perf_counter() - self.trainer.saved_at) / 60
        if settings.save_steps:
            due = state.global_step % settings.save_steps == 0
        else:
            due = settings.save_minutes is not None and minutes >= settings.save_minutes
        last = state.global_step >= state.max_steps
        keeps = settings.save_steps is not None or settings.save_minutes is not None
        control.should_save |= due or (last and keeps) or asked() is not None
        control.should_training_stop |= asked() is not None
