"""What weights and inputs say of where an adapter is worth most: a base and prompts come in, a number a module comes out.

Nothing of the base changes: no mode, no gradient, no random number; activations are summed up as they come, never kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lorascope.targets.module_map import Projection
from lorascope.targets.weights import linear_shape

if TYPE_CHECKING:
    import torch

    Batch = Mapping[str, torch.Tensor]
    See = Callable[[str, torch.Tensor, torch.Tensor], None]


def observe(base: Any, paths: Iterable[str], batches: Iterable[Batch], see: See) -> None:
    """Read prompts and show what goes in and out of some modules.

    Args:
        base: a model of transformers, with or without an adapter in it.
        paths: of its linear modules.
        batches: `input_ids` and `attention_mask`, each of shape (rows, width), on the base's device.
        see: called with a path, the inputs (tokens, d_in) and the outputs (tokens, d_out) of a batch, padding left out.
            A module that does not read every token in its place, such as a routed expert, is not shown.
    """
    import torch

    kept: torch.Tensor

    def hook(path: str) -> Callable[[Any, Any, Any], None]:
        def show(module: Any, args: tuple[Any, ...], output: Any) -> None:
            if args and (inputs := _tokens(args[0], kept)) is not None and (found := _tokens(output, kept)) is not None:
                see(path, inputs, found)

        return show

    handles = [base.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    training = base.training
    base.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                kept = batch["attention_mask"].bool()
                read(base, batch)
    finally:
        base.train(training)
        for handle in handles:
            handle.remove()


def read(base: Any, batch: Batch) -> None:
    """A forward pass through the blocks, without the vocabulary's logits."""
    base.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


def _tokens(values: Any, kept: torch.Tensor) -> torch.Tensor | None:
    """The rows of real tokens, shape (tokens, width); None where a row a token cannot be seen."""
    if values.shape[:-1] == kept.shape:
        found: torch.Tensor = values[kept]
        return found
    if values.dim() == 2 and len(values) == kept.numel():  # some models flatten rows and positions
        flat: torch.Tensor = values[kept.flatten()]
        return flat
    return None


def feature_norms(base: Any, projections: Sequence[Projection], batches: Iterable[Batch]) -> dict[Projection, float]:
    """PLoP's normalised feature norms (arXiv:2506.20629): |Wz| / (|W|_F |z| / sqrt(d_in)), averaged over all tokens.

    A weight that knew nothing of its inputs would score 1. A part of a fused module is scored by its own rows.

    Args:
        base: quantized or not.
        projections: linear modules of it, or their parts.
        batches: as `observe` takes them.

    Returns:
        A score for each projection that `observe` shows.
    """
    import torch

    parts: dict[str, list[Projection]] = {}
    for one in projections:
        parts.setdefault(one.module, []).append(one)
    norms = {one: _part_norms(base.get_submodule(path), those) for path, those in parts.items() for one in those}
    ratios = dict.fromkeys(projections, 0.0)
    tokens = dict.fromkeys(projections, 0)

    def see(path: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        bias = getattr(base.get_submodule(path), "bias", None)
        products = outputs.float() if bias is None else outputs.float() - bias.float()
        # an input that is all zeros has a product that is all zeros: it counts as such
        lengths = inputs.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        for one in parts[path]:
            found = _columns(products, one).norm(dim=-1) / lengths
            ratios[one] += found.sum().item()
            tokens[one] += len(found)

    observe(base, parts, batches, see)
    return {
        one: ratios[one] / tokens[one] * math.sqrt(one.d_in) / norms[one] for one in projections if tokens[one]
    }


def _part_norms(module: Any, parts: Sequence[Projection]) -> dict[Projection, float]:
    """The Frobenius norm of each part's rows."""
    weight = plain_weight(module)
    return {one: _columns(weight.T, one).norm().item() for one in parts}


def _columns(values: torch.Tensor, one: Projection) -> torch.Tensor:
    """Of values whose last axis is a module's outputs, those that belong to a projection."""
    import torch

    return values if one.rows is None else torch.cat([values[..., start:stop] for start, stop in one.rows], dim=-1)


def condition_number(module: Any) -> float | None:
    """The largest over the smallest singular value of a linear module, by PEFT's KappaTuneSelector.

    The selector knows nn.Linear, in 4 bits too, and reads the codes of an 8-bit weight without their scales; so a
    plain linear module is made of any weight first.

    Returns:
        None for a weight that the selector finds too large (a side above 16,384).
    """
    from peft.helpers import KappaTuneSelector
    from torch import nn

    weight = plain_weight(module)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    selector = KappaTuneSelector(plain, show_progress=False)
    selector._compute_kappas()
    numbers: list[float] = list((selector._condition_numbers or {}).values())
    return numbers[0] if numbers else None


def plain_weight(module: Any) -> torch.Tensor:
    """A linear module's weight as numbers, whatever it is stored in: float32, shape (d_out, d_in), on its device."""
    import torch

    weight = module.weight
    kind = type(weight).__name__
    if kind == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        numbers: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    elif kind == "Int8Params":
        from bitsandbytes.functional import int8_vectorwise_dequant

        scales = module.state.SCB if module.state.SCB is not None else weight.SCB  # the first pass moves them
        numbers = int8_vectorwise_dequant(weight.data, scales)
    else:
        numbers = weight.data
    shape = linear_shape(module)
    transposed = kind not in ("Params4bit", "Int8Params") and shape is not None and shape[2]
    return (numbers.T if transposed else numbers).to(torch.float32)
