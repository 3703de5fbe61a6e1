"""A way around a model's lower layers: blocks and hidden states come in; inside a context, the states come out of them.

Nothing stays on the model behind the context: evaluation, saving and the next run see every layer as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lorascope.training.states import States

if TYPE_CHECKING:
    import torch


class Reuse:
    """The way around a model's lower layers.

    Args:
        layers: the model's blocks, in order.
        first: of them, the first that is adapted.
        outputs: for each block below, how many values it returns; 0 for a plain tensor.
        states: of the rows, as `first` is given them.
    """

    def __init__(self, layers: Sequence[Any], first: int, outputs: Sequence[int], states: States) -> None:
        self.layers, self.first, self.outputs, self.states = layers, first, outputs, states

    @contextmanager
    def of(self, inputs: dict[str, Any]) -> Iterator[bool]:
        """Inside, this batch goes around the lower layers; told is whether it does, for rows that are known."""
        known = self.states.batch(inputs["input_ids"], inputs["attention_mask"])
        if known is None:
            yield False
            return
        with around(self.layers, self.first, self.outputs, known):
            yield True


@contextmanager
def around(layers: Sequence[Any], first: int, outputs: Sequence[int], states: torch.Tensor) -> Iterator[None]:
    """Inside, blocks below `first` pass on what they get, and `first` gets `states`."""
    before = [vars(layer).get("forward") for layer in layers[:first]]
    hook = layers[first].register_forward_pre_hook(
        lambda module, args, kwargs: _with_states(args, kwargs, states), with_kwargs=True
    )
    for layer, values in zip(layers[:first], outputs, strict=True):
        layer.forward = _passing_on(values)
    try:
        yield
    finally:
        hook.remove()
        for layer, forward in zip(layers[:first], before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _passing_on(values: int) -> Any:
    """A block's forward that computes nothing, and returns as many values as the block does."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        states = _states_of(args, kwargs)
        return (states, *[None] * (values - 1)) if values else states

    return forward


def _states_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def _with_states(args: tuple[Any, ...], kwargs: dict[str, Any], states: torch.Tensor) -> Any:
    return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})


class Seen:
    """Which blocks were called, what the first adapted one got, how many values those below returned."""

    def __init__(self, below: int) -> None:
        self.calls: list[int] = []
        self.states: torch.Tensor | None = None
        self.outputs: list[Any] = [None] * below


class Stopped(Exception):  # noqa: N818
    """The first adapted layer was reached, and nothing above it is wanted."""


@contextmanager
def watched(layers: Sequence[Any], first: int, *, stop: bool = False) -> Iterator[Seen]:
    """Inside, what blocks get and return is seen; with `stop` the computation ends before the first adapted one."""
    import torch

    seen = Seen(first)

    def before(number: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.calls.append(number)
            if number == first:
                given = _states_of(args, kwargs) if args or "hidden_states" in kwargs else None
                seen.states = given.detach().clone() if isinstance(given, torch.Tensor) else None
                if stop:
                    raise Stopped

        return hook

    def after(number: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen.outputs[number] = 0
            elif isinstance(output, tuple):
                seen.outputs[number] = len(output)

        return hook

    hooks = [layer.register_forward_pre_hook(before(number), with_kwargs=True) for number, layer in enumerate(layers)]
    hooks += [layer.register_forward_hook(after(number)) for number, layer in enumerate(layers[:first])]
    try:
        yield seen
    except Stopped:
        pass
    finally:
        for hook in hooks:
            hook.remove()
