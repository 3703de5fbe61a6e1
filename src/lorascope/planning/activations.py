"""Memory of the tensors that autograd keeps between forward and backward.

A frozen product keeps its weight, which is there anyway, and not its input. So a block with an adapter keeps what its
norms, its attention and its activation function need, and what the adapter was given, in float32.
"""

from __future__ import annotations

from lorascope.config.schema import Attention, Scheme
from lorascope.planning.model_dims import Layer, Shapes
from lorascope.planning.step_spec import FLOAT32, Lora, MemoryBlock, Setting, first_layer, quantized_matrices, total

# tensors as wide as the FFN that an activation function keeps: 1 where it is one kernel, which keeps its input
KEPT_BY = {"gelu_new": 4, "gelu_fast": 4, "quick_gelu": 2, "relu2": 2}
GATED = 3  # a gated FFN's: the gate, its activation, and the projection that this multiplies


def saved(shapes: Shapes, setting: Setting, adapter: list[Lora], dropout: float) -> list[MemoryBlock]:
    """What is kept when the backward begins, the logits' share aside."""
    first = first_layer(adapter, shapes, setting)
    layers = [
        layer_blocks(shapes.layers[number], shapes, setting, [one for one in adapter if one.layer == number], dropout)
        for number in range(first, len(shapes.layers))
    ]
    if not layers:
        return []
    stream = setting.tokens * shapes.hidden
    last_norm = MemoryBlock("norm", stream * FLOAT32)
    if setting.checkpointing:  # each layer's input, and one layer at a time that is computed again
        return [MemoryBlock("checkpoint", stream * setting.width, len(layers)), *max(layers, key=total), last_norm]
    return [*(block for blocks in layers for block in blocks), last_norm]


def layer_blocks(
    layer: Layer, shapes: Shapes, setting: Setting, adapter: list[Lora], dropout: float
) -> list[MemoryBlock]:
    """What one layer keeps; the first that is adapted, whose input has no gradient, keeps a little less than this."""
    tokens, width = setting.tokens, setting.width
    blocks = [MemoryBlock("norm", tokens * norm.width * (FLOAT32 if norm.upcast else width)) for norm in layer.norms]
    if layer.attends:
        blocks += attention_blocks(layer, shapes, setting)
    kept = GATED if layer.gated else KEPT_BY.get(shapes.activation, 1)
    blocks.append(MemoryBlock("ffn", tokens * layer.inner * width, kept))
    # of a mixture, the experts' inputs, and their outputs that the router's weights multiply
    blocks.append(MemoryBlock("experts", tokens * layer.routed * shapes.hidden * width, 2))
    blocks.append(MemoryBlock("dropout", tokens * shapes.hidden * _noise(setting, width), layer.dropouts))
    if setting.scheme is Scheme.int8:  # unlike all others, its product keeps its input
        blocks.append(MemoryBlock("int8 input", tokens * shapes.hidden * width, 2))
        blocks.append(MemoryBlock("int8 input", tokens * layer.inner * width))
    return blocks + [block for one in adapter for block in adapter_blocks(one, setting, dropout)]


def attention_blocks(layer: Layer, shapes: Shapes, setting: Setting) -> list[MemoryBlock]:
    """Queries, keys, values, what comes out, and the probabilities where a kernel writes them."""
    tokens, width = setting.tokens, setting.width
    square = setting.batch_size * shapes.heads * setting.length**2
    eager, sdpa = setting.attention is Attention.eager, setting.attention is Attention.sdpa
    # torch's own CPU kernel has no dropout, and one width for keys and values
    written = sdpa and not setting.on_cuda and (shapes.attention_dropout or shapes.key_width != shapes.value_width)
    # keys and values are repeated for the heads that share them in eager attention, and where there is a mask
    repeats = (eager or (sdpa and setting.padded)) and shapes.kv_heads < shapes.heads
    heads = shapes.heads if repeats else shapes.kv_heads
    each = FLOAT32 if written else width
    queries, keys = tokens * shapes.queries * each, tokens * heads * shapes.key_width * each
    if layer.fused_values and not repeats:  # a view keeps the whole that it is a part of
        values = tokens * layer.fused_values * width
        blocks = [MemoryBlock("queries", queries), MemoryBlock("keys", keys)] if shapes.rotary or written else []
    else:
        values = tokens * heads * shapes.value_width * each
        blocks = [MemoryBlock("queries", queries), MemoryBlock("keys", keys)]
    blocks.append(MemoryBlock("values", values))
    if eager or written:
        blocks.append(MemoryBlock("probabilities", square * FLOAT32, 3 if written and shapes.attention_dropout else 1))
        if eager and width < FLOAT32:
            blocks.append(MemoryBlock("probabilities", square * width))
    else:
        blocks.append(MemoryBlock("attended", tokens * shapes.attended * width))
        blocks.append(MemoryBlock("log-sums", tokens * shapes.heads * FLOAT32))
    if sdpa and setting.padded:
        blocks.append(MemoryBlock("mask", tokens * setting.length * width))
    return blocks


def adapter_blocks(one: Lora, setting: Setting, dropout: float) -> list[MemoryBlock]:
    """A's input in float32, the dropout's noise, and B's input."""
    inputs = setting.tokens * one.d_in
    blocks = [
        MemoryBlock("adapter input", inputs * FLOAT32),
        MemoryBlock("adapter rank", setting.tokens * one.rank * FLOAT32),
    ]
    if dropout:
        blocks.append(MemoryBlock("adapter noise", inputs * _noise(setting, FLOAT32)))
    if one.dora:  # the magnitudes multiply what the base and the adapter give
        blocks.append(MemoryBlock("dora", setting.tokens * one.d_out * FLOAT32, 2))
    if one.rebased and (setting.scheme is not Scheme.none or setting.width < FLOAT32):
        blocks.append(MemoryBlock("base in float32", one.d_in * one.d_out * FLOAT32))
    if one.stored > 1:  # PEFT adds B A to the whole stack, and the backward needs the sum
        blocks.append(MemoryBlock("adapted experts", one.stored * one.d_in * one.d_out * setting.width))
    return blocks


def passing(shapes: Shapes, setting: Setting, adapter: list[Lora]) -> list[MemoryBlock]:
    """What the computation of one layer needs besides, for a moment."""
    tokens, width = setting.tokens, setting.width
    inside = [one for one in adapter if one.layer >= 0]
    blocks = [
        MemoryBlock("ffn", tokens * max((layer.inner for layer in shapes.layers), default=0) * width, 3),
        MemoryBlock("stream", tokens * shapes.hidden * FLOAT32, 2),
        MemoryBlock("adapter input", tokens * max((one.d_in for one in inside), default=0) * FLOAT32, 2),
    ]
    if setting.attention is Attention.eager:
        square = setting.batch_size * shapes.heads * setting.length**2
        blocks.append(MemoryBlock("probabilities", square * FLOAT32, 2))
    if quantized := quantized_matrices(shapes, setting):  # in the base's dtype while it is multiplied
        blocks.append(MemoryBlock("dequantized weight", max(one.d_in * one.d_out for one in quantized) * width))
    # PEFT multiplies A and B themselves for a stack of experts, and for DoRA's norms with an identity before them
    stacks = [one.stored * one.d_in * one.d_out for one in inside if one.stored > 1 or one.dora]
    identities = [one.d_in**2 for one in inside if one.dora]
    return [
        *blocks,
        MemoryBlock("adapter product", max(stacks, default=0) * FLOAT32, 2),
        MemoryBlock("identity", max(identities, default=0) * FLOAT32),
    ]


def _noise(setting: Setting, width: int) -> int:
    """Bytes of a number that dropout keeps: on CUDA a mask, elsewhere the factors in the input's dtype."""
    return 1 if setting.on_cuda else width


# The logits are computed for the columns in which some row has a loss; rows end at different places.
COLUMNS = 2
# TRL's loss on CUDA computes tiles of so many tokens and so many entries of the vocabulary
TILE_TOKENS, TILE_ENTRIES = 4096, 32768


def training_logits(shapes: Shapes, setting: Setting, adapter: list[Lora]) -> list[MemoryBlock]:
    """At the loss and the beginning of its backward."""
    losses = setting.batch_size * setting.supervised
    head_adapted = any(one.name == shapes.head.name for one in adapter)
    if setting.on_cuda and not head_adapted:
        tile = min(losses, TILE_TOKENS) * min(shapes.head.d_out, TILE_ENTRIES)
        return [MemoryBlock("tile", tile * setting.width), MemoryBlock("gradient", losses * shapes.hidden * FLOAT32, 2)]
    # log-probabilities and, in the backward, two gradients of them
    chosen = losses * shapes.head.d_out * FLOAT32
    return max([MemoryBlock("logits", chosen, 3)], _forward(shapes, setting, setting.batch_size), key=total)


def evaluation_logits(shapes: Shapes, setting: Setting) -> list[MemoryBlock]:
    """At the loss of an evaluation's largest batch."""
    return _forward(shapes, setting, evaluated_rows(setting))


def evaluated_rows(setting: Setting) -> int:
    """Rows of an evaluation's largest batch."""
    return max(1, setting.evaluated // setting.length)


def _forward(shapes: Shapes, setting: Setting, rows: int) -> list[MemoryBlock]:
    """Logits of some columns, those with a loss in float32, and their log-probabilities."""
    columns = min(setting.length, COLUMNS * setting.supervised)
    chosen = rows * setting.supervised * shapes.head.d_out
    computed = MemoryBlock("logits", rows * columns * shapes.head.d_out * setting.width)
    return [computed, MemoryBlock("log-probabilities", chosen * FLOAT32, 2)]
