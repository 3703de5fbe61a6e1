"""The sizes of a model's blocks that memory and compute follow from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lorascope.compat import attention_of, unquantized_modules
from lorascope.config.schema import Attention
from lorascope.errors import PlanError
from lorascope.targets.module_map import ModuleMap, map_modules
from lorascope.targets.roles import FFN_PLACE, place_of
from lorascope.targets.weights import largest, weights_of

INTO_ATTENTION, OUT_OF_ATTENTION, INTO_FFN, OUT_OF_FFN = range(4)  # the order in which a block computes


@dataclass(frozen=True)
class Matrix:
    """A frozen weight that a product reads, or a stack of experts' weights."""

    name: str  # the path, an expert stack's parameter behind it
    layer: int  # -1 outside the blocks
    roles: tuple[str, ...]
    stage: int
    d_in: int
    d_out: int
    stored: int = 1  # experts in the stack
    active: float = 1  # of them, those that a token passes through
    quantized: bool = False  # where the base is

    @property
    def parameters(self) -> int:
        """Numbers in the weight."""
        return self.stored * self.d_in * self.d_out

    @property
    def products(self) -> float:
        """Multiplications for a token."""
        return self.active * self.d_in * self.d_out


@dataclass(frozen=True)
class Norm:
    """A normalisation: numbers a token, and whether it computes in float32 whatever the base's dtype."""

    width: int
    upcast: bool


@dataclass(frozen=True)
class Layer:
    """One block."""

    matrices: tuple[Matrix, ...]
    norms: tuple[Norm, ...]
    dropouts: int  # of the residual stream
    normed: bool  # whether a norm stands behind its FFN

    @cached_property
    def attends(self) -> bool:
        """Whether it has a softmax attention."""
        return any("q" in matrix.roles for matrix in self.matrices)

    @cached_property
    def fused_values(self) -> int:
        """Width of the module that makes the values together with something else; 0 where they stand alone."""
        return max((one.d_out for one in self.matrices if "v" in one.roles and len(one.roles) > 1), default=0)

    @cached_property
    def inner(self) -> int:
        """Width of the FFN, over all the experts that a token passes through."""
        return round(sum(one.active * one.d_in for one in self.matrices if "down" in one.roles))

    @cached_property
    def routed(self) -> float:
        """Experts of a mixture that a token passes through; 0 where there is none."""
        return max((one.active for one in self.matrices if "down" in one.roles and one.stored > 1), default=0)

    @cached_property
    def gated(self) -> bool:
        """Whether the FFN multiplies two projections."""
        return any("gate" in one.roles for one in self.matrices)


@dataclass(frozen=True)
class ModelDims:
    """A model in numbers."""

    hidden: int
    heads: int
    kv_heads: int
    key_width: int  # of a head
    value_width: int  # of a head
    activation: str  # as the model's config names it
    attention_dropout: float
    rotary: bool
    layers: tuple[Layer, ...]
    outside: tuple[Matrix, ...]  # products outside the blocks, the head aside
    head: Matrix  # hidden to vocabulary
    parameters: int  # tied weights count once
    buffer_bytes: int
    checkpoint_width: int  # bytes of a number in the weights' files
    eager: bool  # its attention is eager, whatever is asked for

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        """Every product's weight."""
        return (*(one for layer in self.layers for one in layer.matrices), *self.outside, self.head)

    @cached_property
    def by_name(self) -> dict[str, Matrix]:
        """Every product's weight by its path."""
        return {matrix.name: matrix for matrix in self.matrices}

    @property
    def queries(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.key_width

    @property
    def attended(self) -> int:
        """Width of what attention gives, over all heads."""
        return self.heads * self.value_width


STAGES = {"o": OUT_OF_ATTENTION, "gate": INTO_FFN, "up": INTO_FFN, "down": OUT_OF_FFN}
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_k")
ATTENTION_DROPOUT = re.compile(r"att(ention|n)_dropout$")
BEHIND_FFN = re.compile(r"post_(feedforward|mlp|ffn)")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")


def survey(model: Any) -> ModelDims:
    """The dimensions of a transformers model, as `build_on_meta` gives it."""
    config = model.config.get_text_config()
    modules = map_modules(model, str(config.model_type), "")
    matrices = _matrices(model, modules, _first(config, *ACTIVE))
    output, table = model.get_output_embeddings(), model.get_input_embeddings().weight
    head_name = next((path for path, module in model.named_modules() if module is output), "")
    head = next((one for one in matrices if one.name == head_name), None)
    hidden = _first(config, "hidden_size", "d_model", "n_embd") or int(table.shape[1])
    heads = _first(config, "num_attention_heads", "n_head") or 1
    kv_heads = 1 if getattr(config, "multi_query", False) else _first(config, *KEY_VALUE_HEADS) or heads
    head_width = _first(config, "head_dim") or hidden // heads
    names = ("hidden_activation", "hidden_act", "activation_function", "ffn_config")
    activations = (getattr(config, name, None) for name in names)
    return ModelDims(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        key_width=_first(config, "qk_head_dim") or head_width,
        value_width=_first(config, "v_head_dim") or head_width,
        activation=next((name for name in activations if isinstance(name, str)), "gelu"),
        attention_dropout=float(largest(config, "attention_dropout") or largest(config, "attn_pdrop") or 0),
        rotary=any("rotary" in path for path, _ in model.named_modules()),
        layers=_layers(model, modules, matrices, hidden, {"q": heads, "k": kv_heads}, head_width),
        outside=tuple(one for one in matrices if one.layer < 0 and one is not head),
        head=head or Matrix(head_name, -1, (), OUT_OF_FFN, hidden, int(table.shape[0])),
        parameters=modules.parameters,
        buffer_bytes=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
        checkpoint_width=4 if "float32" in str(config.dtype) else 2,  # a preset does not say: 2, as most are
        eager=attention_of(model) == Attention.eager,
    )


def _matrices(model: Any, modules: ModuleMap, active: int | None) -> list[Matrix]:
    """Every weight of a product, with layer, roles and stage."""
    roles: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in modules.projections:
        roles[one.module, one.parameter].append(one.role)
    layers = {(one.module, one.parameter): one.layer for one in (*modules.projections, *modules.named)}
    converted = converted_modules(model)
    return [
        Matrix(
            name=weight.name,
            layer=layers.get((weight.module, weight.parameter), -1),
            roles=(its := tuple(roles[weight.module, weight.parameter])),
            stage=_stage(weight.name, its),
            d_in=weight.d_in,
            d_out=weight.d_out,
            stored=weight.experts,
            active=min(active or weight.experts, weight.experts),
            quantized=weight.module in converted,
        )
        for weight in weights_of(model)
    ]


def converted_modules(model: Any) -> set[str]:
    """The modules that bitsandbytes takes the place of, by transformers' own rules.

    Linear modules and GPT-2's Conv1D; the head, what is tied to the embeddings and expert stacks stay as they are.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = unquantized_modules(model)
    return {
        path
        for path, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(path, kept)
    }


def _layers(
    model: Any, modules: ModuleMap, matrices: list[Matrix], hidden: int, heads: dict[str, int], head_width: int
) -> tuple[Layer, ...]:
    """The blocks: a norm or dropout belongs to the block whose weights share its list and number."""
    numbers = {
        (place.stem, place.number): one.layer
        for one in matrices
        if one.layer >= 0 and (place := place_of(one.name)) is not None
    }
    by_layer: defaultdict[int, list[Matrix]] = defaultdict(list)
    for one in matrices:
        by_layer[one.layer].append(one)
    norms: defaultdict[int, list[Norm]] = defaultdict(list)
    dropouts: Counter[int] = Counter()
    normed: set[int] = set()
    for path, module in model.named_modules():
        place = place_of(path)
        number = numbers.get((place.stem, place.number)) if place else None
        if place is None or number is None:
            continue
        if "norm" in type(module).__name__.lower():
            norms[number].append(_norm(place.inside, module, hidden, heads, head_width))
            normed |= {number} if BEHIND_FFN.search(place.inside) else set()
        elif type(module).__name__ == "Dropout" and module.p and not ATTENTION_DROPOUT.search(path):
            dropouts[number] += 1
    return tuple(
        Layer(tuple(by_layer[number]), tuple(norms[number]), dropouts[number], number in normed)
        for number in range(modules.layers)
    )


def _norm(path: str, module: Any, hidden: int, heads: dict[str, int], head_width: int) -> Norm:
    """A norm's numbers a token: one as wide as a head is computed for every head of its kind."""
    from torch import nn

    weight = getattr(module, "weight", None)
    width = int(weight.numel()) if weight is not None else hidden
    kind = path.rpartition(".")[2][0]
    if width == head_width and kind in heads:
        width *= heads[kind]
    return Norm(width, upcast=not isinstance(module, nn.LayerNorm | nn.RMSNorm))


def _stage(name: str, roles: tuple[str, ...]) -> int:
    """When a block computes it; a router goes with what it routes."""
    if roles:
        return max(STAGES.get(role, INTO_ATTENTION) for role in roles)
    place = place_of(name)
    return INTO_FFN if place and FFN_PLACE.search(place.inside) else INTO_ATTENTION


def _first(config: Any, *names: str) -> int | None:
    """The first of these settings that is a number above 0."""
    values = (largest(config, name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


OF_OTHER_SENSES = re.compile(r"vision|visual|image|audio")


def learned_positions(model: Any) -> int | None:
    """How many positions a model has a vector for; None where positions are computed."""
    import torch

    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        table = isinstance(module, torch.nn.Embedding) and not OF_OTHER_SENSES.search(name)
        if table and ("position" in leaf or leaf == "wpe"):
            return int(module.num_embeddings - getattr(module, "offset", 0))  # OPT and its kin count from 2
    return None


def check_positions(model: Any, longest: int | None, max_length: int) -> None:
    """Refuse rows that are longer than the positions that a model has learned.

    Args:
        longest: tokens of the longest row; None where it is not known.
        max_length: `train.max_length`, at which rows are cut.

    Raises:
        PlanError: with the length that fits.
    """
    known = learned_positions(model)
    if known is not None and longest is not None and min(longest, max_length) > known:
        raise PlanError(
            "train.max_length",
            f"must be <= {known}, the positions that this model has (got {max_length}; the longest row has {longest} "
            "tokens).",
            f"Cut rows there: train.max_length={known}",
        )
