import math

import pytest

from lorascope.compose import compose
from lorascope.config.schema import ModelConfig, Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.formats import spans
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import inspect_model


def plan(*words: str):
    config = compose(words)
    return plan_targets(config.target, inspect_model(config.model))


# LoRA parameters by hand: sum over modules of r * (d_in + d_out)
@pytest.mark.parametrize(
    ("model", "target", "parameters"),
    [
        ("mistral7b", "q_v", 3_407_872),
        ("mistral7b", "qkvo", 6_815_744),
        ("mistral7b", "qv_ffn", 10_485_760),
        ("mistral7b", "all_linear", 20_971_520),
        ("smollm2", "q_v", 460_800),
        ("smollm2", "qkvo", 921_600),
        ("smollm2", "attention", 921_600),
        ("smollm2", "qv_ffn", 1_221_120),
        ("smollm2", "all_linear", 2_442_240),
        ("smollm2", "ffn", 30 * 8 * 3 * (576 + 1536)),
        ("smollm2", "v_o", 30 * 8 * ((576 + 192) + (576 + 576))),
    ],
)
def test_a_shipped_strategy_costs_what_the_formula_says(model, target, parameters):
    assert plan(f"model={model}", f"target={target}").trainable_parameters == parameters


def test_equal_costs_that_follow_from_the_shapes():
    qkvo_r4 = plan("target=qkvo", *(f"target.ranks.{role}=4" for role in "qkvo"))
    assert plan("target=q_v").trainable_parameters == qkvo_r4.trainable_parameters
    all_r4 = plan("target=all_linear", "target.ranks.all=4")
    assert plan("target=qv_ffn").trainable_parameters == all_r4.trainable_parameters


def test_the_narrower_entry_wins():
    ranks = {m.role: m.rank for m in plan("target=all_linear", "target.ranks.ffn=4", "target.ranks.down=2").modules}
    assert ranks == {"q": 8, "k": 8, "v": 8, "o": 8, "gate": 4, "up": 4, "down": 2}


@pytest.mark.parametrize(
    ("policy", "scale"),
    [
        ("constant", {8: 16 / 8, 4: 16 / 4}),
        ("proportional", {8: 2.0, 4: 2.0}),
        ("rslora", {8: 16 / math.sqrt(8), 4: 16 / math.sqrt(4)}),
    ],
)
def test_the_alpha_policy_decides_the_scale(policy, scale):
    assert plan("target=qv_ffn", f"target.alpha_policy={policy}").scales == pytest.approx(scale)


def test_an_absent_role_names_what_is_there_and_the_remedy():
    phi2 = ModelConfig(
        name="phi2",
        path="org/phi2",
        architecture={"model_type": "phi", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    )
    modules = inspect_model(phi2)
    with pytest.raises(PlanError, match=r"role 'gate' is absent in org/phi2; it has q, k, v, o, up, down") as caught:
        plan_targets(TargetConfig(ranks=Ranks(q=8, gate=4)), modules)
    assert "Use 'ffn'" in str(caught.value)
    # the group takes whatever is there
    assert {m.role for m in plan_targets(TargetConfig(ranks=Ranks(ffn=4)), modules).modules} == {"up", "down"}


def test_a_role_that_some_layers_lack_is_refused_by_layer():
    import dataclasses

    modules = inspect_model(compose(["model=smollm2"]).model)
    holed = dataclasses.replace(
        modules, projections=tuple(p for p in modules.projections if p.role != "v" or p.layer not in (3, 4, 7))
    )
    with pytest.raises(PlanError, match="'v' is missing on layers 3-4, 7 of"):
        plan_targets(TargetConfig(ranks=Ranks(q=8, v=8)), holed)


def test_spans_are_short():
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
