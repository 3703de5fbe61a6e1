"""A model seen as layers x roles: read from modules with shapes, no weights needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorascope.config import ROLES, ModelConfig
from lorascope.errors import ModelError
from lorascope.models.architecture import build_on_meta, load_architecture
from lorascope.targets.roles import group_of, place_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Projection:
    """One role in one layer. `module` is a path inside the model; a fused module plays several roles."""

    layer: int
    role: str
    module: str
    d_in: int
    d_out: int | None  # of this role's part; None where a fused module's parts are not known
    fused_with: tuple[str, ...] = ()

    def parameters(self, rank: int) -> int:
        """LoRA parameters at this rank: r * (d_in + d_out), arXiv:2106.09685."""
        assert self.d_out is not None
        return rank * (self.d_in + self.d_out)


@dataclass(frozen=True)
class ModuleMap:
    """The blocks of a model, and what surrounds them."""

    name: str
    model_type: str
    origin: str  # where the architecture was read
    layers: int
    hidden: int | None
    intermediate: int | None
    heads: int | None
    kv_heads: int | None
    vocabulary: int | None
    parameters: int  # tied weights count once
    tied_embeddings: bool
    projections: tuple[Projection, ...]
    unmapped: tuple[str, ...]  # linear modules without a role: lm_head, routers, experts

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that some layer has, in the usual order."""
        present = {projection.role for projection in self.projections}
        return tuple(role for role in ROLES if role in present)

    def of_role(self, role: str) -> tuple[Projection, ...]:
        """The role's projections, by layer."""
        return tuple(projection for projection in self.projections if projection.role == role)

    def missing(self, role: str) -> tuple[int, ...]:
        """Layers that lack a role which other layers have."""
        have = {projection.layer for projection in self.of_role(role)}
        return tuple(layer for layer in range(self.layers) if layer not in have)


def inspect_model(model: ModelConfig) -> ModuleMap:
    """The module map of a model, read on the meta device.

    Raises:
        ModelError: when its architecture cannot be had, or no block of it can be read.
    """
    config, origin = load_architecture(model)
    return map_modules(build_on_meta(config), model.path or model.name or config.model_type, origin)


def map_modules(model: Any, name: str, origin: str) -> ModuleMap:
    """The module map of a model that is already built, on any device.

    Raises:
        ModelError: when no linear module of it has a known role.
    """
    config = model.config.get_text_config()
    projections: list[Projection] = []
    unmapped: list[str] = []
    for path, d_in, d_out in linear_modules(model):
        place = place_of(path)
        if place is None:
            unmapped.append(path)
            continue
        parts = _part_sizes(place.roles, d_out, config)
        others = place.roles if len(place.roles) > 1 else ()
        for role, size in zip(place.roles, parts, strict=True):
            projections.append(Projection(place.layer, role, path, d_in, size, others))
    if not projections:
        raise ModelError(
            f"model type '{config.model_type}'",
            f"none of its {len(unmapped)} linear modules has a name that tells its role: {', '.join(unmapped[:4])} …",
            "Models with q_proj, k_proj … or the names of GPT-2, GPT-NeoX, Phi, Falcon are known.",
        )
    order = {role: index for index, role in enumerate(ROLES)}
    projections.sort(key=lambda projection: (projection.layer, order[projection.role]))
    heads = _number(config, "num_attention_heads")
    return ModuleMap(
        name=name,
        model_type=config.model_type,
        origin=origin,
        layers=max(projection.layer for projection in projections) + 1,
        hidden=_number(config, "hidden_size"),
        intermediate=_number(config, "intermediate_size") or _widest(projections),
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads") or heads,
        vocabulary=_number(config, "vocab_size"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tied_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
        projections=tuple(projections),
        unmapped=tuple(unmapped),
    )


def linear_modules(model: Any) -> Iterator[tuple[str, int, int]]:
    """Path, d_in and d_out of each linear module, GPT-2's transposed Conv1D included."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield path, module.in_features, module.out_features
        elif isinstance(module, Conv1D):
            yield path, int(module.nx), int(module.nf)


def _part_sizes(roles: tuple[str, ...], d_out: int, config: PretrainedConfig) -> list[int | None]:
    """Rows of each part of a fused projection; unknown where the sizes do not add up."""
    if len(roles) == 1:
        return [d_out]
    if group_of(roles[0]) == "ffn":
        return [d_out // len(roles)] * len(roles) if d_out % len(roles) == 0 else [None] * len(roles)
    heads = _number(config, "num_attention_heads") or 0
    kv_heads = _number(config, "num_key_value_heads") or heads
    if heads and d_out % (heads + 2 * kv_heads) == 0:
        width = d_out // (heads + 2 * kv_heads)
        return [heads * width, kv_heads * width, kv_heads * width]
    return [None] * len(roles)


def _number(config: PretrainedConfig, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else None


def _widest(projections: list[Projection]) -> int | None:
    ups = [projection.d_out for projection in projections if projection.role == "up" and projection.d_out]
    return max(ups, default=None)
