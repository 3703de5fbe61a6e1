"""The one call of TRL's trainer: an adapter on a base, encoded data and a config come in, the adapter comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.config import Device, RunConfig, Scheduler, TrainConfig
from lorascope.data.tokens import Encoded, check_vocabulary
from lorascope.errors import ConfigError, LorascopeError, RunError, out_of_memory
from lorascope.estimate.setting import CHECKPOINTING, CHECKPOINTING_BEFORE, is_reentrant
from lorascope.interrupts import deferred, stop_if_asked
from lorascope.models.device import optimizer
from lorascope.targets.attach import keep_adapter_in_float32
from lorascope.training.checkpoints import Checkpoint
from lorascope.training.exact import REMOVE, restore_adapter
from lorascope.training.loop import trainer_class
from lorascope.training.lower_layers import prepare
from lorascope.training.packing import check_packing
from lorascope.training.sft_options import GROUPED, SAMPLING
from lorascope.training.states import States, Unfit

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTConfig


SCHEDULERS = {Scheduler.constant: "constant_with_warmup"}  # transformers' plain constant skips the warm-up


@dataclass(frozen=True)
class Trained:
    """What a training left besides the weights."""

    steps: int
    tokens: int  # read by the model, without padding
    train_loss: float  # mean over the steps, nats per supervised token
    seconds: float  # over all sessions
    lower_layers: Mapping[str, Any] = field(default_factory=dict)  # what was reused of them, or why nothing


@dataclass(frozen=True)
class Saving:
    """Where checkpoints go, what they should remember, and the one to go on from."""

    folder: Path
    latest: Checkpoint | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def train_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Encoded,
    evaluation: Encoded,
    config: RunConfig,
    saving: Saving,
    *,
    evaluate: Callable[[], Mapping[str, float]],
    callbacks: list[TrainerCallback],
    warn: Callable[[str], None],
    states: MutableMapping[str, States] | None = None,
) -> Trained:
    """Train the adapter in place, from its start or exactly where a checkpoint left it.

    Args:
        model: a base with its adapter, as `attach` leaves it.
        train: what is learned.
        evaluation: what is measured during training, when `train.eval_steps` asks for it.
        config: resolved; `train.*` decides.
        saving: of checkpoints.
        evaluate: measures it; may raise Preempted.
        callbacks: of transformers' Trainer, for progress and trackers.
        warn: told of a checkpoint that could not be written, and of lower layers that are not reused.
        states: of the base's lower layers, kept for other runs of a session.

    Raises:
        ConfigError: when SFTConfig refuses a setting, or the model looks across packed rows.
        DataError: for a token id that the model does not know.
        RunError: when a loss or gradient is not finite.
        Preempted: when a signal asked for it, with the state saved.
    """
    check_vocabulary(train, int(tokenizer.pad_token_id or 0), model)
    adapted_head = has_adapted_head(model)
    spared = nullcontext if is_reentrant(config.train) else partial(_no_gradient_of_inputs, model)
    with _refusals(config.train), _head_hidden(model) if adapted_head else nullcontext(), spared():
        trainer = trainer_class()(
            model=model,
            args=sft_config(config, saving.folder),
            train_dataset=train.to_dataset(),
            eval_dataset=evaluation.to_dataset() if config.train.eval_steps else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
    trainer.begin(evaluate, train, config.train, saving, adapted_head, warn)
    keep_adapter_in_float32(model)  # TRL has just cast it on a quantized base
    latest = saving.latest
    if latest and latest.meta["finished"]:
        restore_adapter(model, latest.path)
        return Trained(**latest.meta["trained"])
    if config.train.packing:
        check_packing(trainer, train)
    reused = _reuse(trainer, train, config.train, saving, {} if states is None else states, warn)
    going_on = _going_on(latest, trainer) if latest else nullcontext()
    with deferred(), _refusals(config.train, trainer), going_on, spared():
        trainer.train(resume_from_checkpoint=str(latest.path) if latest else None)
    stop_if_asked()
    return Trained(**trainer.trained(), lower_layers=reused)


def _reuse(
    trainer: Any,
    data: Encoded,
    settings: TrainConfig,
    saving: Saving,
    kept: MutableMapping[str, States],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Let the trainer go around the lower layers, where that is wanted and leads to the same place.

    A training that goes on does what it did before, so that it ends in the same bits.
    """
    if not settings.reuse_lower_layers:
        return {}
    did = saving.latest.meta.get("reuses_lower_layers", False) if saving.latest else None
    try:
        if did is False:
            raise Unfit("this training began without")
        trainer.reuse, entry = prepare(trainer, data, settings, kept, saving.folder)
    except Unfit as reason:
        warn(f"train.reuse_lower_layers: every step computes all layers, since {reason}")
        if did:
            warn("it was done before this training was cut: the result may differ in the last bits")
        return {"not_reused": str(reason)}
    return entry


@contextmanager
def _refusals(train: TrainConfig, trainer: Any = None) -> Iterator[None]:
    """What TRL and torch say of a value under `train.sft`, when they meet it before the first step, as our error."""
    try:
        yield
    except (TypeError, ValueError, LookupError, ImportError, OSError, RuntimeError) as error:
        if not train.sft or out_of_memory(error) or (trainer and trainer.state.global_step):
            raise
        names = ", ".join(train.sft)
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            "train.sft", f"the trainer refuses one of {names}: {what}", "Mend or leave it out."
        ) from error


@contextmanager
def _going_on(latest: Checkpoint, trainer: Any) -> Iterator[None]:
    """What transformers and torch say of a checkpoint's files, when they read them before the next step, as our error.

    Raises:
        RunError: with what they said.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LorascopeError) or out_of_memory(error) or trainer.state.global_step > latest.step:
            raise
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise RunError(str(latest.path), f"cannot be gone on from: {what}", REMOVE) from error


def sft_config(config: RunConfig, folder: Path) -> SFTConfig:
    """The run's settings in TRL's words.

    Raises:
        ConfigError: with SFTConfig's own complaint.
    """
    import dataclasses

    from trl import SFTConfig

    train, sft = config.train, dict(config.train.sft)
    checkpointing = CHECKPOINTING
    if checkpointing not in {field.name for field in dataclasses.fields(SFTConfig)}:
        checkpointing = CHECKPOINTING_BEFORE
        if CHECKPOINTING in sft:
            sft[checkpointing] = sft.pop(CHECKPOINTING)
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "per_device_train_batch_size": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "max_length": train.max_length,
        "packing": train.packing,
        "lr_scheduler_type": SCHEDULERS.get(train.scheduler, str(train.scheduler)),
        "warmup_steps": train.warmup_ratio,  # transformers 5 reads a number below 1 as a share of the steps
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would show a NaN as 0.0
        # packed rows have no padding and no mask; non_padding would leave out an end of text that is the padding too
        "include_num_input_tokens_seen": "all" if train.packing else "non_padding",
        "eval_strategy": "no",
        "save_strategy": "no",  # `loop` saves, so that a checkpoint is whole or not there
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
        checkpointing: config.device is Device.cuda,  # where no estimate has said that it fits without
    }
    if train.eval_steps:
        settings |= {"eval_strategy": "steps", "eval_steps": train.eval_steps}
    if train.group_by_length:
        settings[SAMPLING] = GROUPED
    try:
        return SFTConfig(**settings | sft)
    except Exception as error:  # each setting is looked at by other code
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError("train.sft", f"SFTConfig refuses it: {what}", "Mend or leave out the setting.") from error


def has_adapted_head(model: PeftModel) -> bool:
    """Whether the adapter has a part on the head that makes logits."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(model.get_output_embeddings(), BaseTunerLayer)


@contextmanager
def _head_hidden(model: PeftModel) -> Iterator[None]:
    """Keep TRL from seeing an adapter on the head: it refuses one, since its own loss would never train it.

    The loss here goes through the head's forward, which does (trl#4612).
    """
    head = model.get_output_embeddings()
    model.get_output_embeddings = lambda: head.get_base_layer()
    try:
        yield
    finally:
        del model.get_output_embeddings


@contextmanager
def _no_gradient_of_inputs(model: PeftModel) -> Iterator[None]:
    """Keep TRL and transformers from making the embeddings' output require a gradient.

    Both do where there is checkpointing, and everything below the first adapted layer is then computed again and gets
    a backward pass for nobody. Reentrant checkpointing alone needs it.
    """
    import inspect

    base = model.get_base_model()
    if "value" in inspect.signature(base._set_gradient_checkpointing).parameters:
        yield  # a model's own code of before transformers 4.35 is told no kind, and takes torch's default
        return
    base.enable_input_require_grads = lambda: None
    try:
        yield
    finally:
        del base.enable_input_require_grads
