"""Train an adapter with TRL's SFTTrainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lorascope.compat import head_hidden, no_gradient_of_inputs
from lorascope.config.machine import optimizer
from lorascope.config.schema import Device, RunConfig, Scheduler, TrainConfig
from lorascope.config.sft_settings import GROUPED, SAMPLING
from lorascope.console import Bar
from lorascope.data.tokenization import TokenizedSplit, check_vocabulary
from lorascope.errors import ConfigError, LorascopeError, RunError, first_line, out_of_memory
from lorascope.evaluation.sampled import EvalRules
from lorascope.interrupts import deferred, stop_if_asked
from lorascope.planning.step_spec import CHECKPOINTING, CHECKPOINTING_BEFORE, is_reentrant
from lorascope.records.record import EVAL_LOSS, SAMPLE, TRAIN_LOSS
from lorascope.targets.attach import keep_adapter_in_float32
from lorascope.trackers import Trackers
from lorascope.training.batching import check_packing
from lorascope.training.checkpoints import Checkpoint, Saving
from lorascope.training.resume import REMOVE, restore_adapter
from lorascope.training.sft_trainer import trainer_class

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTConfig


KEPT = ("loss", "grad_norm", "learning_rate", "epoch", "num_input_tokens_seen", EVAL_LOSS.name)


def progress_callback(bar: Bar, trackers: Trackers) -> TrainerCallback:
    """A callback that advances the bar, and passes to the trackers what the trainer logs."""
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began, self.tokens_before = time.perf_counter(), state.num_input_tokens_seen
            bar.total = state.max_steps
            bar.bar.update(bar.task, total=state.max_steps)
            bar.step(state.global_step, tell=False)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            bar.step(tell=False)  # this step's loss is logged after it

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if TRAIN_LOSS.name in (logs or {}):  # the end of a session is no step
                return
            logged = (logs or {}).items()
            values = {name: float(value) for name, value in logged if name in KEPT or name.startswith(SAMPLE)}
            if "loss" in values:
                speed = (state.num_input_tokens_seen - self.tokens_before) / (time.perf_counter() - self.began)
                bar.step(0, note=f"loss {values['loss']:.3f}  {speed:.0f} tok/s")
            if values:
                trackers.log(state.global_step, values)

    return ProgressCallback()


@dataclass(frozen=True)
class Trained:
    """The result of a training besides the weights."""

    steps: int
    tokens: int  # read by the model, without padding
    train_loss: float  # mean over the steps, nats per supervised token
    seconds: float  # over all sessions
    planned: int = 0  # steps, of which train.stop_early may have left some out


def train_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenizedSplit,
    evaluation: TokenizedSplit,
    config: RunConfig,
    saving: Saving,
    *,
    evaluate: Callable[[], Mapping[str, float]],
    callbacks: list[TrainerCallback],
    warn: Callable[[str], None],
    better: Mapping[str, str] = MappingProxyType({}),
) -> Trained:
    """Train the adapter in place, from its start or exactly from a checkpoint on.

    Args:
        model: a base with its adapter, as `attach` returns it.
        evaluation: measured during training, if `train.eval_steps` is set.
        evaluate: measures `evaluation`; may raise Preempted.
        warn: called with the reason where a checkpoint cannot be written.
        better: lower or higher, by metric, for those that `evaluate` measures besides the eval loss.

    Raises:
        ConfigError: when SFTConfig refuses a setting, or the model looks across packed rows.
        DataError: for a token id that the model does not know.
        RunError: when a loss or gradient is not finite.
        Preempted: when a signal asked for it, with the state saved.
    """
    check_vocabulary(train, int(tokenizer.pad_token_id or 0), model)
    frozen_inputs = nullcontext if is_reentrant(config.train) else partial(no_gradient_of_inputs, model)
    adapted_head = has_adapted_head(model)
    head = head_hidden(model) if adapted_head else nullcontext()
    with frozen_inputs(), _setting_errors(config.train), head, _biases_unchanged(model), _router_settings_kept(model):
        trainer = trainer_class()(
            model=model,
            args=sft_config(config, saving.folder),
            train_dataset=train.to_dataset(),
            eval_dataset=evaluation.to_dataset() if config.train.eval_steps else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
    keep_adapter_in_float32(model)  # TRL has just cast it on a quantized base
    bias = getattr(model.get_output_embeddings(), "bias", None)
    trained_head = adapted_head or (bias is not None and bool(bias.requires_grad))
    trainer.begin(evaluate, train, config.train, saving, trained_head, warn, EvalRules.of(config, better))
    latest = saving.latest
    if latest and latest.meta["finished"]:
        restore_adapter(model, latest.path)
        return Trained(**latest.meta["trained"])
    if config.train.packing:
        check_packing(trainer, train)
    resuming = _resume_errors(latest, trainer) if latest else nullcontext()
    with deferred(), _setting_errors(config.train, trainer), resuming, frozen_inputs():
        trainer.train(resume_from_checkpoint=str(latest.path) if latest else None)
    stop_if_asked()
    return Trained(**trainer.trained())


@contextmanager
def _setting_errors(train: TrainConfig, trainer: Any = None) -> Iterator[None]:
    """Report TRL's and torch's errors before the first step as a ConfigError, if there are values in `train.sft`."""
    try:
        yield
    except (TypeError, ValueError, LookupError, ImportError, OSError, RuntimeError) as error:
        if not train.sft or out_of_memory(error) or (trainer and trainer.state.global_step):
            raise
        what = f"the trainer refuses one of {', '.join(train.sft)}: {first_line(error)}"
        raise ConfigError("train.sft", what, "Correct it or leave it out.") from error


@contextmanager
def _resume_errors(latest: Checkpoint, trainer: Any) -> Iterator[None]:
    """Report errors of reading a checkpoint's files, before the next step, as a RunError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, LorascopeError) or out_of_memory(error) or trainer.state.global_step > latest.step:
            raise
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise RunError(str(latest.path), f"cannot be resumed from: {what}", REMOVE) from error


def sft_config(config: RunConfig, folder: Path) -> SFTConfig:
    """The run's settings as TRL's.

    Raises:
        ConfigError: when SFTConfig refuses one.
    """
    import dataclasses

    from trl import SFTConfig

    train, sft = config.train, dict(config.train.sft)
    checkpointing = CHECKPOINTING
    if checkpointing not in {field.name for field in dataclasses.fields(SFTConfig)}:
        checkpointing = CHECKPOINTING_BEFORE
        if CHECKPOINTING in sft:
            sft[checkpointing] = sft.pop(CHECKPOINTING)
    settings = _settings(config) | {
        "output_dir": str(folder),
        checkpointing: config.device is Device.cuda,  # unless an estimate decided that it fits without
    }
    if train.eval_steps:
        settings |= {"eval_strategy": "steps", "eval_steps": train.eval_steps}
    if train.group_by_length:
        settings[SAMPLING] = GROUPED
    try:
        return SFTConfig(**settings | sft)
    except Exception as error:  # each setting is checked by other code
        what = f"SFTConfig refuses it: {first_line(error)}"
        raise ConfigError("train.sft", what, "Correct it or leave it out.") from error


def _settings(config: RunConfig) -> dict[str, Any]:
    train = config.train
    return {
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "per_device_train_batch_size": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "max_length": train.max_length,
        "packing": train.packing,
        # transformers' plain constant skips the warm-up
        "lr_scheduler_type": "constant_with_warmup" if train.scheduler is Scheduler.constant else str(train.scheduler),
        "warmup_steps": train.warmup_ratio,  # transformers 5 reads a number below 1 as a share of the steps
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would show a NaN as 0.0
        # packed rows have no padding and no mask; non_padding would leave out an end of text that is the padding too
        "include_num_input_tokens_seen": "all" if train.packing else "non_padding",
        "eval_strategy": "no",
        "save_strategy": "no",  # RunTrainer saves, so that a checkpoint is complete or absent
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": config.device is Device.cpu,
        # the base keeps its dtype, the adapter float32; autocast would round the adapter's products
        "bf16": False,
        "fp16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": config.device is Device.cuda,
        "optim": optimizer(config),
    }


def nothing_learned(model: PeftModel, train: TrainConfig, steps: int, before: float, after: float) -> str:
    """Why a training has left the model as it was; empty where it has not.

    Args:
        model: with its trained adapter.
        steps: of the optimizer.
        before: the eval loss of the base.
        after: the same with the adapter.
    """
    # B starts at zero, so the adapter has no effect until one of its numbers moves
    moved = any(
        bool(value.any()) for name, value in model.named_parameters() if "lora_B" in name or "embedding_B" in name
    )
    if before != after:
        return ""
    why = "the eval loss is that of the base" if moved else "all B matrices are zero"
    if train.learning_rate == 0:
        why += "; train.learning_rate is 0"
    elif steps * train.warmup_ratio <= 1 and steps == 1:
        why += "; the only step was at rate 0, where the warm-up begins: train.warmup_ratio=0 or more steps"
    return f"nothing was learned: {why}"


def has_adapted_head(model: PeftModel) -> bool:
    """Whether the head that computes logits has an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(model.get_output_embeddings(), BaseTunerLayer)


@contextmanager
def _router_settings_kept(model: PeftModel) -> Iterator[None]:
    """Take back what TRL writes into the config of a mixture of experts: `compute_loss` asks for the router itself."""
    config = model.config.get_text_config()
    before = {name: value for name, value in vars(config).items() if "router" in name}
    yield
    for name, value in before.items():
        setattr(config, name, value)


@contextmanager
def _biases_unchanged(model: PeftModel) -> Iterator[None]:
    """Keep TRL from rounding trained biases on a quantized base: they would no longer start from the base's."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    biases = [(parameter, parameter.data) for name, parameter in trained if name.endswith(".bias")]
    yield
    for parameter, data in biases:
        parameter.data = data
