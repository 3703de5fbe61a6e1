"""EVA (arXiv:2410.07170): ranks and initial values from the principal components of module inputs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorascope.compat import remove_eva_hooks
from lorascope.errors import PlanError
from lorascope.targets.auto_scores import observe, read, real_tokens, rows_of
from lorascope.targets.weights import base_path

if TYPE_CHECKING:
    import torch

    from lorascope.targets.auto_scores import Batch

    # Orthonormal rows by module, shape (its rank, d_in), float32: where an adapter's A starts
    Components = Mapping[str, torch.Tensor]


ENOUGH_PASSES = 200  # forward passes within which components settle, unless they never do


@dataclass(frozen=True)
class Prompts:
    """Prompts as EVA reads them: batches that have tokens enough, and which of these count."""

    batches: Sequence[Batch]
    answers: bool  # PEFT's default: the supervised tokens alone; all of them where these are too few

    def counted(self, batch: Batch) -> torch.Tensor:
        """The positions that count, as PEFT's EVA masks them: bool, shape (rows, width)."""
        from peft import EvaConfig

        real, labels = real_tokens(batch), batch.get("labels")
        return real & (labels != EvaConfig().label_mask_value) if self.answers and labels is not None else real

    @property
    def tokens(self) -> int:
        """How many count in all."""
        return sum(int(self.counted(batch).sum()) for batch in self.batches)

    def entry(self) -> dict[str, Any]:
        """Prompts and tokens that count, as a record keeps them."""
        return {"prompts": sum(len(batch["input_ids"]) for batch in self.batches), "tokens": self.tokens}


def prompts_for(batches: Sequence[Batch], components: int) -> Prompts:
    """The batches that are long enough for so many components; PEFT's EVA would never end with others.

    Raises:
        PlanError: when none is.
    """
    for answers, needed in ((True, len(batches) / 2), (False, 1)):
        every = Prompts(batches, answers)
        fitting = [batch for batch in batches if int(every.counted(batch).sum()) >= components]
        if fitting and len(fitting) >= needed:
            return Prompts(fitting, answers)
    most = max((int(real_tokens(batch).sum()) for batch in batches), default=0)
    raise PlanError(
        "target.auto.prompts",
        f"EVA looks for up to {components} components in each batch of prompts, and the longest has {most} tokens.",
        "Give it more or longer prompts, or lower the budget or the ranks.",
    )


def readable(base: Any, paths: Sequence[str], batch: Batch) -> set[str]:
    """Those modules that read every token of a batch in its place."""
    return observe(base, paths, [batch], lambda path, inputs, outputs: None)


def components(model: Any, paths: Sequence[str], rank: int, prompts: Prompts, *, most: int | None = None) -> Components:
    """The principal components of what modules read, found by PEFT.

    Args:
        model: a base, or a PeftModel whose adapted modules are `paths`.
        paths: modules inside the base that `readable` lists.
        rank: components a module on average: PEFT hands them out by the variance that they explain.
        most: components that one module may get; `rank` by default, so that each gets as many.

    Returns:
        Components by module; some may have none.

    Raises:
        PlanError: where they do not settle.
    """
    from peft import EvaConfig, LoraConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base.device.type == "mps":
        raise PlanError("EVA", "sums up in float64, which MPS does not have.", "Take device=cpu.")
    config = LoraConfig(
        r=rank,
        target_modules=list(paths),
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=(most or rank) / rank),
    )
    training = base.training
    try:
        found = get_eva_state_dict(
            model,
            list(prompts.batches),
            config,
            forward_fn=_counting(base, max(ENOUGH_PASSES, 2 * len(prompts.batches))),
            prepare_model_inputs_fn=lambda batch, _: prompts.counted(batch),
            prepare_layer_inputs_fn=lambda inputs, counted, _: rows_of(
                inputs[0] if isinstance(inputs, tuple) else inputs, counted
            ),
            show_progress_bar=False,
        )
    finally:
        base.train(training)
        remove_eva_hooks(base.get_submodule(path) for path in paths)
    rows = {base_path(path): those.float() for path, those in found.items()}
    return {path: rows[path] for path in paths}


def _counting(base: Any, enough: int) -> Callable[[Any, Batch], None]:
    """A forward pass for PEFT, which would go on for ever where components do not settle."""
    passes = itertools.count(1)

    def forward(_: Any, batch: Batch) -> None:
        if next(passes) > enough:
            raise PlanError(
                "EVA",
                f"the components of what the modules read have not settled in {enough} passes over the prompts.",
                "Lower the budget or the ranks, or raise target.auto.prompts.",
            )
        read(base, batch)

    return forward


def explained(base: Any, found: Components, prompts: Prompts) -> dict[str, list[float]]:
    """The share of the variance of a module's inputs that each of its components explains, over all prompts.

    Returns:
        By module, as many shares as it has components.
    """
    import torch

    sums: dict[str, Any] = defaultdict(
        float
    )  # of inputs and their squares, of values along components and their squares

    def see(path: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        inputs = inputs.float()
        along = inputs @ found[path].T
        parts = (inputs.sum(0), inputs.square().sum(0), along.sum(0), along.square().sum(0))
        sums[path] += torch.cat(parts).double()

    observe(base, list(found), prompts.batches, see, prompts.counted)
    shares = {}
    for path, rows in found.items():
        rank, width = rows.shape
        mean, square, along, along_square = (sums[path] / prompts.tokens).split((width, width, rank, rank))
        total = (square - mean.square()).sum().clamp_min(torch.finfo(torch.float32).tiny)
        shares[path] = ((along_square - along.square()) / total).tolist()
    return shares


def ranks_within(shares: Mapping[str, Sequence[float]], costs: Mapping[str, int], asked: int) -> dict[str, int]:
    """Ranks that cost as nearly as can be what is asked: the components that explain least are given up first.

    Args:
        shares: of the variance, by module, component after component.
        costs: parameters of one component, by module.
        asked: parameters.
    """
    ranks = {path: len(those) for path, those in shares.items()}
    total = sum(ranks[path] * costs[path] for path in ranks)
    # a later component goes before an earlier one, even where it was measured to explain a little more
    weakest = sorted(
        ((min(those[: index + 1]), -index, path) for path, those in shares.items() for index in range(len(those))),
        key=lambda entry: entry[:2],
    )
    for _, _, path in weakest:
        if abs(total - costs[path] - asked) >= abs(total - asked):
            break
        ranks[path] -= 1
        total -= costs[path]
    return ranks
