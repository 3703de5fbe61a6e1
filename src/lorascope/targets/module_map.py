"""A model as layers x roles, read on the meta device without weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorascope.base.architecture import build_on_meta, load_architecture, model_class
from lorascope.base.checkpoint import check_checkpoint
from lorascope.config.schema import ROLES, Bias, ModelConfig
from lorascope.errors import ModelError
from lorascope.targets.role_inference import read_blocks
from lorascope.targets.roles import CAUSAL_BY, FUTURE, UNTRAINABLE
from lorascope.targets.weights import Projection, Spans, head_counts, number, weights_of


class BiasTerm(NamedTuple):
    """A bias of the model."""

    module: str  # a path inside the model
    layer: int  # -1 outside the blocks
    size: int
    rows: Spans | None = None  # those that are trained; None: all

    @property
    def parameters(self) -> int:
        """How many of its numbers are trained."""
        return self.size if self.rows is None else sum(stop - start for start, stop in self.rows)


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
    unmapped: tuple[str, ...]  # linear modules without a role: lm_head, routers, mixers
    named: tuple[Projection, ...] = ()  # these and the embeddings, for who names them; role: the leaf's name
    biases: tuple[BiasTerm, ...] = ()  # what PEFT takes for one: every parameter called bias

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

    def trained_biases(self, bias: Bias, adapted: Iterable[Projection]) -> tuple[BiasTerm, ...]:
        """The biases that PEFT trains for `target.bias`, with the rows of them that may move.

        Args:
            bias: `all` means every parameter called bias, `lora_only` those of adapted modules. Of a fused module that
                is adapted by parts, `lora_only` means the parts' rows alone.
            adapted: the projections that get an adapter.
        """
        if bias is not Bias.lora_only:
            return self.biases if bias is Bias.all else ()
        rows: dict[str, list[Spans | None]] = {}
        for one in adapted:
            rows.setdefault(one.module, []).append(one.rows)
        found = []
        for term in self.biases:
            if parts := rows.get(term.module):
                spans = None if None in parts else tuple(sorted({span for part in parts for span in part or ()}))
                found.append(term._replace(rows=spans))
        return tuple(found)


def inspect_model(model: ModelConfig) -> ModuleMap:
    """The module map of a model, read on the meta device.

    Raises:
        ModelError: when its architecture cannot be had, or no adapter can be trained on its type.
    """
    return read_model(model)[0]


def read_model(model: ModelConfig) -> tuple[ModuleMap, Any]:
    """The module map of a model, and the model itself: on the meta device, shapes without weights.

    Raises:
        ModelError: when its architecture cannot be had, or no adapter can be trained on its type.
    """
    config, origin = load_architecture(model)
    check_checkpoint(config, f"model.path={model.path}")
    built = build_on_meta(config, trust_remote_code=model.trust_remote_code)
    return map_modules(built, model.path or model.name or config.model_type, origin, model.roles), built


def map_modules(model: Any, name: str, origin: str, mapping: dict[str, str] | None = None) -> ModuleMap:
    """The module map of a model that is already built, on any device.

    Args:
        model: of transformers.
        name: what to call it in messages.
        origin: where it was read, likewise.
        mapping: `model.roles`: roles of modules whose names tell nothing.

    Raises:
        ModelError: for a type that no adapter can be trained on, or a mapping that names what is not there.
    """
    config = model.config.get_text_config()
    weights = list(weights_of(model))
    tower = _language_tower(model)
    reading = read_blocks([one for one in weights if one.name.startswith(tower)], model, mapping or {})
    _check_trainable(model)
    roles = {one.name: one.role for one in reading.projections}
    heads, kv_heads = head_counts(config)
    ups = [one.d_out for one in reading.projections if one.role == "up" and one.d_out]
    return ModuleMap(
        name=name,
        model_type=config.model_type,
        origin=origin,
        layers=reading.layers,
        hidden=number(config, "hidden_size"),
        intermediate=number(config, "intermediate_size") or max(ups, default=None),
        heads=heads or None,
        kv_heads=kv_heads or None,
        vocabulary=number(config, "vocab_size"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tied_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
        projections=reading.projections,
        unmapped=tuple(weight.name for weight in weights if weight.name not in roles),
        named=(
            *(
                weight.projection(reading.layer_of(weight.name), weight.name.rpartition(".")[2])
                for weight in weights
                if roles.get(weight.name, "mixer") == "mixer"  # mixers may be named too
            ),
            *_embeddings(model),
        ),
        biases=tuple(
            BiasTerm(name.rpartition(".")[0], reading.layer_of(name), parameter.numel())
            for name, parameter in model.named_parameters()
            if name.rpartition(".")[2] == "bias"
        ),
    )


def _check_trainable(model: Any) -> None:
    """Raise a ModelError for a type whose loss says nothing, or that no adapter can be trained on."""
    config = model.config.get_text_config()
    setting = CAUSAL_BY.get(str(config.model_type))
    for kind in (str(config.model_type), str(model.config.model_type)):
        if setting and not getattr(config, setting):
            remedy = f"It is causal only with {setting}=true in config.json."
            raise ModelError(f"model type '{kind}'", f"{FUTURE}.", remedy)
        if reason := UNTRAINABLE.get(kind):
            raise ModelError(f"model type '{kind}'", f"{reason}.", "Take another model.")


def _language_tower(model: Any) -> str:
    """Where the language model of a model that also sees stands, as the beginning of its weights' names."""
    if model_class(model.config).__name__ == "AutoModelForCausalLM":
        return ""
    decoder = model.get_decoder()
    return next((f"{path}." for path, module in model.named_modules() if module is decoder and path), "")


def _embeddings(model: Any) -> list[Projection]:
    """The table of token embeddings: PEFT's A is as wide as the vocabulary there."""
    table = model.get_input_embeddings()
    for path, module in model.named_modules():
        if module is table and hasattr(module, "num_embeddings"):
            d_in, d_out = module.num_embeddings, module.embedding_dim
            leaf = path.rpartition(".")[2]
            return [Projection(-1, leaf, path, d_in, d_out, width=d_out, parameter="embedding")]
    return []
