"""Every adaptable matrix of a model, and the rows of fused ones that belong to each role.

The layouts were read in transformers' sources and are held against the models' behaviour by a test that knows no names
(tests/targets/test_architectures.py). A type that is not named here keeps its fused modules whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

Spans = tuple[tuple[int, int], ...]  # of rows: from the first of each number pair up to the second

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

    def projection(self, layer: int, role: str, **more: Any) -> Projection:
        """A role that this weight plays: as a whole, where `more` does not give a part's fields."""
        same = ("module", "d_in", "d_out", "parameter", "experts", "transposed", "mirrored")
        fields = {name: getattr(self, name) for name in same} | more
        return Projection(layer=layer, role=role, width=self.d_out, **fields)


@dataclass(frozen=True)
class Projection:
    """One role in one weight of one layer; a fused weight plays several roles, each in rows of its own."""

    layer: int
    role: str
    module: str  # a path inside the model
    d_in: int
    d_out: int | None  # of this role's part; None where a fused module's parts are not known
    fused_with: tuple[str, ...] = ()  # all roles of the weight, this one too
    rows: Spans | None = None  # of this role's part among the weight's output rows; None: all, or not known
    width: int = 0  # output rows of the whole weight
    parameter: str = "weight"
    experts: int = 1  # the weight is a stack of so many
    transposed: bool = False  # stored (…, d_in, d_out)
    mirrored: bool = False  # PEFT takes d_in for d_out
    ordinal: int = 0  # among the weights that play this role in this layer
    source: str = "name"  # how the role was found: name, structure, mapping

    @property
    def name(self) -> str:
        """The path, with an expert stack's parameter behind it."""
        stack = self.experts > 1 or self.parameter not in ("weight", "embedding")
        return f"{self.module}.{self.parameter}" if stack else self.module

    def whole(self) -> Projection:
        """The whole weight of a fused part, its roles joined by '+'."""
        if not self.fused_with:
            return self
        return replace(self, role="+".join(self.fused_with), d_out=self.width, rows=None, ordinal=0)

    def parameters_at(self, rank: int) -> int:
        """LoRA parameters at this rank: r * (d_in + d_out), arXiv:2106.09685, for each expert."""
        assert self.d_out is not None
        return self.experts * rank * (self.d_in + self.d_out)


def base_path(path: str) -> str:
    """Of a module in PEFT's model, the path in its base."""
    return path.removeprefix("base_model.model.").replace(".base_layer", "")


def weights_of(model: Any) -> Iterator[Weight]:
    """The linear modules and expert stacks of a model on any device, in its own order."""
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    for path, module in model.named_modules():
        parts = path.split(".")
        owners = tuple(kinds[".".join(parts[:depth])] for depth in range(len(parts)))
        if shape := linear_shape(module):
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
    kind = type(module).__name__.removeprefix("Parametrized")  # what torch calls one that is quantized
    if "Expert" not in kind:
        return
    shapes = {name: parameter.shape for name, parameter in module.named_parameters(recurse=False)}
    for name, steps in getattr(module, "parametrizations", {}).items():
        if (state := getattr(steps[0], "quant_state", None)) is not None:
            shapes[name] = state.shape  # of what it stands for
    mirrored = kind in UNMARKED
    transposed = mirrored or bool(getattr(module, "is_transposed", False))
    interleaved = not getattr(module, "is_concatenated", True)
    for name, shape in shapes.items():
        if len(shape) == 3 and "bias" not in name:
            d_in, d_out = shape[1:] if transposed else reversed(shape[1:])
            yield Weight(path, d_in, d_out, name, shape[0], transposed, mirrored, interleaved, (*owners, kind))


def quantize_stacks(model: Any, *, double_quant: bool) -> None:
    """Hold stacks of experts in NF4 as well: they are written out one stack at a time, when their module computes."""
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    for stack in [weight for weight in weights_of(model) if weight.experts > 1]:
        module = model.get_submodule(stack.module)
        replace_parameter_4bit(module, stack.parameter, compress_statistics=double_quant, quant_type="nf4")


def number(config: Any, name: str) -> int | None:
    """A whole number of a transformers config; None where it has none, or another in each layer."""
    try:
        value = getattr(config, name, None)
    except RuntimeError:  # transformers' AmbiguousGlobalPerLayerAttributeError
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def head_counts(config: Any) -> tuple[int, int]:
    """Attention's heads and KV heads; 0 where a transformers config does not tell."""
    heads = number(config, "num_attention_heads") or 0
    return heads, number(config, "num_key_value_heads") or heads


def largest(config: Any, name: str, default: Any = None) -> Any:
    """A setting of a transformers config; where each layer has its own, the largest."""
    try:
        return getattr(config, name, default)
    except RuntimeError:  # as above
        return max(getattr(one, name) for one in config.per_layer_config)


def of_layer(config: Any, layer: int) -> Any:
    """The config of one layer, where layers differ."""
    return config.per_layer_config[layer] if getattr(config, "is_heterogeneous", False) else config


# q, k and v one after another
BLOCKS = {"dbrx", "gpt-sw3", "gpt2", "mpt", "openai-gpt", "phi3", "phi4_multimodal"}
# q, k and v of the first head, then of the second
BY_HEAD = {"bloom", "fuyu", "gpt_neox", "gpt_neox_japanese", "persimmon"}
# gate, then up
GATE_FIRST = {
    "glm", "glm4", "glm4v_text", "glm_ocr_text", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "jetmoe",
    "minimax_m3_vl_text", "modernbert-decoder", "moshi", "phi3", "phi4_multimodal", "zamba2",
}  # fmt: skip


def spans_of(roles: tuple[str, ...], d_out: int, config: Any, model_type: str) -> dict[str, Spans] | None:
    """The rows of each role in a fused linear module; None where the layout is not known.

    Args:
        roles: as the tables of names give them: ("q", "k", "v"), ("gate", "up"), ("k", "v"), ("q", "o_gate").
        d_out: rows of the whole module.
        config: the text model's transformers config.
        model_type: its type.
    """
    heads, _ = head_counts(config)
    match roles:
        case ("gate", "up") if model_type in GATE_FIRST:
            return repeated(roles, (d_out // 2, d_out // 2), 1)
        case ("q", "k", "v") if model_type == "codegen":  # four slices, made for four devices, each with v before k
            return repeated(("q", "v", "k"), (d_out // 12,) * 3, 4)
        case ("q", "k", "v") if counts := _kv_heads_and_groups(config, model_type):
            return attention_spans(roles, d_out, heads, *counts)
        case ("k", "v") if model_type == "jetmoe":
            return repeated(roles, (d_out // 2, d_out // 2), 1)
        case ("k", "v"):  # head by head where a latent is expanded (DeepSeek-V2, arXiv:2405.04434)
            keys, values = getattr(config, "qk_nope_head_dim", None), getattr(config, "v_head_dim", None)
            if keys and values and d_out == heads * (keys + values):
                return repeated(roles, (keys, values), heads)
        case ("q", "o_gate") if heads:
            values = getattr(config, "v_head_dim", None) if model_type == "axk2" else d_out // heads // 2
            if values:
                return repeated(roles, (d_out // heads - values, values), heads)
    return None


def _kv_heads_and_groups(config: Any, model_type: str) -> tuple[int, int] | None:
    """KV heads behind a fused q, k, v, and how many times its rows go from q to v; None where it is not known."""
    heads, kv_heads = head_counts(config)
    if model_type == "falcon" and config.new_decoder_architecture:  # each KV head behind the query heads that share it
        return config.num_kv_heads, config.num_kv_heads
    if model_type in ("falcon", "gpt_bigcode"):
        return (1, 1) if config.multi_query else (heads, heads)
    if model_type in BY_HEAD:
        return heads, heads
    if model_type in BLOCKS:
        return (config.attn_config.kv_n_heads if model_type == "dbrx" else kv_heads), 1
    return None


def attention_spans(
    roles: Sequence[str], d_out: int, heads: int, kv_heads: int, groups: int
) -> dict[str, Spans] | None:
    """The rows of q, k and v in a module that holds some of them; None where the heads do not divide its rows.

    Args:
        roles: of q, k and v, in the order of their rows.
        d_out: rows of the whole module.
        heads: of q.
        kv_heads: of k, and of v.
        groups: times that all roles' rows, with as large a share of the heads, stand one after another.
    """
    if not groups or not set(roles) <= {"q", "k", "v"}:
        return None
    share = [(heads if role == "q" else kv_heads) // groups for role in roles]
    total = groups * sum(share)
    if not total or d_out % total:
        return None
    return repeated(roles, [count * (d_out // total) for count in share], groups)


def repeated(roles: Sequence[str], sizes: Sequence[int], times: int) -> dict[str, Spans]:
    """The spans of parts that stand one after another, the whole row of them so many times.

    Example:
        >>> repeated(("q", "k"), (2, 1), 2)
        {'q': ((0, 2), (3, 5)), 'k': ((2, 3), (5, 6))}
    """
    spans: dict[str, list[tuple[int, int]]] = {role: [] for role in roles}
    start = 0
    for _ in range(times):
        for role, size in zip(roles, sizes, strict=True):
            spans[role].append((start, start + size))
            start += size
    return {role: tuple(found) for role, found in spans.items()}
