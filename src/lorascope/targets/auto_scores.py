"""Scores of modules from weights and inputs, for automatic placement.

Nothing of the base changes: no mode, no gradient, no random number; activations are summed up as they come, never kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lorascope.targets.weights import Projection, linear_shape

if TYPE_CHECKING:
    import torch

    Batch = Mapping[str, torch.Tensor]
    See = Callable[[str, torch.Tensor, torch.Tensor], None]


def real_tokens(batch: Batch) -> torch.Tensor:
    """Which positions of a batch are no padding: bool, shape (rows, width)."""
    return batch["attention_mask"].bool()


def observe(
    base: Any,
    paths: Iterable[str],
    batches: Iterable[Batch],
    see: See,
    counted: Callable[[Batch], torch.Tensor] = real_tokens,
) -> set[str]:
    """Read prompts and show what goes in and out of some modules.

    Args:
        base: a model of transformers, with or without an adapter in it.
        paths: of its linear modules.
        batches: `input_ids` and `attention_mask`, each of shape (rows, width), on the base's device.
        see: called with a path, the inputs (tokens, d_in) and the outputs (tokens, d_out) of a pass.
        counted: the positions of a batch that are shown.

    Returns:
        The modules that read every token in its place in every pass; a routed expert does not, and is not shown then.
    """
    import torch

    kept: torch.Tensor
    shown: set[str] = set()
    unseen: set[str] = set()

    def show(path: str, module: Any, args: tuple[Any, ...], output: Any) -> None:
        inputs, outputs = rows_of(args[0], kept) if args else None, rows_of(output, kept)
        if inputs is None or outputs is None:
            unseen.add(path)
            return
        shown.add(path)
        see(path, inputs, outputs)

    handles = [base.get_submodule(path).register_forward_hook(partial(show, path)) for path in paths]
    training = base.training
    base.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                kept = counted(batch)
                read(base, batch)
    finally:
        base.train(training)
        for handle in handles:
            handle.remove()
    return shown - unseen


def read(base: Any, batch: Batch) -> None:
    """A forward pass through the blocks, without the vocabulary's logits."""
    base.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


def rows_of(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor | None:
    """The kept positions of a module's inputs or outputs, shape (tokens, size).

    Returns:
        None where the values do not have a row for each position, in order.
    """
    # beside (rows, positions) some models keep an axis of 1, and some have flattened both into one
    axes = [size for size in values.shape[:-1] if size > 1]
    if axes in ([size for size in kept.shape if size > 1], [kept.numel()]):
        return values.reshape(-1, values.shape[-1])[kept.flatten()]
    return None


def feature_norms(base: Any, projections: Sequence[Projection], batches: Iterable[Batch]) -> dict[Projection, float]:
    """PLoP's normalised feature norms (arXiv:2506.20629): |Wz| / (|W|_F |z| / sqrt(d_in)), averaged over all tokens.

    A weight that knew nothing of its inputs would score 1. A part of a fused module is scored by its own rows.

    Args:
        base: quantized or not.
        projections: linear modules of it, or their parts.
        batches: as `observe` takes them.

    Returns:
        A score for each projection whose module reads every token in its place.
    """
    import torch

    parts: dict[str, list[Projection]] = {}
    for one in projections:
        parts.setdefault(one.module, []).append(one)
    norms = {
        one: _columns(weight.T, one).norm().item()
        for path, those in parts.items()
        for weight in [plain_weight(base.get_submodule(path))]
        for one in those
    }
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

    read_whole = observe(base, parts, batches, see)
    return {
        one: ratios[one] / tokens[one] * math.sqrt(one.d_in) / norms[one]
        for one in projections
        if one.module in read_whole
    }


def _columns(values: torch.Tensor, one: Projection) -> torch.Tensor:
    """Of values whose last axis is a module's outputs, those that belong to a projection."""
    import torch

    return values if one.rows is None else torch.cat([values[..., start:stop] for start, stop in one.rows], dim=-1)


def condition_number(module: Any) -> float | None:
    """The largest over the smallest singular value of a linear module, as PEFT's KappaTuneSelector has it.

    Returns:
        None for a weight with a side above 16,384, which would take too long.
    """
    import torch

    weight = plain_weight(module)
    if max(weight.shape) > 2**14:
        return None
    values = torch.linalg.svdvals(weight)
    return (values[0] / (values[-1] + 1e-8)).item()


def plain_weight(module: Any) -> torch.Tensor:
    """A linear module's weight as numbers, whatever it is stored in: float32, shape (d_out, d_in), on its device."""
    import torch
    from peft.utils.integrations import dequantize_bnb_weight

    numbers = module.weight.data
    if type(module.weight).__name__ in ("Params4bit", "Int8Params"):
        numbers = dequantize_bnb_weight(module.weight, state=getattr(module, "state", None))
    shape = linear_shape(module)
    return (numbers.T if shape is not None and shape[2] else numbers).to(torch.float32)
