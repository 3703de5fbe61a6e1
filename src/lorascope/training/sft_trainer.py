"""TRL's SFTTrainer with exact losses, guards against NaN and atomic checkpoints."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import TrainConfig
from lorascope.data.tokenization import TokenizedSplit
from lorascope.errors import ConfigError, RunError
from lorascope.evaluation.loss import scored
from lorascope.evaluation.sampled import EvalRules
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
    """Stop on a loss or gradient norm that is not finite, with one transfer from the device for a step.

    Args:
        losses: of its batches; they are summed.
        norm: of the gradients.
        batches: their `input_ids`, each of shape (rows, width).

    Raises:
        RunError: naming the step, the value and the rows.
    """
    import torch

    loss = torch.stack([one.float() for one in losses]).sum()
    values = torch.stack([loss, torch.as_tensor(norm, dtype=torch.float32, device=loss.device)]).tolist()
    if all(map(math.isfinite, values)):
        return
    named = zip(("loss", "gradient norm"), values, strict=True)
    what = " and ".join(f"{name} {value}" for name, value in named if not math.isfinite(value))
    raise RunError(
        f"step {step}",
        f"{what}: not a number to learn from. Rows of the batch: {_rows(batches, data)}.",
        "Lower train.learning_rate or target.alpha, take model.dtype=bfloat16 for float16, or look at these rows.",
    )


def _rows(batches: Sequence[Any], data: TokenizedSplit) -> str:
    """The numbers of the train rows in these batches, packed or not."""

    def text(ids: Sequence[int]) -> str:
        return f",{','.join(map(str, ids))},"

    read = [text(ids) for batch in batches for ids in batch.tolist()]
    found = [number for number, ids in enumerate(data.input_ids) if any(text(ids) in one for one in read)]
    return ", ".join(map(str, found[:32])) + (" …" if len(found) > 32 else "") if found else "not known"


KEPT = 2  # checkpoints, beside the best


@cache
def trainer_class() -> Any:
    """`RunTrainer` on top of TRL's trainer; TRL is imported here."""
    from trl import SFTTrainer

    return type("Trainer", (RunTrainer, SFTTrainer), {})


def has_experts(model: Any) -> bool:
    """Whether a router divides tokens among experts somewhere in the model."""
    return any(
        re.search("expert|router", f"{name} {type(one).__name__}".lower()) for name, one in model.named_modules()
    )


def fused_by_trl(model: Any, *, auxiliary: bool) -> bool:
    """Whether TRL's fused loss can run a model: it asks the base for hidden states, and the config for the experts."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    named = hasattr(config, "num_experts") and hasattr(config, "num_experts_per_tok")
    return inner.base_model is not inner and (named or not auxiliary)


class RunTrainer(Base):
    """What is replaced of TRL's trainer; compat.TRAINER_HOOKS lists the methods, each with its reason.

    Without Triton, TRL's training loss scores every position (half of a step's time on a CPU, for prompts that have no
    loss): there the same sum is taken over the supervised positions alone.
    """

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
        rules: EvalRules,
    ) -> None:
        """Set what `SFTTrainer.__init__` does not take."""
        from transformers.trainer_callback import PrinterCallback, TrainerCallback

        self.measure, self.data, self.settings, self.saving = measure, data, settings, saving
        self.trained_head, self.warn, self.rules = trained_head, warn, rules
        if not has_experts(self.model):  # a type that may have some, as doge
            self.aux_loss_enabled = False
        self.losses: list[Any] = []  # of this step's batches
        self.read: list[Any] = []  # their token ids
        latest = saving.latest
        if latest:
            rules.restore(latest.meta)
        self.seconds_before = latest.meta["trained"]["seconds"] if latest else 0.0
        self.began = self.saved_at = time.perf_counter()
        self.remove_callback(PrinterCallback)
        self.add_callback(type("Saver", (Saver, TrainerCallback), {})(self))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the supervised tokens of an optimizer's step, the same on every device."""
        fused = fused_by_trl(model, auxiliary=self.aux_loss_enabled)
        plain = self.args.loss_type == "nll" and self.label_smoother is None and not (self.aux_loss_enabled and fused)
        if self.trained_head and not plain:
            what = "label smoothing, loss_type=dft and a router's auxiliary loss pass a trained lm_head by."
            raise ConfigError("train.sft", what, "Leave them out, or lm_head: it would never be trained (trl#4612).")
        on_cuda = self.args.device.type == "cuda" and not self.trained_head and fused
        if not plain or return_outputs or on_cuda:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs, labels = {k: v for k, v in inputs.items() if k != "labels"}, inputs["labels"]
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        losses, output = scored(model, inputs, labels)
        loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        if self.aux_loss_enabled:  # as TRL adds it: to each batch's loss, divided by the batches of a step
            steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            auxiliary = getattr(output, "aux_loss", None)  # llama4 has the setting and no such loss
            loss = loss if auxiliary is None else loss + self.router_aux_loss_coef * auxiliary / steps
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        grouped = self.settings.group_by_length
        return by_length(sampler.lengths, sampler.batch_size, self.args.seed) if grouped else sampler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """One batch; its loss and token ids are kept for `check_finite`."""
        self.read.append(inputs["input_ids"])
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.losses.append(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm, called once before each step of the optimizer."""
        norm = super()._get_grad_norm(model, grad_norm)
        check_finite(self.state.global_step + 1, self.losses, 0.0 if norm is None else norm, self.read, self.data)
        self.losses, self.read = [], []
        return norm

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The run's own measure; after a signal during it, a checkpoint says that it is due."""
        self.evaluation_is_due = True
        try:
            metrics = dict(self.measure())
        except Preempted:
            self._save_checkpoint(self.model, None)
            raise
        self.evaluation_is_due = False
        self.log(metrics)
        self.control.should_save |= self.rules.see(metrics, self.state.global_step) or self.rules.stops
        self.control.should_training_stop |= self.rules.stops
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def trained(self) -> dict[str, Any]:
        """Steps, tokens, train loss and seconds so far, over all sessions."""
        total = self._total_loss_scalar + self._tr_loss.item() * self.is_in_train
        return {
            "steps": self.state.global_step,
            "planned": self.state.max_steps,
            "tokens": int(self.state.num_input_tokens_seen),
            "train_loss": total / max(self.state.global_step, 1),
            "seconds": self.seconds_before + time.perf_counter() - self.began,
        }

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        meta = {
            **self.saving.meta,
            **self.rules.state(),
            "finished": (step >= self.state.max_steps or self.rules.stops) and not self.evaluation_is_due,
            "trained": self.trained(),
        }
        self.saved_at = time.perf_counter()
        try:
            checkpoints.write(self.saving.folder, step, self._fill, meta, size_of(self))
        except OSError as error:
            self.warn(f"the checkpoint of step {step} could not be written ({error.strerror}); the one before stays")
            return
        checkpoints.thin_out(self.saving.folder, KEPT, self.rules.best["step"] if self.rules.best else None)

    def _fill(self, folder: Path) -> None:
        self.store_flos()
        # with an adapter on lm_head, PEFT would add the base's embeddings, and warn of it
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        save_sums(self, folder)
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        restore_adapter(self.model, Path(resume_from_checkpoint))


class Saver:
    """Decides when to save and when to stop, and restores the sums of a resumed training."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clocks, after the training loop has set its own sums to zero."""
        trainer = self.trainer
        latest = trainer.saving.latest
        trainer.began = trainer.saved_at = time.perf_counter()
        if latest and restore_sums(trainer, latest.path):
            trainer.evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Request a checkpoint where one is due, and the end after a signal."""
        steps, minutes = self.trainer.settings.save_steps, self.trainer.settings.save_minutes
        if steps:
            due = state.global_step % steps == 0
        else:
            due = minutes is not None and time.perf_counter() - self.trainer.saved_at >= minutes * 60
        last = state.global_step >= state.max_steps and (steps is not None or minutes is not None)
        control.should_save |= due or last or asked() is not None
        control.should_training_stop |= asked() is not None
