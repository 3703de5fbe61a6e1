"""What a model's attention does, seen in the arithmetic of a forward pass, without a name of any of its modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
PRODUCTS = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.baddbmm.default: 1}
# reformer writes its softmax as exp(scores - logsumexp(scores))
SOFTMAXES = {aten._softmax.default, aten._safe_softmax.default, aten.exp.default}


@dataclass
class Attention:
    """One softmax attention: what went into its two matrix products and what came out.

    Its tensors end in (positions, size), probabilities in (positions, keys), under the same leading dimensions;
    keys and values are repeated as the model repeats them for groups of heads. A sink is a column more of the
    probabilities. BLOCK is an index into the hooked paths, of the innermost that was running, if one was.
    """

    block: int | None
    queries: Tensor
    keys: Tensor
    probabilities: Tensor
    values: Tensor
    context: Tensor


@dataclass
class Observation:
    """The attentions of one forward pass in the order of their products, its logits, the hooked modules' outputs."""

    attentions: list[Attention]
    logits: Tensor
    outputs: dict[str, Tensor]


@dataclass
class Product:
    """A matrix product whose two operands are computed, not stored."""

    left: Tensor
    right: Tensor
    result: Tensor


@dataclass
class Softmax:
    """A softmax over the result of a product, waiting for the product that its probabilities go into."""

    block: int | None
    scores: Product
    probabilities: Tensor


@dataclass
class Trace(TorchDispatchMode):
    """Follows tensors from product to softmax to product; what a tensor carries, its views and copies carry."""

    stored: set[int]
    running: list[int] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.products: dict[int, list[Product]] = {}
        self.softmaxes: dict[int, list[Softmax]] = {}
        self.kept: list[Any] = []  # a storage that is freed would lend its address to another

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = floats((args, kwargs))
        for output in floats(result):
            self.kept.append(output)
            self.follow(func, args, inputs, output)
        return result

    def follow(self, func: Any, args: tuple, inputs: list[Tensor], output: Tensor) -> None:
        """Give an operation's output what its inputs carry, unless it is a product: there the trail starts anew."""
        place = address(output)
        if func in PRODUCTS:
            first = PRODUCTS[func]
            self.multiply(Product(args[first], args[first + 1], output))
            return
        if inputs and func is not aten.embedding.default and all(address(one) in self.stored for one in inputs):
            self.stored.add(place)
        carried = [product for one in inputs for product in self.products.get(address(one), [])]
        if func in SOFTMAXES and (scores := scores_of(output, carried)) is not None:
            block = self.running[-1] if self.running else None
            self.softmaxes[place] = [Softmax(block, scores, output.detach().clone())]
            return
        merge(self.products, place, carried)
        merge(self.softmaxes, place, [softmax for one in inputs for softmax in self.softmaxes.get(address(one), [])])

    def multiply(self, product: Product) -> None:
        """Note a product of computed operands, and the attention that it ends if one of them is probabilities."""
        if address(product.left) in self.stored or address(product.right) in self.stored:
            return
        self.products[address(product.result)] = [product]
        for softmax in self.softmaxes.get(address(product.left), []):
            keys = softmax.probabilities.shape[-1]
            if product.left.shape[-1] in (keys, keys - 1):
                self.attentions.append(attention(softmax, product))


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def floats(tree: Any) -> list[Tensor]:
    """The tensors of floats in a tree; indices and masks carry nothing on."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def merge(carried: dict[int, list], place: int, more: list) -> None:
    """Add what is not there yet; an operation in place leaves what its tensor carried."""
    if more:
        held = carried.setdefault(place, [])
        held += [one for one in more if not any(one is other for other in held)]


def scores_of(probabilities: Tensor, carried: list[Product]) -> Product | None:
    """The product whose result has a row for each query and a column for each key, give or take a sink."""
    if probabilities.ndim < 3:
        return None
    rows, columns = probabilities.shape[-2:]
    fits = [one for one in carried if one.result.shape[-2] == rows and one.result.shape[-1] in (columns, columns - 1)]
    return fits[0] if fits else None


def attention(softmax: Softmax, product: Product) -> Attention:
    leading = softmax.probabilities.shape[:-2]

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().reshape(*leading, *tensor.shape[-2:])

    return Attention(
        block=softmax.block,
        queries=shaped(softmax.scores.left),
        keys=shaped(softmax.scores.right.mT),
        probabilities=softmax.probabilities,
        values=shaped(product.right),
        context=shaped(product.result),
    )


def observe(model: nn.Module, input_ids: Tensor, hooks: Sequence[str] = ()) -> Observation:
    """Run the model once on INPUT_IDS (batch, positions) and say what was seen, and the outputs of the modules HOOKS.

    A module that gives a tuple counts as its first tensor; one that runs several times, as its last run.
    """
    stored = {address(tensor) for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}
    trace = Trace(stored)
    outputs: dict[str, Tensor] = {}

    def leave(path: str, output: Any) -> None:
        trace.running.pop()
        outputs[path] = floats(output)[0].detach().clone()

    with ExitStack() as stack:
        for index, path in enumerate(hooks):
            module = model.get_submodule(path)
            before = module.register_forward_pre_hook(lambda *_, index=index: trace.running.append(index))
            after = module.register_forward_hook(lambda _, __, output, path=path: leave(path, output))
            stack.callback(before.remove)
            stack.callback(after.remove)
        with torch.no_grad(), trace:
            logits = model(input_ids, use_cache=False).logits
    return Observation(trace.attentions, logits, outputs)


@contextmanager
def perturbed(
    model: nn.Module,
    module: str,
    parameter: str = "weight",
    rows: Sequence[tuple[int, int]] | None = None,
    transposed: bool = False,
    seed: int = 0,
) -> Iterator[None]:
    """The model with noise on output rows of one parameter, of the parameter's own spread; restored bit for bit.

    ROWS are ranges (start, stop) along the output dimension, all of it if None. The output dimension is the last of
    a TRANSPOSED parameter (..., in, out), else the last but one.
    """
    tensor = getattr(model.get_submodule(module), parameter).data
    before = tensor.clone()
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)) * before.std()
    outputs_last = noise if transposed else noise.mT
    touched = torch.zeros(outputs_last.shape[-1])
    for start, stop in rows if rows is not None else [(0, len(touched))]:
        touched[start:stop] = 1.0
    outputs_last *= touched
    tensor += noise
    try:
        yield
    finally:
        tensor.copy_(before)
