"""Estimate the floating-point operations of a run; a multiply and an add count as two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorascope.config.schema import Attention, TrainConfig
from lorascope.planning.model_dims import INTO_ATTENTION, Layer, ModelDims
from lorascope.planning.step_spec import Lora, StepSpec, first_layer, loras
from lorascope.targets.plan import TargetPlan

# Products in an attention's backward for each of its two in the forward: the kernels compute the scores again.
ATTENTION_BACKWARD, EAGER_BACKWARD = 2.5, 2.0
BEFORE_ALL = INTO_ATTENTION - 1


@dataclass(frozen=True)
class ComputeEstimate:
    """Floating-point operations of a training, evaluations and optimizer aside."""

    forward: float  # for a token, at the length that it was estimated for
    backward: float  # for a token, with what checkpointing computes again
    step_tokens: int  # of an optimizer's step, padding included
    run_tokens: int | None  # of the training; None where neither steps nor rows are known

    @property
    def total(self) -> float:
        """For a token."""
        return self.forward + self.backward

    @property
    def step(self) -> float:
        """For an optimizer's step."""
        return self.total * self.step_tokens

    @property
    def run(self) -> float | None:
        """For the training."""
        return None if self.run_tokens is None else self.total * self.run_tokens

    def entry(self) -> dict[str, Any]:
        """The estimate as a record keeps it."""
        return {
            "forward_flop_per_token": round(self.forward),
            "backward_flop_per_token": round(self.backward),
            "step_tokens": self.step_tokens,
            "run_tokens": self.run_tokens,
            "run_flop": None if self.run is None else round(self.run),
        }


def estimate_compute(step: StepSpec, dims: ModelDims, plan: TargetPlan, in_run: int | None = None) -> ComputeEstimate:
    """The arithmetic of a run, nothing of which is loaded.

    Args:
        step: its length is the mean one, for attention and the size of a step.
        in_run: tokens of the training, as `run_tokens` gives them.
    """
    adapter = loras(plan, dims)
    first = first_layer(adapter, dims, step)
    # before the first adapter nothing asks for a gradient, unless the embeddings do
    asked = step.checkpointing and step.reentrant
    whole = asked or any(one.layer < 0 and one.name != dims.head.name for one in adapter)
    entry = BEFORE_ALL if whole else min((one.stage for one in adapter if one.layer == first), default=BEFORE_ALL)
    forward = backward = 0.0
    for number, layer in enumerate(dims.layers):
        its = [one for one in adapter if one.layer == number]
        ahead = 2 * sum(one.products for one in layer.matrices) + _attention(layer, dims, step)
        ahead += sum(_adapted(one, step) for one in its)
        forward += ahead
        if number >= first:
            backward += _backward(layer, dims, step, its, entry if number == first else BEFORE_ALL)
            backward += ahead - _not_again(layer, its, step) if step.checkpointing else 0
    share = step.supervised / step.length
    head, below = 2 * dims.head.products * share, first < len(dims.layers)
    forward += head + 2 * sum(one.products for one in dims.outside)
    if below:
        backward += head * (2 if step.on_cuda else 1)  # TRL computes the tiles of logits again
    for one in adapter:
        if one.name == dims.head.name:
            forward += share * _lora(one, step)
            backward += share * (2 * _lora(one, step) - (0 if below else 2 * one.rank * one.d_in))
        elif one.layer < 0:  # on the embeddings, whose A is a table and no product
            forward += 2 * one.rank * one.d_out
            backward += 4 * one.rank * one.d_out
    return ComputeEstimate(forward, backward, step.tokens * step.accumulation, in_run)


def run_tokens(train: TrainConfig, step: StepSpec, rows: int | None, tokens: int | None) -> int | None:
    """Tokens of a training: as many as its rows have, or as they can have at most."""
    mean = tokens / rows if tokens and rows else step.length
    if train.max_steps:
        return round(train.max_steps * step.batch_size * step.accumulation * mean)
    return round(train.epochs * rows * mean) if rows else None


def _attention(layer: Layer, dims: ModelDims, step: StepSpec) -> float:
    """Scores and their sums: a causal mask saves none of it in most kernels."""
    return 2.0 * step.length * (dims.queries + dims.attended) if layer.attends else 0.0


def _backward(layer: Layer, dims: ModelDims, step: StepSpec, adapter: list[Lora], reached: int) -> float:
    """A layer's backward: frozen weights give a gradient of their input, behind stage `reached` alone."""
    own = 2.0 * sum(one.products for one in layer.matrices if one.stage > reached)
    if reached <= INTO_ATTENTION:
        factor = EAGER_BACKWARD if step.attention is Attention.eager else ATTENTION_BACKWARD
        own += factor * _attention(layer, dims, step)
    for one in adapter:
        own += 2 * _lora(one, step)
        if one.stage <= reached:
            own -= 2 * one.rank * one.d_in  # nobody asks for the gradient of A's input
        elif one.rebased:
            own += 2 * one.d_in * one.d_out
        if one.stored > 1:  # the gradients of A and B come out of the whole stack's
            own += 2 * dims.by_name[one.name].products
    return own


def _not_again(layer: Layer, adapter: list[Lora], step: StepSpec) -> float:
    """What checkpointing does not compute again, if it is not reentrant: a last product that nobody behind it needs."""
    if layer.normed or layer.routed or layer.dropouts or step.reentrant:
        return 0.0
    adapted = {one.name for one in adapter if one.rank}
    return 2 * sum(one.products for one in layer.matrices if "down" in one.roles and one.name not in adapted)


def _adapted(one: Lora, step: StepSpec) -> float:
    """A LoRA's forward for a token."""
    again = 2 * one.d_in * one.d_out if one.rebased else 0
    norms = 2 * one.rank * one.d_in * (one.d_in + one.d_out) / step.tokens if one.dora else 0
    return _lora(one, step) + again + norms


def _lora(one: Lora, step: StepSpec) -> float:
    """Products by A and B for a token; for a stack of experts, PEFT multiplies A and B themselves, once for all."""
    if one.stored > 1:
        return 2 * one.stored * one.rank * one.d_in * one.d_out / step.tokens
    return 2 * one.rank * (one.d_in + one.d_out)
