import dataclasses
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from helpers import make_model
from lorascope.config.schema import Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.adapter_parts import initial_a
from lorascope.targets.attach import adapted_modules, attach, lora_config
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.targets.weights import weights_of

QV_FFN = TargetConfig(name="qv_ffn", ranks=Ranks(q=8, v=8, ffn=4))
Q_V = TargetConfig(name="q_v", ranks=Ranks(q=8, v=8))


def planned(strategy: TargetConfig, model=None):
    return plan_targets(strategy, map_modules(model or make_model(), "tiny", "here"))


def attached(strategy: TargetConfig, seed: int = 0):
    model = make_model()
    return attach(model, planned(strategy, model), seed)


def test_qv_ffn_trains_exactly_its_planned_modules():
    model = attached(QV_FFN)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {
        f"base_model.model.model.layers.{layer}.{module}.lora_{side}.default.weight"
        for layer in range(2)
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        for side in "AB"
    }
    assert trained == expected
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == planned(QV_FFN).trainable_parameters


def test_the_count_agrees_with_peft_given_the_same_modules():
    peft = get_peft_model(
        make_model(),
        LoraConfig(
            r=8,
            target_modules=["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
            rank_pattern={"gate_proj": 4, "up_proj": 4, "down_proj": 4},
        ),
    )
    assert peft.get_nb_trainable_parameters()[0] == planned(QV_FFN).trainable_parameters


@pytest.mark.parametrize("policy", ["constant", "proportional", "rslora"])
def test_the_scale_of_every_module_is_the_planned_one(policy):
    strategy = dataclasses.replace(QV_FFN, alpha_policy=type(QV_FFN.alpha_policy)(policy))
    model = attached(strategy)
    scales = {p.module: p.scale for p in planned(strategy).modules}
    assert {path: layer.scaling["default"] for path, layer in adapted_modules(model).items()} == pytest.approx(scales)


def test_modules_that_two_strategies_share_start_alike():
    one, other = adapted_modules(attached(Q_V)), adapted_modules(attached(QV_FFN))
    for path, layer in one.items():
        assert torch.equal(layer.lora_A["default"].weight, other[path].lora_A["default"].weight)
        assert not layer.lora_B["default"].weight.any()


def test_rank_4_is_a_prefix_of_rank_8():
    assert torch.equal(initial_a(3, 1, "q", 4, 64), initial_a(3, 1, "q", 8, 64)[:4])


def test_seed_layer_and_role_each_change_the_start():
    start = initial_a(0, 0, "q", 8, 64)
    for other in (initial_a(1, 0, "q", 8, 64), initial_a(0, 1, "q", 8, 64), initial_a(0, 0, "v", 8, 64)):
        assert not torch.equal(start, other)


def test_the_start_has_pefts_distribution():
    d_in = 4096
    values = initial_a(0, 0, "q", 64, d_in)
    bound = math.sqrt(6 / ((1 + 5) * d_in))  # kaiming_uniform_(a=sqrt(5)), as peft's reset_lora_parameters
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert values.mean().item() == pytest.approx(0, abs=bound / 100)


def test_an_untouched_adapter_changes_nothing():
    ids = torch.arange(20)[None]
    base = make_model().eval()
    with torch.no_grad():
        expected = base(ids).logits
        assert torch.equal(attached(QV_FFN).eval()(ids).logits, expected)


def test_a_plan_for_other_shapes_is_refused():
    plan = planned(Q_V)
    with pytest.raises(PlanError, match="differs from its plan in 4 modules"):
        attach(make_model(hidden_size=48, num_attention_heads=4), plan, 0)


def test_a_plan_with_a_module_that_the_base_lacks_is_refused():
    plan = planned(Q_V)
    ghost = dataclasses.replace(plan.modules[0], module="model.layers.9.self_attn.q_proj")
    with pytest.raises(PlanError, match="built nothing"):
        attach(make_model(), dataclasses.replace(plan, modules=(*plan.modules, ghost)), 0)


def test_the_adapter_config_is_short_where_leaf_names_say_it_all():
    config = lora_config(planned(QV_FFN), [weight.name for weight in weights_of(make_model())])
    assert set(config.target_modules) == {"q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_strategy_on_some_layers_names_them_in_full():
    plan = planned(Q_V)
    some = dataclasses.replace(plan, modules=tuple(m for m in plan.modules if m.layer == 1))
    model = attach(make_model(), some, 0)
    assert set(adapted_modules(model)) == {"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}


def test_a_saved_adapter_loads_in_plain_peft(tmp_path):
    ids = torch.arange(20)[None]
    model = attached(QV_FFN).eval()
    with torch.no_grad():
        for layer in adapted_modules(model).values():
            layer.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(1))
        model.save_pretrained(tmp_path)
        expected = model(ids).logits
        loaded = PeftModel.from_pretrained(make_model(), tmp_path).eval()
        assert torch.equal(loaded(ids).logits, expected)


def test_the_adapter_is_float32_on_a_bfloat16_base():
    base = make_model().to(torch.bfloat16)
    model = attach(base, planned(Q_V), 0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
