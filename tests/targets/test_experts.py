"""Experts that are one 3-D parameter: each gets a LoRA of its own, and gate and up can be had apart."""

import copy
import dataclasses

import pytest
import torch
from peft import PeftModel

from lorascope.config.schema import Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.attach import adapted_modules, attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from small_models import small_model

FFN = TargetConfig(name="ffn", ranks=Ranks(ffn=2), lora_dropout=0.0)
IDS = torch.randint(1, 90, (3, 12), generator=torch.Generator().manual_seed(0))
# plain, transposed with gate and up alternating, transposed without saying so, experts beside a dense layer
KINDS = ["mixtral", "gpt_oss", "llama4_text", "deepseek_v3", "aria_text", "nemotron_h", "jetmoe"]


def plan_on(model, strategy):
    return plan_targets(strategy, map_modules(model, "small", "here"))


def train(model, steps=2):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    model.train()
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def stacks(model):
    return [one for one in map_modules(model, "small", "here").projections if one.experts > 1]


def output_rows(model, projection):
    """Rows of one role in a stack, (experts, rows, d_in)."""
    weight = getattr(model.get_submodule(projection.module), projection.parameter)
    weight = weight.transpose(1, 2) if projection.transposed else weight
    rows = projection.rows or ((0, projection.width),)
    return torch.cat([weight[:, start:stop] for start, stop in rows], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_costs_a_lora_for_each_expert(kind):
    model = small_model(kind)
    plan = plan_on(model, dataclasses.replace(FFN, missing="allow"))
    for planned in plan.modules:
        if planned.experts > 1:
            weight = output_rows(model, planned)
            assert planned.parameters == 2 * weight.shape[0] * (weight.shape[1] + weight.shape[2])
    attached = attach(model, plan, 0)
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == plan.stored_parameters


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "llama4_text", "deepseek_v3", "aria_text"])
@pytest.mark.parametrize("role", ["gate", "up"])
def test_one_half_of_a_fused_stack_leaves_the_other_untouched(kind, role):
    base = small_model(kind)
    kept, projections = copy.deepcopy(base), stacks(base)
    strategy = dataclasses.replace(FFN, ranks=Ranks(**{role: 2}))
    merged = train(attach(base, plan_on(base, strategy), 0)).merge_and_unload()
    for projection in projections:
        equal = torch.equal(output_rows(merged, projection), output_rows(kept, projection))
        assert equal == (projection.role != role), (projection.module, projection.role)


@pytest.mark.parametrize("kind", KINDS)
def test_an_untouched_adapter_on_experts_changes_nothing(kind):
    with torch.no_grad():
        expected = small_model(kind)(IDS).logits
        base = small_model(kind)
        model = attach(base, plan_on(base, dataclasses.replace(FFN, missing="allow")), 0).eval()
        assert torch.allclose(model(IDS).logits, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")  # PEFT looks at modules
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "llama4_text", "deepseek_v3"])
def test_the_adapter_on_experts_loads_in_plain_peft(kind, tmp_path):
    base = small_model(kind)
    model = train(attach(base, plan_on(base, FFN), 0))
    with torch.no_grad():
        expected = model(IDS).logits
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(small_model(kind), tmp_path).eval()
        assert torch.allclose(again(IDS).logits, expected, atol=1e-5)


def test_every_expert_starts_from_values_of_its_own():
    base = small_model("mixtral")
    layers = adapted_modules(attach(base, plan_on(base, FFN), 0))
    a = layers["model.layers.0.mlp.experts.down_proj"].lora_A["default"].weight
    rows = a.view(base.config.num_local_experts, -1, a.shape[1])
    assert len({tuple(one.flatten().tolist()) for one in rows}) == len(rows)


def test_rank_and_scale_hold_for_experts_beside_dense_modules():
    base = small_model("deepseek_v3")
    strategy = TargetConfig(name="mixed", ranks=Ranks(q=4, ffn=2), lora_dropout=0.0)
    plan = plan_on(base, strategy)
    layers = adapted_modules(attach(base, plan, 0))
    assert {layers[site.name].scaling["default"] for site in plan.sites if site.rank == 4} == {16 / 4, 16 / 2}
    assert {role for one in plan.modules for role in [one.role]} == {"q", "gate", "up", "down"}


@pytest.mark.parametrize(
    ("change", "place"), [({"lora_dropout": 0.05}, "target.lora_dropout"), ({"dora": True}, "target.dora")]
)
def test_what_peft_cannot_do_with_stacks_is_refused_beforehand(change, place):
    strategy = dataclasses.replace(FFN, ranks=Ranks(down=2), **change)
    with pytest.raises(PlanError) as caught:
        plan_on(small_model("mixtral"), strategy)
    assert caught.value.place == place
