"""Predicted operations against torch's own counter of them, which sees every product that is done."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lorascope.base.architecture import build_on_meta, load_architecture
from lorascope.compose import compose
from lorascope.config.schema import Attention, Bias, Device
from lorascope.planning.compute import ComputeEstimate, estimate_compute, run_tokens
from lorascope.planning.model_dims import survey
from lorascope.planning.step_spec import step_spec_of
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from planning.small import LENGTH, ROWS, adapted, planned, setting, small

TOKENS = ROWS * LENGTH


def counted(model: Any) -> tuple[int, int]:
    """Operations of a forward and its backward, in which every token has a loss."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with forward:
        loss = model(input_ids=torch.randint(0, 300, (ROWS, LENGTH)), use_cache=False).logits.logsumexp(-1).sum()
    with backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def predicted(model: Any, plan: Any, **changes: Any) -> ComputeEstimate:
    # torch counts no product inside its CPU attention, so attention is eager here
    return estimate_compute(setting(attention=Attention.eager, **changes), survey(model), plan)


@pytest.mark.parametrize(
    ("kind", "ranks", "changes"),
    [
        ("llama", {"q": 8, "v": 8}, {}),
        ("llama", {"o": 8}, {}),
        ("llama", {"ffn": 8}, {}),
        ("llama", {"down": 8}, {}),
        ("llama", {"all": 8}, {"layers": "last_half"}),
        ("llama", {}, {"modules": {"lm_head": 8}}),
        ("llama", {}, {"modules": {"embed_tokens": 8}}),
        ("llama", {"q": 8, "v": 8}, {"checkpointing": True}),
        ("llama", {"down": 8}, {"checkpointing": True}),
        ("llama", {"all": 8}, {"checkpointing": True, "layers": "last_half"}),
        ("llama", {"all": 8}, {"checkpointing": True, "layers": "last_half", "reentrant": True}),
        ("gemma3_text", {"q": 8, "v": 8}, {"checkpointing": True}),
        ("olmo2", {"q": 8, "v": 8}, {"checkpointing": True}),
        ("llama", {"q": 8, "down": 8}, {"dora": True}),
        ("gpt2", {"ffn": 8}, {}),
        ("gpt2", {"ffn": 8}, {"checkpointing": True}),
        ("gpt2", {"q": 8}, {"bias": Bias.lora_only, "checkpointing": True}),
        ("gpt2", {"q": 8}, {"bias": Bias.all, "layers": "last_half"}),
        ("phi", {"down": 8}, {"bias": Bias.all, "checkpointing": True}),
        ("gpt_neox", {"ffn": 8}, {}),
        ("qwen3", {"q": 8}, {}),
        ("mixtral", {"attention": 8}, {}),
        ("qwen3_moe", {"attention": 8}, {"checkpointing": True}),
    ],
    ids=str,
)
def test_operations_are_those_that_torch_counts(kind, ranks, changes):
    kept = {name: changes.get(name, False) for name in ("checkpointing", "reentrant")}
    changes = {name: value for name, value in changes.items() if name not in kept}
    model = small(kind, "eager")
    plan = planned(model, ranks, **changes)
    estimate = predicted(model, plan, **kept)
    forward, backward = counted(adapted(model, plan, **kept))
    assert estimate.forward * TOKENS == pytest.approx(forward, rel=0.01)
    assert estimate.backward * TOKENS == pytest.approx(backward, rel=0.02)


def test_a_head_counts_where_there_is_a_loss():
    model = small("llama", "eager")
    plan = planned(model, {"q": 8})
    all_of_it, none = predicted(model, plan), predicted(model, plan, supervised=0)
    assert all_of_it.forward - none.forward == 2 * 96 * 300


def test_on_cuda_the_heads_products_are_done_once_more():
    model = small("llama", "eager")
    plan = planned(model, {"q": 8})
    here, there = predicted(model, plan), predicted(model, plan, device=Device.cuda)
    assert there.backward - here.backward == 2 * 96 * 300


def test_a_run_is_its_steps_or_its_rows():
    train = compose([]).train
    here = setting(batch_size=8, accumulation=2, length=512)
    assert run_tokens(dataclasses.replace(train, max_steps=10), here, None, None) == 10 * 8 * 2 * 512
    assert run_tokens(dataclasses.replace(train, max_steps=10), here, 100, 4000) == 10 * 8 * 2 * 40
    assert run_tokens(dataclasses.replace(train, epochs=2.0), here, 100, 4000) == 8000
    assert run_tokens(train, here, None, None) is None


def test_mistral_costs_about_six_operations_a_parameter_with_checkpointing():
    config = compose(["model=mistral7b", "train.max_steps=10"])
    model = build_on_meta(load_architecture(config.model)[0])
    plan = plan_targets(config.target, map_modules(model, "mistral", ""))
    step = step_spec_of(config, device=Device.cuda)
    estimate = estimate_compute(step, survey(model), plan, run_tokens(config.train, step, None, None))
    # forward 2, gradients of inputs 2, the forward again 2 for each of 7.1 G numbers in products, and attention
    assert estimate.total / 7.11e9 == pytest.approx(6, rel=0.1)
    assert estimate.step_tokens == 8 * 512
    assert estimate.run == estimate.step * 10
