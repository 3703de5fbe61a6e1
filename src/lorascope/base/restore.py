"""Put a shared base model back as it was, and verify every byte of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


AT_ONCE = 2**22  # words of eight bytes


class Seal:
    """What a base was when it was sealed: what every module holds, and a sum over every tensor.

    An adapter, a wrapped forward, a hook, a flag: whatever a library puts on a model while it trains it stands in the
    attributes of its modules, so putting these back takes it all off, whoever put it there. Bytes cannot be put back:
    of these it is only told that they changed.
    """

    def __init__(self, model: Any) -> None:
        # an object, its attributes, and what is in those that are containers
        self._held: list[tuple[Any, dict[str, Any], list[tuple[Any, Any]]]] = []
        for thing in (*model.modules(), *_settings(model)):
            attributes = dict(vars(thing))
            # a hook's handle knows its dictionary, so the same ones are filled again
            inside = [(one, one.copy()) for one in attributes.values() if isinstance(one, dict | set | list)]
            self._held.append((thing, attributes, inside))
        self._weights = [(weight, weight.requires_grad) for weight in model.parameters()]
        self.sums = sums_of(model)

    def put_back(self) -> None:
        """Every module as it was: what it consists of, hooks, attributes, settings; no gradients."""
        for thing, attributes, inside in self._held:
            vars(thing).clear()
            vars(thing).update(attributes)
            for one, before in inside:
                if _items(one) != _items(before):
                    one.clear()
                    one.extend(before) if isinstance(one, list) else one.update(before)
        for weight, trained in self._weights:
            weight.requires_grad_(trained)
            weight.grad = None

    def changed(self, model: Any) -> str:
        """The first tensor that is not what was sealed; nothing where all are."""
        now = sums_of(model)
        return next((name for name in {**now, **self.sums} if now.get(name) != self.sums.get(name)), "")


def _items(one: dict[Any, Any] | set[Any] | list[Any]) -> Any:
    """What tells whether a container holds the very same things; tensors cannot be asked whether they are equal."""
    if isinstance(one, set):
        return one
    return [(key, id(value)) for key, value in (one.items() if isinstance(one, dict) else enumerate(one))]


def _settings(model: Any) -> Iterator[Any]:
    """The model's config, with those inside it, and its generation settings."""
    todo = [model.config, getattr(model, "generation_config", None)]
    while todo:
        one = todo.pop()
        if one is not None:
            yield one
            todo += [value for value in vars(one).values() if type(value).__name__.endswith("Config")]


def sums_of(model: Any) -> dict[str, int]:
    """A sum over the bytes of every tensor, quantization's too; a change of any one byte changes it."""
    return {name: checksum(tensor) for name, tensor in tensors_of(model)}


def tensors_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers, and what bitsandbytes keeps beside a weight."""
    import torch

    yield from model.named_parameters()
    yield from model.named_buffers()
    # an 8-bit module's numbers move from its weight to its state when it computes for the first time
    states = ((f"{name}.state", getattr(module, "state", None)) for name, module in model.named_modules())
    stacks = ((name, one) for name, one in model.named_modules() if type(one).__name__ == "Bnb4bitParametrization")
    for name, weight in (*model.named_parameters(), *states, *stacks):
        for place in ("quant_state", "SCB", "CB"):
            state = getattr(weight, place, None)
            while state is not None:
                held = {place: state} if isinstance(state, torch.Tensor) else vars(state)
                for key, value in held.items():
                    if isinstance(value, torch.Tensor):
                        yield f"{name}.{place}.{key}", value
                state, place = getattr(state, "state2", None), f"{place}.state2"


def checksum(tensor: torch.Tensor) -> int:
    """The sum of its eight-byte words, each times an odd number of its own, modulo 2^64: on the device."""
    import torch

    data = tensor.data.contiguous().view(-1)
    data = data.view(torch.uint8) if data.numel() else torch.empty(0, dtype=torch.uint8)
    words, rest = data[: len(data) // 8 * 8], data[len(data) // 8 * 8 :]
    total = 0
    aligned = words.data_ptr() % 8 == 0 and words.storage_offset() % 8 == 0
    words = (words if aligned else words.clone()).view(torch.int64)
    for start in range(0, len(words), AT_ONCE):
        part = words[start : start + AT_ONCE]
        odd = torch.arange(len(part), device=part.device, dtype=torch.int64) * 2 + (2 * start + 1)
        # times a large odd number, so that neighbours' changes do not cancel each other
        total += int((part * (odd * 0x9E3779B97F4A7C1)).sum().item())
    for place, byte in enumerate(rest.tolist()):
        total += (byte + 1) * (2 * place + 1) * 0x51ED270B
    return total % 2**64
