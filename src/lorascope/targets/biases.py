"""The biases that are trained beside the LoRAs: which ones a strategy means, and how they are put on the base.

PEFT trains the base's own tensors. Here each is replaced by a copy in float32, like the rest of the adapter, so that
the base keeps its bits; a base in another dtype computes with the copy rounded to it, as PEFT will when it loads one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lorascope.compat import set_parameter
from lorascope.config.schema import Bias
from lorascope.targets.module_map import BiasTerm, ModuleMap
from lorascope.targets.weights import Projection, Spans, base_path

if TYPE_CHECKING:
    import torch


def trained_biases(bias: Bias, adapted: Iterable[Projection], modules: ModuleMap) -> tuple[BiasTerm, ...]:
    """The biases that PEFT trains for `target.bias`, with the rows of them that may move.

    Args:
        bias: `all` means every parameter called bias, `lora_only` those of adapted modules. Of a fused module that is
            adapted by parts, `lora_only` means the parts' rows alone.
        adapted: the projections that get an adapter.
        modules: of the model.
    """
    if bias is Bias.none:
        return ()
    if bias is Bias.all:
        return modules.biases
    rows: dict[str, list[Spans | None]] = {}
    for one in adapted:
        rows.setdefault(one.module, []).append(one.rows)
    found = []
    for term in modules.biases:
        if parts := rows.get(term.module):
            spans = None if None in parts else tuple(sorted({span for part in parts for span in part or ()}))
            found.append(term._replace(rows=spans))
    return tuple(found)


def own_biases(model: Any, biases: Iterable[BiasTerm]) -> None:
    """Replace the base's trained biases by copies in float32, of which only the planned rows get a gradient."""
    import torch

    rows = {term.module: term.rows for term in biases}
    copies: dict[int, torch.nn.Parameter] = {}  # modules may share one
    for path, module in model.named_modules():
        bias = dict(module.named_parameters(recurse=False)).get("bias")
        if bias is None or not bias.requires_grad:
            continue
        if id(bias) not in copies:
            copies[id(bias)] = torch.nn.Parameter(bias.detach().to(torch.float32, copy=True))
            if (spans := rows[base_path(path)]) is not None:
                copies[id(bias)].register_hook(MaskedGradient(rows_mask(spans, len(bias))))
        module.bias = copies[id(bias)]
        if bias.dtype != torch.float32:
            rounded = _Rounded(copies[id(bias)], bias.dtype)
            module.register_forward_pre_hook(rounded.before)
            module.register_forward_hook(rounded.after, always_call=True)


def rows_mask(spans: Spans, rows: int) -> torch.Tensor:
    """Which of so many rows lie in the spans: bool, shape (rows,)."""
    import torch

    mask = torch.zeros(rows, dtype=torch.bool)
    for start, stop in spans:
        mask[start:stop] = True
    return mask


class MaskedGradient:
    """A gradient hook that zeroes what a mask leaves out; the mask follows the gradient's device."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient, and zeros where the mask has none."""
        self.mask = self.mask.to(gradient.device)
        return gradient * self.mask


class _Rounded:
    """Lets a module compute with a float32 bias in the dtype of its base."""

    def __init__(self, bias: torch.Tensor, dtype: torch.dtype) -> None:
        self.bias, self.dtype = bias, dtype

    def before(self, module: Any, args: Any) -> None:
        set_parameter(module, "bias", self.bias.to(self.dtype))

    def after(self, module: Any, args: Any, output: Any) -> None:
        set_parameter(module, "bias", self.bias)
