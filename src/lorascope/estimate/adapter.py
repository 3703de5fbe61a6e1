"""The plan's LoRAs as PEFT builds them, and the first layer that they give a backward pass."""

from __future__ import annotations

from dataclasses import dataclass

from lorascope.estimate.setting import Setting
from lorascope.estimate.shapes import INTO_ATTENTION, Shapes
from lorascope.targets.plan import PlannedModule, TargetPlan


@dataclass(frozen=True)
class Lora:
    """One LoRA: on a weight, or on planned parts of one, with their ranks together; or a trained bias, at rank 0."""

    name: str
    layer: int  # -1 outside the blocks
    stage: int
    d_in: int
    d_out: int  # of the whole weight
    rank: int
    stored: int  # experts
    dora: bool
    rebased: bool  # DoRA with dropout: PEFT multiplies the base's weight, in float32, a second time
    bias: int = 0  # numbers of the bias

    @property
    def tensors(self) -> tuple[int, ...]:
        """Numbers in A and in B, or in the bias."""
        if self.bias:
            return (self.bias,)
        return self.stored * self.rank * self.d_in, self.stored * self.rank * self.d_out


def loras(plan: TargetPlan, shapes: Shapes) -> list[Lora]:
    """The LoRAs of a plan, in its order, and its biases."""
    parts: dict[str, list[PlannedModule]] = {}
    for part in plan.modules:
        parts.setdefault(part.module, []).append(part)
    found = []
    for module, its in parts.items():
        part, weight = its[0], shapes.by_name.get(module)
        found.append(
            Lora(
                name=module,
                layer=part.layer,
                stage=weight.stage if weight else INTO_ATTENTION,
                d_in=part.d_in,
                d_out=weight.d_out if weight else part.d_out,
                rank=sum(one.rank for one in its),
                stored=weight.stored if weight else 1,
                dora=part.dora,
                rebased=part.dora and plan.lora_dropout > 0,
            )
        )
    for term in plan.biases:
        weight = shapes.by_name.get(term.module)
        stage = weight.stage if weight else INTO_ATTENTION
        found.append(Lora(term.module, term.layer, stage, 0, term.size, 0, 1, False, False, term.size))
    return found


def first_layer(adapter: list[Lora], shapes: Shapes, setting: Setting) -> int:
    """The first layer with a backward pass; the number of layers where none has one.

    With reentrant checkpointing it is the first of all: the embeddings' output is then made to require a gradient.
    """
    below = [max(one.layer, 0) for one in adapter if one.name != shapes.head.name]  # the embeddings come before all
    return 0 if setting.checkpointing and setting.reentrant else min(below, default=len(shapes.layers))
