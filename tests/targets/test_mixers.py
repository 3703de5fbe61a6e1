"""Recurrent mixers: which modules have the role, that they decide what the mixer gives, and nothing before it."""

import inspect
import re
from functools import cache

import pytest
import torch

import architectures
from lorascope.compose import compose
from lorascope.config.schema import ModelConfig, Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import inspect_model, map_modules
from lorascope.targets.roles import is_adaptable_mixer, mixer_of, place_of
from lorascope.targets.weights import weights_of
from small_models import UNBUILDABLE, causal_types, seeing_types, small_model
from targets import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = torch.randint(5, 90, (2, 11), generator=torch.Generator().manual_seed(7))
WITH_MIXERS = (
    "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2",
    "lfm2_moe", "lfm2_vl", "lfm3", "lfm3_vl", "mamba", "mamba2", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "minimax",
    "nemotron_h", "nemotron_h_omni", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen3_next", "qwen4_exp", "qwen4_exp_text", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2",
)  # fmt: skip


@cache
def mapped(kind):
    model = small_model(kind)
    return model, map_modules(model, kind, "here")


def logged(model):
    """What every module gives, in the order in which they end."""
    found = []

    def keep(path):
        def hook(module, args, output):
            tensor = next(
                (one for one in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(one)), None
            )
            found.append((path, None if tensor is None else tensor.clone()))

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    with torch.no_grad():
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    for handle in handles:
        handle.remove()
    return found


def first_layer(modules):
    mixers = modules.of_role("mixer")
    assert mixers
    return [one for one in mixers if one.layer == mixers[0].layer]


@pytest.mark.parametrize("kind", WITH_MIXERS)
def test_a_mixers_projections_decide_what_it_gives_and_nothing_before(kind):
    model, modules = mapped(kind)
    before = logged(model)
    for one in first_layer(modules):
        with oracle.perturbed(model, one.module, one.parameter, None, one.transposed):
            after = logged(model)
        assert [path for path, _ in before] == [path for path, _ in after]
        moved = [path for (path, old), (_, new) in zip(before, after, strict=True)
                 if old is not None and not torch.equal(old, new)]  # fmt: skip
        assert moved[0] == one.module
        assert one.module.rpartition(".")[0] in moved or "mlstm" in one.module


def test_every_type_with_mixers_is_here():
    found = {
        kind
        for kind in (*causal_types(), *seeing_types())
        if kind not in UNBUILDABLE and any(
            (place := place_of(weight.name)) and is_adaptable_mixer(weight, place) and "vision" not in weight.name
            for weight in weights_of(architectures.meta_model(kind))
        )
    }  # fmt: skip
    assert found == set(WITH_MIXERS)


@pytest.mark.parametrize("kind", WITH_MIXERS)
def test_weights_that_a_kernel_reads_past_the_module_have_no_role(kind):
    """By the source of the mixer's class: `self.out_proj.weight` in it means that the module is not always called."""
    model, _ = mapped(kind)
    for weight in weights_of(model):
        place = place_of(weight.name)
        if not place or not mixer_of(weight, place):
            continue
        owner, leaf = model.get_submodule(weight.module.rpartition(".")[0]), weight.module.rpartition(".")[2]
        direct = bool(re.search(rf"self\.{leaf}\.weight", inspect.getsource(type(owner))))
        assert is_adaptable_mixer(weight, place) != direct, weight.name


# by hand: sums of r * (d_in + d_out) at rank 2
def test_the_counts_of_two_hybrids_are_those_by_hand():
    qwen = TargetConfig(name="t", ranks=Ranks(mixer=2))
    qwen.missing = "allow"
    _, modules = mapped("qwen3_next")
    # hidden 32; keys 2 x 8, values 4 x 10; qkvz: 2 * 16 + 2 * 40, ba: 2 * 4, out: 40 -> 32
    assert plan_targets(qwen, modules).trainable_parameters == 2 * ((32 + 112) + (32 + 8) + (40 + 32))
    _, modules = mapped("lfm2")
    # hidden 32, in: 3 x 32, out: 32
    assert plan_targets(qwen, modules).trainable_parameters == 2 * ((32 + 96) + (32 + 32))


def test_all_means_what_it_meant_and_block_holds_the_mixers():
    _, modules = mapped("qwen3_next")
    whole = plan_targets(compose(["target=block", "target.lora_dropout=0"]).target, modules)
    without = plan_targets(
        compose(["target=all_linear", "target.missing=allow", "target.lora_dropout=0"]).target, modules
    )
    mixers = plan_targets(compose(["target=mixer", "target.lora_dropout=0"]).target, modules)
    assert {one.role for one in without.modules}.isdisjoint({"mixer"})
    assert whole.trainable_parameters == without.trainable_parameters + mixers.trainable_parameters


def test_a_budget_is_met_by_mixers_too():
    _, modules = mapped("qwen3_5_text")
    plan = plan_targets(compose(["target=block", "target.budget=9000"]).target, modules)
    assert any(one.role == "mixer" for one in plan.modules)
    assert abs(plan.trainable_parameters - 9000) < 900


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "falcon_mamba"])
def test_a_model_of_mixers_alone_says_how_they_are_placed(kind):
    _, modules = mapped(kind)
    with pytest.raises(PlanError, match=r"has recurrent mixers alone.*\n.*target=mixer"):
        plan_targets(compose(["target=all_linear"]).target, modules)
    assert plan_targets(compose(["target=mixer"]).target, modules).trainable_parameters


def test_what_peft_forbids_is_refused_by_name():
    model = ModelConfig(name="m", path="m", architecture={"model_type": "mamba", "num_hidden_layers": 2})
    target = compose(["target=q_v", "target.ranks={q: null, v: null}", "target.modules={out_proj: 8}"]).target
    with pytest.raises(PlanError, match="out_proj"):
        plan_targets(target, inspect_model(model))
