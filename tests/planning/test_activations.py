"""What autograd is said to keep, against what autograd's own hooks see it keep."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from lorascope.config.schema import Attention, Bias, Dtype
from lorascope.planning.activations import saved
from lorascope.planning.model_dims import survey
from lorascope.planning.step_spec import loras, total
from planning.small import LENGTH, ROWS, adapted, planned, setting, small


def kept_bytes(model: Any, *, padded: bool = True) -> int:
    """Bytes of the tensors that a graph holds after a forward, parameters aside; a storage counts once."""
    import torch

    class Held:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    held: weakref.WeakSet[Held] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> Held:
        one = Held(tensor)
        held.add(one)
        return one

    ids = torch.randint(0, 300, (ROWS if padded else 1, LENGTH))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -4:] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=torch.tensor([3]), use_cache=False).logits
    gc.collect()
    assert logits.requires_grad
    storages = {one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage().nbytes() for one in held}
    return sum(size for pointer, size in storages.items() if pointer not in own)


def compare(kind: str, ranks: dict[str, int], *, checkpointing: bool = False, **changes: Any) -> tuple[float, int]:
    """Bytes as predicted, and as kept."""
    import torch

    attention, dtype = changes.pop("attention", "sdpa"), changes.pop("dtype", "bfloat16")
    rows = changes.pop("rows", ROWS)
    model = small(kind, attention).to(getattr(torch, dtype))
    shapes, plan = survey(model), planned(model, ranks, **changes)
    here = setting(dtype=Dtype(dtype), attention=Attention(attention), batch_size=rows, checkpointing=checkpointing)
    blocks = saved(shapes, here, loras(plan, shapes), plan.lora_dropout)
    return total(blocks), kept_bytes(adapted(model, plan, checkpointing=checkpointing), padded=rows > 1)


@pytest.mark.parametrize(
    ("kind", "ranks", "changes"),
    [
        ("llama", {"q": 8, "v": 8}, {}),
        ("llama", {"q": 8, "v": 8}, {"dtype": "float32"}),
        ("llama", {"q": 8, "v": 8}, {"lora_dropout": 0.0}),
        ("llama", {"q": 8, "v": 8}, {"attention": "eager"}),
        ("llama", {"q": 8, "v": 8}, {"rows": 1}),
        ("llama", {"all": 8}, {}),
        ("llama", {"all": 8}, {"layers": "last_half"}),
        ("llama", {"q": 8, "down": 8}, {"dora": True}),
        ("qwen3", {"q": 8, "v": 8}, {}),
        ("gemma3_text", {"q": 8, "v": 8}, {}),
        ("olmo2", {"attention": 8}, {}),
        ("phi", {"all": 8}, {}),
        ("phi3", {"all": 8}, {}),
        ("gpt2", {"all": 8}, {}),
        ("gpt2", {"all": 8}, {"attention": "eager"}),
        ("gpt2", {"q": 8}, {"bias": Bias.lora_only, "layers": "last_half"}),
        ("gpt2", {"q": 8}, {"bias": Bias.all, "layers": "last_half"}),
        ("phi", {"q": 8}, {"bias": Bias.all, "layers": "last_half"}),
        ("gpt_neox", {"all": 8}, {}),
        ("qwen3_moe", {"attention": 8}, {}),
    ],
    ids=str,
)
def test_autograd_keeps_what_was_predicted(kind, ranks, changes):
    predicted, kept = compare(kind, ranks, **changes)
    # the first of six adapted layers keeps less, since its input has no gradient
    assert predicted == pytest.approx(kept, rel=0.09)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layers", ["all", "last_half"])
def test_checkpointing_keeps_the_layers_inputs_and_one_layer(reentrant, layers):
    import torch

    model = small("llama").to(torch.bfloat16)
    shapes, plan = survey(model), planned(model, {"q": 8, "v": 8}, layers=layers)
    kept = kept_bytes(adapted(model, plan, checkpointing=True, reentrant=reentrant))
    here = setting(dtype=Dtype.bfloat16, checkpointing=True, reentrant=reentrant)
    blocks = saved(shapes, here, loras(plan, shapes), plan.lora_dropout)
    between = [block for block in blocks if block.what == "checkpoint"] + [blocks[-1]]
    assert total(between) == pytest.approx(kept, rel=0.02)
    assert total(blocks) > 1.5 * kept


def test_an_adapter_on_the_head_alone_keeps_no_layer():
    model = small("llama")
    shapes, plan = survey(model), planned(model, {}, modules={"lm_head": 8})
    assert saved(shapes, setting(), loras(plan, shapes), 0.0) == []
