"""What a strategy may say besides ranks: layers, names, budgets, what may be missing."""

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import make_model
from lorascope.compose import compose
from lorascope.config.schema import Init, ModelConfig, Ranks, TargetConfig, amount, as_dict, from_dict
from lorascope.errors import ConfigError, PlanError
from lorascope.targets.attach import adapted_modules, attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import inspect_model, map_modules
from lorascope.targets.selection import chosen_layers
from small_models import small_model

Q_V = TargetConfig(name="q_v", ranks=Ranks(q=8, v=8))


def plan(*words: str):
    config = compose(words)
    return plan_targets(config.target, inspect_model(config.model))


def plan_on(model, strategy):
    return plan_targets(strategy, map_modules(model, "tiny", "here"))


@pytest.mark.parametrize(
    ("wanted", "layers"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("first_half", [0, 1, 2]),
        ("last_half", [3, 4, 5, 6]),
        ("every_3", [0, 3, 6]),
        ("every_3_from_2", [2, 5]),
        ("2-4", [2, 3, 4]),
        (5, [5]),
        ([0, "4-5"], [0, 4, 5]),
    ],
)
def test_layers_are_named_in_words_ranges_or_lists(wanted, layers):
    assert list(chosen_layers(wanted, 7)) == layers


@pytest.mark.parametrize(
    "wanted", ["some", "every_0", "5-2", "-1", "", [], 7, "6-7", "every_2_from_9", ["x"], 1.5, None]
)
def test_layers_that_are_none_or_out_of_range_are_refused(wanted):
    with pytest.raises(PlanError) as caught:
        chosen_layers(wanted, 7)
    assert caught.value.place == "target.layers"
    assert caught.value.remedy


def test_half_of_the_layers_at_twice_the_rank_cost_the_same():
    costs = {
        plan(f"target={name}").trainable_parameters for name in ("q_v", "q_v_first_half", "q_v_last_half", "qkvo_r4")
    }
    assert costs == {460_800}
    assert {plan(f"target={name}").trainable_parameters for name in ("qv_ffn", "all_linear_r4")} == {1_221_120}


@pytest.mark.parametrize("model", ["mistral7b", "llama3_8b"])
def test_the_controls_cost_the_same_on_7b_models(model):
    for one, other in (("q_v", "qkvo_r4"), ("q_v", "q_v_first_half"), ("qv_ffn", "all_linear_r4")):
        plans = [plan(f"model={model}", f"target={name}") for name in (one, other)]
        assert plans[0].trainable_parameters == plans[1].trainable_parameters


def test_only_the_chosen_layers_get_an_adapter():
    model = make_model(num_hidden_layers=4)
    adapted = attach(model, plan_on(model, dataclasses.replace(Q_V, layers="last_half")), 0)
    assert {path.split(".")[2] for path in adapted_modules(adapted)} == {"2", "3"}


# budgets: by hand, a unit of q_v on SmolLM2 costs 30 * (576 + 576 + 576 + 192) = 57,600
@pytest.mark.parametrize(
    ("words", "ranks", "parameters"),
    [
        (["target=q_v", "target.budget=1M"], {"q": 17, "v": 17}, 17 * 57_600),
        (["target=q_v", "target.budget=qv_ffn"], {"q": 21, "v": 21}, 21 * 57_600),
        (["target=qkvo", "target.budget=qv_ffn"], dict.fromkeys("qkvo", 11), 1_267_200),
        (["target=qv_ffn", "target.budget=600k"], {"q": 4, "v": 4, "gate": 2, "up": 2, "down": 2}, 610_560),
        (["target=q_v", "target.budget=57600"], {"q": 1, "v": 1}, 57_600),
    ],
)
def test_a_budget_scales_the_ranks_and_keeps_their_ratio(words, ranks, parameters):
    fitted = plan(*words)
    assert {m.role: m.rank for m in fitted.modules} == ranks
    assert fitted.trainable_parameters == fitted.notes["budget"]["reached"] == parameters


def test_no_other_multiple_of_the_ranks_is_nearer_to_the_budget():
    modules = inspect_model(compose(["model=smollm2"]).model)
    for asked in (310_000, 777_777, 3_000_000):
        reached = plan("target=qv_ffn", f"target.budget={asked}").trainable_parameters
        every = [
            plan_targets(TargetConfig(ranks=Ranks(q=2 * k, v=2 * k, ffn=k)), modules).trainable_parameters
            for k in range(1, 15)
        ]
        assert abs(reached - asked) == min(abs(one - asked) for one in every)


def test_a_budget_below_rank_1_is_refused_with_what_it_costs():
    with pytest.raises(PlanError, match="57,599 parameters are fewer than its smallest ranks cost: 57,600"):
        plan("target=q_v", "target.budget=57599")


def test_a_budget_that_is_no_strategy_is_refused():
    with pytest.raises(ConfigError, match="neither a number of parameters nor a strategy"):
        compose(["target=q_v", "target.budget=qv_fnn"])
    with pytest.raises(ConfigError, match="own size is not fixed"):
        compose(["target=q_v", "target.budget=auto_plop"])


def test_a_budgets_strategy_may_be_ones_own(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.yaml").write_text("ranks: {o: 3}\n")
    config = compose(["target=q_v", "target.budget=mine"], tmp_path)
    assert config.target.budget_strategy["ranks"]["o"] == 3
    modules = inspect_model(config.model)
    o = TargetConfig(ranks=Ranks(o=3))
    assert (
        plan_targets(config.target, modules).notes["budget"]["asked"] == plan_targets(o, modules).trainable_parameters
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10M", 10_000_000),
        ("1.5m", 1_500_000),
        ("500k", 500_000),
        (3407872, 3407872),
        ("1_000", 1000),
        ("2B", 2 * 10**9),
    ],
)
def test_amounts_are_read_as_people_write_them(text, number):
    assert amount(text) == number


@pytest.mark.parametrize("text", ["qv_ffn", "10MiB", "-5", "1e6", "", "M"])
def test_what_is_no_amount_is_told_apart(text):
    assert amount(text) is None


def test_a_strategy_survives_the_way_through_a_record():
    strategy = TargetConfig(name="x", ranks=Ranks(q=1), init=Init.eva, layers=[1, 2])
    assert from_dict(TargetConfig, as_dict(strategy)) == strategy


def test_the_head_and_the_embeddings_are_adapted_by_name_counted_and_shown():
    model = make_model()
    strategy = dataclasses.replace(Q_V, modules={"lm_head": 4, "embed_tokens": 2})
    planned = plan_on(model, strategy)
    alone = plan_on(model, Q_V)
    assert planned.trainable_parameters == alone.trainable_parameters + 4 * (32 + 300) + 2 * (300 + 32)
    peft = get_peft_model(
        make_model(),
        LoraConfig(
            r=8,
            target_modules=["q_proj", "v_proj", "lm_head", "embed_tokens"],
            rank_pattern={"lm_head": 4, "embed_tokens": 2},
        ),
    )
    assert planned.trainable_parameters == peft.get_nb_trainable_parameters()[0]
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = make_model().eval()(ids).logits
        assert torch.equal(attach(model, planned, 0).eval()(ids).logits, expected)


def test_modules_without_a_role_can_be_named_inside_the_blocks():
    model = small_model("jamba")
    planned = plan_on(model, TargetConfig(name="x", modules={"in_proj": 2}))
    assert {m.role for m in planned.modules} == {"in_proj"}
    assert all(m.layer >= 0 for m in planned.modules)
    attach(model, planned, 0)


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ({"lm_haed": 4}, "no module of tiny is called so"),
        ({"q_proj": 4}, "these modules play the role 'q'"),
    ],
)
def test_a_name_that_is_none_or_a_role_is_refused(modules, says):
    with pytest.raises(PlanError, match=says):
        plan_on(make_model(), dataclasses.replace(Q_V, modules=modules))


def test_dora_is_counted_as_peft_builds_it():
    model = make_model()
    strategy = dataclasses.replace(Q_V, dora=True)
    planned = plan_on(model, strategy)
    peft = get_peft_model(make_model(), LoraConfig(r=8, target_modules=["q_proj", "v_proj"], use_dora=True))
    assert planned.trainable_parameters == peft.get_nb_trainable_parameters()[0]
    adapted = attach(model, planned, 0)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    fitted = plan_on(make_model(), dataclasses.replace(strategy, budget=planned.trainable_parameters))
    assert fitted.trainable_parameters == planned.trainable_parameters


def test_a_role_that_some_layers_lack_is_an_error_unless_it_is_allowed():
    model = small_model("jamba")
    modules = map_modules(model, "jamba", "here")
    holes = list(modules.missing("q"))
    assert holes
    with pytest.raises(PlanError, match=r"role 'q' is missing on layers .*") as caught:
        plan_targets(Q_V, modules)
    assert "target.missing=allow" in str(caught.value)
    allowed = plan_targets(dataclasses.replace(Q_V, missing="allow"), modules)
    assert allowed.entry()["missing"] == {"q": holes, "v": holes}
    assert {m.layer for m in allowed.modules} == set(range(modules.layers)) - set(holes)


def test_layers_that_all_have_the_role_need_no_allowance():
    model = small_model("jamba")
    modules = map_modules(model, "jamba", "here")
    there = [layer for layer in range(modules.layers) if layer not in modules.missing("q")]
    planned = plan_targets(dataclasses.replace(Q_V, layers=there), modules)
    assert "missing" not in planned.entry()
    with pytest.raises(PlanError, match="none of the chosen layers has a 'q'"):
        plan_targets(dataclasses.replace(Q_V, layers=list(modules.missing("q")), missing="allow"), modules)


@pytest.mark.parametrize(
    "words",
    [
        ["target.peft_default=8"],
        ["target.auto.method=plop", "target.budget=1M"],
        ["target.modules={lm_head: 0}"],
        ["target.budget=0"],
        ["target.dora=true", "target.init=pissa"],
        ["target=auto_plop", "target.budget=null"],
        ["target=auto_plop", "target.modules={lm_head: 4}"],
        ["target=auto_kappa", "target.auto.share=0"],
        ["target.missing=maybe"],
        ["target.fused=half"],
        ["target.init=kaiming"],
    ],
)
def test_settings_that_contradict_each_other_are_one_message(words):
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert caught.value.place
    assert caught.value.remedy


def test_a_models_own_yaml_tells_the_roles_of_names_that_tell_nothing():
    plain = {"model_type": "gpt_neox", "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2}
    model = ModelConfig(
        name="mine",
        path="org/mine",
        architecture=plain | {"num_attention_heads": 4, "intermediate_size": 48},
        roles={"q+k+v@head": "query_key_value", "o": "attention.dense", "up": "dense_h_to_4h", "down": "dense_4h_to_h"},
    )
    told = inspect_model(model)
    known = inspect_model(dataclasses.replace(model, roles={}))
    strip = [dataclasses.replace(one, source="") for one in told.projections]
    assert strip == [dataclasses.replace(one, source="") for one in known.projections]
    assert {one.source for one in told.projections} == {"mapping"}


def test_a_mapping_that_names_what_is_not_there_is_refused():
    from lorascope.errors import ModelError

    with pytest.raises(ModelError, match="no linear module in a block is called 'nope'"):
        map_modules(make_model(), "tiny", "here", {"q": "nope"})
    with pytest.raises(ModelError, match="'w' is not a role"):
        map_modules(make_model(), "tiny", "here", {"w": "q_proj"})
