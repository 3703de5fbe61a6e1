"""Every use of other libraries' private APIs, each with its reason; tests/test_compat.py checks every one.

Known to work with transformers 5.23 and 5.24, TRL 1.16, PEFT 0.21, Hydra 1.3.8.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


# methods of SFTTrainer that `training.sft_trainer` replaces or calls -> why no public way will do
TRAINER_HOOKS = {
    "compute_loss": "its own loss scores every position where there is no Triton",
    "training_step": "keeps a step's losses and token ids, for the message when one is not finite",
    "evaluate": "its eval loss averages batch means, and so depends on the batch size",
    "_get_train_sampler": "its sampler by length draws from torch's common stream, as dropout does",
    "_get_grad_norm": "the one place between the gradients and the optimizer's step",
    "_save_checkpoint": "its checkpoints are visible before they are complete",
    "_load_from_checkpoint": "it would load the adapter again, in another dtype on a quantized base",
    "_save_optimizer_and_scheduler": "called: into the folder of a checkpoint that is not yet visible",
    "_save_scaler": "called, as above",
    "_save_rng_state": "called, as above",
    "store_flos": "called: the count goes into trainer_state.json",
}


def loss_sums(trainer: Any) -> dict[str, Any]:
    """The sums that a trainer does not write into its checkpoints, as plain numbers.

    Returns:
        `window`, the loss since the last log line; `total`, the loss before it; `last_logged`, that line's step;
        `read_tokens`; and `averages`, TRL's own, by name.
    """
    return {
        "window": float(trainer._tr_loss.item()),
        "total": float(trainer._total_loss_scalar),
        "last_logged": int(trainer._globalstep_last_logged),
        "read_tokens": int(trainer._total_train_tokens),
        "averages": {name: [float(value) for value in those] for name, those in trainer._metrics["train"].items()},
    }


def set_loss_sums(trainer: Any, sums: Mapping[str, Any]) -> None:
    """Restore `loss_sums`, after the training loop has set its own to zero."""
    trainer._tr_loss.fill_(sums["window"])
    trainer._total_loss_scalar = sums["total"]
    trainer._globalstep_last_logged = sums["last_logged"]
    trainer._initial_global_step = 0  # train_loss is the mean over all steps, not over this session's
    trainer._total_train_tokens = sums["read_tokens"]
    for name, values in sums["averages"].items():
        trainer._metrics["train"][name] = list(values)


@contextmanager
def head_hidden(model: PeftModel) -> Iterator[None]:
    """Hide an adapter on the head from TRL, which refuses one: its own loss would never train it (trl#4612).

    The loss of `RunTrainer` uses the head's forward, and trains it.
    """
    head = model.get_output_embeddings()
    model.get_output_embeddings = lambda: head.get_base_layer()
    try:
        yield
    finally:
        del model.get_output_embeddings


@contextmanager
def no_gradient_of_inputs(model: PeftModel) -> Iterator[None]:
    """Keep TRL and transformers from making the embeddings' output require a gradient.

    With checkpointing both do, and everything below the first adapted layer is then recomputed and gets a backward
    pass that nothing uses. Only reentrant checkpointing needs it.
    """
    base = model.get_base_model()
    if "value" in inspect.signature(base._set_gradient_checkpointing).parameters:
        yield  # remote code from before transformers 4.35 uses torch's default, whatever the settings
        return
    base.enable_input_require_grads = lambda: None
    try:
        yield
    finally:
        del base.enable_input_require_grads


def unquantized_modules(model: Any) -> list[str]:
    """Names of the modules that transformers would not quantize; a model on the meta device has no quantizer."""
    from transformers.quantizers.base import HfQuantizer

    names: list[str] = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return names


def taken_for_experts(model_type: str) -> set[str]:
    """Names of modules that PEFT treats as expert stacks in models of this type."""
    from peft.utils import transformers_weight_conversion as conversion

    kind = conversion._MODEL_TO_CONVERSION_PATTERN.get(model_type, "")
    return set(conversion._MOE_TARGET_MODULE_MAPPING.get(kind, {}))


def attention_of(model: Any) -> str:
    """The attention that a model computes with: the one that was asked for, or eager where its type has no other."""
    return str(model.config._attn_implementation)


def refused_by_peft(model_type: str, name: str) -> str:
    """Why PEFT takes no LoRA for modules of this name in models of this type; empty where it takes one."""
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check

    lora: Any = SimpleNamespace(peft_type="LORA")
    model: Any = SimpleNamespace(config=SimpleNamespace(model_type=model_type))
    try:
        check(lora, model, name)
    except ValueError as error:
        return str(error).partition(". ")[0]
    return ""


def low_rank(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, d_in) and B (d_out, rank) whose product B A is nearest to a matrix, as in PEFT's LoftQ."""
    from peft.utils.loftq_utils import _low_rank_decomposition

    factors = _low_rank_decomposition(matrix, reduced_rank=rank)
    return factors["R"], factors["L"]


def tensor_reader(model: PeftModel, folder: Path) -> Callable[[str], torch.Tensor]:
    """A function that reads one tensor of the base's safetensors, with or without the base's prefix.

    Raises:
        FileNotFoundError: where there are no such files.
    """
    from peft.utils.loftq_utils import _SafetensorLoader

    reader: Callable[[str], torch.Tensor] = _SafetensorLoader(model, str(folder)).get_tensor
    return reader


def remove_eva_hooks(modules: Iterable[Any]) -> None:
    """Remove the hooks of PEFT's EVA, which stay after a pass that fails; torch lists hooks privately."""
    from peft.tuners.lora.eva import HashHook, SVDHook

    for module in modules:
        hooks = module._forward_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, HashHook | SVDHook)]:
            del hooks[key]


def basic_launcher() -> Any:
    """The class of Hydra's launcher in this process, to be extended; Hydra has no public one."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    return BasicLauncher


def basic_sweeper() -> Any:
    """The class of Hydra's sweeper over all combinations, to be extended."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper


@contextmanager
def errors_raised() -> Iterator[None]:
    """Inside, Hydra raises errors; without this variable it prints them itself and exits."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def job_error(result: Any) -> BaseException:
    """The error of a job that failed, without the line that Hydra prints about it."""
    with redirect_stderr(StringIO()):
        try:
            return RuntimeError(str(result.return_value))
        except BaseException as error:
            return error


def was_composing(error: BaseException) -> bool:
    """Whether an error was raised by Hydra's composing, which also raises errors of other libraries."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith(("hydra._internal.config_loader", "hydra.core.override_parser")) for name in modules)


def last_read(error: BaseException) -> tuple[str, str]:
    """The file and the override that Hydra was reading; its errors do not always name them, its frames do."""
    file = override = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, held = frame.f_globals.get("__name__", ""), frame.f_locals
        if module == "hydra._internal.config_repository" and isinstance(held.get("config_path"), str):
            file = held["config_path"].removesuffix(".yaml") + ".yaml"
        elif module == "hydra._internal.defaults_list":
            override = getattr(held.get("override"), "input_line", None) or override
            if hasattr(held.get("parent"), "get_config_path"):
                file = f"{held['parent'].get_config_path()}.yaml"
    return file, override


def keep_text_of_yaml(names: frozenset[str]) -> None:
    """Let OmegaConf read values of these keys, wherever they are in a file, as text; null stays null.

    YAML 1.1 reads `no` as false, `12:30` as 750 and `010` as 8, and then the text is lost. OmegaConf has no setting
    for its YAML loader.
    """
    from omegaconf import _utils

    loader = _utils.get_yaml_loader()
    if names == getattr(loader, "text_names", None):
        return

    class Loader(loader):  # type: ignore[misc, valid-type]
        text_names = names

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            for key, value in getattr(node, "value", ()):
                if isinstance(key.value, str) and key.value in names:
                    self.keep_text(value)
            return super().construct_mapping(node, deep=deep)

        def keep_text(self, node: Any) -> None:
            if isinstance(node.value, str):
                node.tag = node.tag if node.tag.endswith(":null") else self.DEFAULT_SCALAR_TAG
                return
            for inner in node.value:
                for one in inner if isinstance(inner, tuple) else (inner,):
                    self.keep_text(one)

    _utils.get_yaml_loader = lambda: Loader


def set_parameter(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    """Let a module compute with a tensor in place of a parameter; `setattr` accepts only a Parameter.

    torch.func.functional_call does so for a complete call, not between a module's own hooks.
    """
    module._parameters[name] = value  # type: ignore[assignment]
