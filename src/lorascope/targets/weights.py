"""Every matrix of a model that an adapter could sit on: a model comes in, paths and shapes come out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Stacks that are stored (experts, d_in, d_out) without saying so; PEFT then takes their inputs for outputs.
UNMARKED = {"Llama4TextExperts"}


@dataclass(frozen=True)
class Weight:
    """One matrix, or one stack of experts' matrices."""

    module: str  # path inside the model
    d_in: int
    d_out: int
    parameter: str = "weight"
    experts: int = 1
    transposed: bool = False  # stored (…, d_in, d_out), as GPT-2's Conv1D does
    mirrored: bool = False  # PEFT takes d_in for d_out here
    interleaved: bool = False  # experts whose gate and up rows alternate
    owners: tuple[str, ...] = ()  # class names from the model down to the module's parent

    @property
    def name(self) -> str:
        """The path, with an expert stack's parameter behind it."""
        return self.module if self.parameter == "weight" and self.experts == 1 else f"{self.module}.{self.parameter}"


def weights_of(model: Any) -> Iterator[Weight]:
    """The linear modules and expert stacks of a model on any device, in its own order."""
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    for path, module in model.named_modules():
        owners = tuple(kinds[parent] for parent in _parents(path))
        if (shape := linear_shape(module)) is not None:
            d_in, d_out, transposed = shape
            yield Weight(path, d_in, d_out, transposed=transposed, owners=owners)
        else:
            yield from _stacks(path, module, owners)


def linear_shape(module: Any) -> tuple[int, int, bool] | None:
    """(d_in, d_out, transposed) of a linear module or GPT-2's Conv1D, quantized or not; None for anything else."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features, False
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf), True
    return None


def _stacks(path: str, module: Any, owners: tuple[str, ...]) -> Iterator[Weight]:
    """A mixture's experts: one 3-D parameter for each projection (transformers 5)."""
    kind = type(module).__name__
    if "Expert" not in kind:
        return
    mirrored = kind in UNMARKED
    transposed = mirrored or bool(getattr(module, "is_transposed", False))
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() != 3 or "bias" in name:
            continue
        experts, first, second = parameter.shape
        d_in, d_out = (first, second) if transposed else (second, first)
        interleaved = not getattr(module, "is_concatenated", True)
        yield Weight(path, d_in, d_out, name, experts, transposed, mirrored, interleaved, (*owners, kind))


def _parents(path: str) -> Iterator[str]:
    """The paths above one, the model's own ('') first."""
    yield ""
    for end, letter in enumerate(path):
        if letter == ".":
            yield path[:end]
