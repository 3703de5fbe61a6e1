"""Memory of the tensors that autograd keeps between forward and backward.

A frozen product keeps its weight, which is there anyway, and not its input. So a block with an adapter keeps what its
norms, its attention and its activation function need, and what the adapter was given, in float32.
"""

from __future__ import annotations

from lorascope.config.schema import Attention, Scheme
from lorascope.planning.model_dims import Layer, ModelDims
from lorascope.planning.step_spec import FLOAT32, Lora, MemoryBlock, StepSpec, first_layer, total

# tensors as wide as the FFN that an activation function keeps: 1 where it is one kernel, which keeps its input
KEPT_BY = {"gelu_new": 4, "gelu_fast": 4, "quick_gelu": 2, "relu2": 2}
GATED = 3  # a gated FFN's: the gate, its activation, and the projection that this multiplies


def saved(dims: ModelDims, step: StepSpec, adapter: list[Lora], dropout: float) -> list[MemoryBlock]:
    """What is kept when the backward begins, the logits' share aside."""
    first = first_layer(adapter, dims, step)
    layers = [
        layer_blocks(dims.layers[number], dims, step, [one for one in adapter if one.layer == number], dropout)
        for number in range(first, len(dims.layers))
    ]
    if not layers:
        return []
    stream = step.tokens * dims.hidden
    last_norm = MemoryBlock("norm", stream * FLOAT32)
    if step.checkpointing:  # each layer's input, and one layer at a time that is computed again
        return [MemoryBlock("checkpoint", stream * step.width, len(layers)), *max(layers, key=total), last_norm]
    return [*(block for blocks in layers for block in blocks), last_norm]


def layer_blocks(
    layer: Layer, dims: ModelDims, step: StepSpec, adapter: list[Lora], dropout: float
) -> list[MemoryBlock]:
    """What one layer keeps; the first that is adapted, whose input has no gradient, keeps a little less than this."""
    tokens, width = step.tokens, step.width
    stream, inner = tokens * dims.hidden, tokens * layer.inner * width
    int8 = step.scheme is Scheme.int8  # unlike all others, its product keeps its input
    return [
        *(MemoryBlock("norm", tokens * norm.width * (FLOAT32 if norm.upcast else width)) for norm in layer.norms),
        *(attention_blocks(layer, dims, step) if layer.attends else ()),
        MemoryBlock("ffn", inner, GATED if layer.gated else KEPT_BY.get(dims.activation, 1)),
        # of a mixture, the experts' inputs, and their outputs that the router's weights multiply
        MemoryBlock("experts", stream * layer.routed * width, 2),
        MemoryBlock("dropout", stream * _noise(step, width), layer.dropouts),
        MemoryBlock("int8 input", stream * width, 2 * int8),
        MemoryBlock("int8 input", inner, int8),
        *(block for one in adapter for block in adapter_blocks(one, step, dropout)),
    ]


def attention_blocks(layer: Layer, dims: ModelDims, step: StepSpec) -> list[MemoryBlock]:
    """Queries, keys, values, what comes out, and the probabilities where a kernel writes them."""
    tokens, width = step.tokens, step.width
    square = step.batch_size * dims.heads * step.length**2
    eager, sdpa = step.attention is Attention.eager, step.attention is Attention.sdpa
    masked = sdpa and step.batch_size > 1  # some row is shorter
    # torch's own CPU kernel has no dropout, and one width for keys and values
    written = sdpa and not step.on_cuda and (dims.attention_dropout or dims.key_width != dims.value_width)
    # keys and values are repeated for the heads that share them in eager attention, and where there is a mask
    repeats = (eager or masked) and dims.kv_heads < dims.heads
    heads = dims.heads if repeats else dims.kv_heads
    each = FLOAT32 if written else width
    queries, keys = tokens * dims.queries * each, tokens * heads * dims.key_width * each
    fused = layer.fused_values and not repeats  # a view keeps the whole that it is a part of
    values = tokens * (layer.fused_values * width if fused else heads * dims.value_width * each)
    blocks = [MemoryBlock("values", values)]
    if not fused or dims.rotary or written:
        blocks += [MemoryBlock("queries", queries), MemoryBlock("keys", keys)]
    if eager or written:
        blocks.append(MemoryBlock("probabilities", square * FLOAT32, 3 if written and dims.attention_dropout else 1))
        if eager and width < FLOAT32:
            blocks.append(MemoryBlock("probabilities", square * width))
    else:
        blocks.append(MemoryBlock("attended", tokens * dims.attended * width))
        blocks.append(MemoryBlock("log-sums", tokens * dims.heads * FLOAT32))
    if masked:
        blocks.append(MemoryBlock("mask", tokens * step.length * width))
    return blocks


def adapter_blocks(one: Lora, step: StepSpec, dropout: float) -> list[MemoryBlock]:
    """A's input in float32, the dropout's noise, and B's input."""
    inputs, weight = step.tokens * one.d_in, one.d_in * one.d_out
    in_float32 = step.scheme is Scheme.none and step.width == FLOAT32
    return [
        MemoryBlock("adapter input", inputs * FLOAT32),
        MemoryBlock("adapter rank", step.tokens * one.rank * FLOAT32),
        MemoryBlock("adapter noise", inputs * _noise(step, FLOAT32), dropout > 0),
        # the magnitudes multiply what the base and the adapter give
        MemoryBlock("dora", step.tokens * one.d_out * FLOAT32, 2 * one.dora),
        MemoryBlock("base in float32", weight * FLOAT32, one.rebased and not in_float32),
        # PEFT adds B A to the whole stack, and the backward needs the sum
        MemoryBlock("adapted experts", one.stored * weight * step.width, one.stored > 1),
    ]


def passing(dims: ModelDims, step: StepSpec, adapter: list[Lora]) -> list[MemoryBlock]:
    """What the computation of one layer needs besides, for a moment."""
    tokens, inside = step.tokens, [one for one in adapter if one.layer >= 0]
    inner = max((layer.inner for layer in dims.layers), default=0)
    widest = max((one.d_in for one in inside), default=0)
    square = step.batch_size * dims.heads * step.length**2
    quantized = max((one.d_in * one.d_out for one in step.quantized(dims)), default=0)
    # PEFT multiplies A and B themselves for a stack of experts, and for DoRA's norms with an identity before them
    stack = max((one.stored * one.d_in * one.d_out for one in inside if one.stored > 1 or one.dora), default=0)
    identity = max((one.d_in**2 for one in inside if one.dora), default=0)
    return [
        MemoryBlock("ffn", tokens * inner * step.width, 3),
        MemoryBlock("stream", tokens * dims.hidden * FLOAT32, 2),
        MemoryBlock("adapter input", tokens * widest * FLOAT32, 2),
        MemoryBlock("probabilities", square * FLOAT32, 2 * (step.attention is Attention.eager)),
        MemoryBlock("dequantized weight", quantized * step.width),  # the base's dtype, while it is multiplied
        MemoryBlock("adapter product", stack * FLOAT32, 2),
        MemoryBlock("identity", identity * FLOAT32),
    ]


def _noise(step: StepSpec, width: int) -> int:
    """Bytes of a number that dropout keeps: on CUDA a mask, elsewhere the factors in the input's dtype."""
    return 1 if step.on_cuda else width


# The logits are computed for the columns in which some row has a loss; rows end at different places.
COLUMNS = 2
# TRL's loss on CUDA computes tiles of so many tokens and so many entries of the vocabulary
TILE_TOKENS, TILE_ENTRIES = 4096, 32768


def training_logits(dims: ModelDims, step: StepSpec, adapter: list[Lora]) -> list[MemoryBlock]:
    """At the loss of a batch and the beginning of its backward."""
    losses = step.batch_size * step.supervised
    if step.on_cuda and not any(one.name == dims.head.name for one in adapter):
        tile = min(losses, TILE_TOKENS) * min(dims.head.d_out, TILE_ENTRIES)
        return [MemoryBlock("tile", tile * step.width), MemoryBlock("gradient", losses * dims.hidden * FLOAT32, 2)]
    # log-probabilities and, in the backward, two gradients of them
    chosen = losses * dims.head.d_out * FLOAT32
    return max([MemoryBlock("logits", chosen, 3)], forward_logits(dims, step), key=total)


def forward_logits(dims: ModelDims, step: StepSpec) -> list[MemoryBlock]:
    """Logits of some columns, those with a loss in float32, and their log-probabilities."""
    a_column = step.batch_size * dims.head.d_out
    computed = MemoryBlock("logits", min(step.length, COLUMNS * step.supervised) * a_column * step.width)
    return [computed, MemoryBlock("log-probabilities", step.supervised * a_column * FLOAT32, 2)]
