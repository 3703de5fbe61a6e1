"""Placement by the weights: scores against their formulas, choices against the budget, a base that stays as it was."""

import math

import pytest
import torch
from peft import EvaConfig, LoraConfig
from peft.tuners.lora.eva import get_eva_state_dict
from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config, Phi3ForCausalLM

from helpers import make_model, make_tokenizer
from lorascope.base.loading import load_base
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import AlphaPolicy, Auto, AutoConfig, Fused, Init, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets import eva, roles
from lorascope.targets.auto_placement import plan_automatically
from lorascope.targets.auto_scores import condition_number, feature_norms, plain_weight
from lorascope.targets.module_map import map_modules
from small_models import small_model

pytestmark = pytest.mark.usefixtures("one_thread")


def strategy(method: str, budget="3k", **changes) -> TargetConfig:
    auto = AutoConfig(method=Auto(method), **{key: changes.pop(key) for key in ("types", "share") if key in changes})
    given = {"alpha_policy": AlphaPolicy.proportional, "lora_dropout": 0.0} | changes
    return TargetConfig(name=f"auto_{method}", auto=auto, budget=budget, **given)


def prompts(batches=1, rows=12, width=20, vocabulary=90):
    """Random tokens; each row is shorter than the one before, and its first quarter is a question."""
    stream = torch.Generator().manual_seed(1)
    found = []
    for _ in range(batches):
        ids = torch.randint(1, vocabulary, (rows, width), generator=stream)
        mask = torch.ones_like(ids)
        for row in range(rows):
            mask[row, width - row :] = 0
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, : width // 4] = -100
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def gpt2():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # which GPT-2 starts from zero
            torch.nn.init.normal_(parameter)
    return model


def phi3():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return Phi3ForCausalLM(Phi3Config(vocab_size=90, num_key_value_heads=2, pad_token_id=0, **sizes))


MODELS = {"llama": make_model, "gpt2": gpt2, "phi3": phi3}


def planned(model, how: TargetConfig, batches=None):
    return plan_automatically(how, map_modules(model, "small", "here"), model, batches or prompts())


def inputs_of(model, paths, batches, positions) -> dict[str, torch.Tensor]:
    """What modules read at some positions, a row at a time and without padding, (tokens, d_in) in float64."""
    found: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda module, args, path=path: found[path].append(args[0].detach().clone())
        )
        for path in paths
    ]
    kept = []
    for batch in batches:
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            length = int(mask.sum())
            kept.append(torch.ones(length, dtype=torch.bool) if positions == "all" else labels[:length] != -100)
            model.eval()(ids[None, :length])
    for handle in handles:
        handle.remove()
    rows = {path: [one[0][which] for one, which in zip(those, kept, strict=True)] for path, those in found.items()}
    return {path: torch.cat(those).double() for path, those in rows.items()}


@pytest.mark.parametrize("kind", MODELS)
def test_feature_norms_are_what_their_formula_says(kind):
    model, batches = MODELS[kind](), prompts(2)
    projections = map_modules(model, kind, "here").projections
    scores = feature_norms(model, projections, batches)
    assert list(scores) == list(projections)
    inputs = inputs_of(model, {one.module for one in projections}, batches, "all")
    for one, score in scores.items():
        weight = model.get_submodule(one.module).weight.double()
        weight = weight.T if one.transposed else weight  # GPT-2's Conv1D
        weight = weight if one.rows is None else torch.cat([weight[start:stop] for start, stop in one.rows])
        z = inputs[one.module]
        ratios = (z @ weight.T).norm(dim=1) / (weight.square().sum().sqrt() * z.norm(dim=1) / math.sqrt(one.d_in))
        assert score == pytest.approx(ratios.mean().item(), rel=1e-4), one


def test_random_weights_that_know_nothing_of_their_inputs_score_about_one():
    scores = feature_norms(make_model(), map_modules(make_model(), "tiny", "here").projections, prompts())
    assert all(0.8 < score < 1.2 for score in scores.values())


@pytest.mark.parametrize(("scheme", "off"), [("nf4", 0.05), ("int8", 0.01)])
def test_a_quantized_base_scores_about_the_same(tmp_path, scheme, off):
    # bitsandbytes' CPU kernel misreads 4-bit weights whose rows are no whole number of its blocks of 64
    make_model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)

    def base(scheme):
        words = ["model=hf", f"model.path={tmp_path}", "model.dtype=float32", "device=cpu", f"quantization={scheme}"]
        return load_base(resolve(compose(words))).model

    batches = prompts(vocabulary=290)
    plain, stored = base("none"), base(scheme)
    projections = map_modules(plain, "tiny", "here").projections
    expected = feature_norms(plain, projections, batches)
    assert feature_norms(stored, projections, batches) == pytest.approx(expected, rel=off)
    for one in projections:
        weight, kept = plain_weight(stored.get_submodule(one.module)), plain.get_submodule(one.module).weight
        assert (weight - kept).norm() / kept.norm() < 2 * off
        if scheme == "int8":  # the codes alone, without a scale for each row, have another number
            assert condition_number(stored.get_submodule(one.module)) == pytest.approx(
                torch.linalg.cond(weight.double()).item(), rel=1e-2
            )


@pytest.mark.parametrize("method", ["plop", "eva", "kappa"])
def test_the_base_and_the_random_numbers_stay_as_they_were(method):
    model = make_model().requires_grad_(False).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.random.get_rng_state()
    planned(model, strategy(method))
    assert torch.equal(stream, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("method", ["plop", "eva", "kappa"])
def test_the_same_prompts_give_the_same_plan_bit_for_bit(method):
    (one, start), (other, again) = (planned(make_model(), strategy(method)) for _ in range(2))
    assert one == other
    if start is not None:
        assert all(torch.equal(rows, again[path]) for path, rows in start.items())


def test_plop_adapts_the_types_with_the_lowest_means_at_one_rank():
    model = make_model()
    plan, start = planned(model, strategy("plop", types=2))
    projections = map_modules(model, "tiny", "here").projections
    scores = feature_norms(model, projections, prompts())
    means = {
        role: sum(score for one, score in scores.items() if one.role == role) / 2
        for role in ("q", "k", "v", "o", "gate", "up", "down")
    }
    auto = plan.notes["auto"]
    assert auto["scores"] == pytest.approx(means)
    assert auto["chosen"] == sorted(means, key=means.get)[:2]
    assert {one.role for one in plan.modules} == set(auto["chosen"])
    assert len(plan.modules) == 4
    assert len({one.rank for one in plan.modules}) == 1
    assert start is None


@pytest.mark.parametrize("method", ["plop", "kappa"])
@pytest.mark.parametrize("asked", [3000, 5555, 20_000])
def test_one_rank_comes_as_near_to_the_budget_as_it_can(method, asked):
    plan, _ = planned(make_model(), strategy(method, budget=asked))
    step = sum(one.d_in + one.d_out for one in plan.modules)
    assert abs(plan.trainable_parameters - asked) <= step / 2
    assert plan.notes["budget"] == {"asked": asked, "of": None, "reached": plan.trainable_parameters}


def test_a_budget_can_be_another_strategys():
    other = {"ranks": {"q": 8, "v": 8}}
    plan, _ = planned(make_model(), strategy("plop", budget="q_v", budget_strategy=other))
    assert plan.notes["budget"]["of"] == "q_v"
    assert plan.notes["budget"]["asked"] == 2 * (8 * (32 + 32) + 8 * (32 + 16))


def test_doras_magnitudes_are_within_the_budget():
    plan, _ = planned(make_model(), strategy("plop", budget=6000, dora=True))
    assert plan.trainable_parameters == sum(one.rank * (one.d_in + one.d_out) + one.d_out for one in plan.modules)
    assert abs(plan.trainable_parameters - 6000) <= sum(one.d_in + one.d_out for one in plan.modules) / 2


def test_plop_scores_and_adapts_the_parts_of_fused_modules():
    plan, _ = planned(phi3(), strategy("plop", types=7))
    assert set(plan.notes["auto"]["scores"]) == {"q", "k", "v", "o", "gate", "up", "down"}
    assert plan.stored_parameters > plan.trainable_parameters
    assert len(plan.sites) == 2 * 4


@pytest.mark.parametrize(("method", "kind"), [("plop", "phi3"), ("eva", "phi3"), ("kappa", "gpt2")])
def test_fused_modules_can_be_taken_whole_and_eva_and_kappa_take_them_so(method, kind):
    how = strategy(method, share=1.0, types=4, fused=Fused.native if method == "plop" else Fused.parts)
    plan, _ = planned(MODELS[kind](), how)
    assert plan.notes["fused"] == "native"
    assert "q+k+v" in {one.role for one in plan.modules}
    assert plan.stored_parameters == plan.trainable_parameters


@pytest.mark.parametrize("method", ["plop", "eva", "kappa"])
def test_only_the_chosen_layers_are_adapted(method):
    plan, _ = planned(make_model(), strategy(method, budget=1500, layers="last_half", share=0.5))
    assert {one.layer for one in plan.modules} == {1}
    assert plan.notes["layers"] == [1]


@pytest.mark.parametrize("method", ["plop", "eva", "kappa"])
def test_experts_that_are_one_parameter_are_left_out_and_the_record_says_so(method):
    plan, _ = planned(small_model("mixtral"), strategy(method))
    assert {one.experts for one in plan.modules} == {1}
    assert "experts" in plan.notes["auto"]["left_out"]["down"]


def test_modules_that_do_not_read_every_token_have_no_score():
    model = make_model()
    layer = model.model.layers[1].mlp
    forward = layer.forward
    layer.forward = lambda hidden: torch.cat([forward(hidden[:, :9]), hidden[:, 9:]], dim=1)  # as a router does
    plan, _ = planned(model, strategy("plop", types=9))
    assert plan.notes["auto"]["left_out"]["up"] == "modules that do not read every token (1)"
    assert {one.layer for one in plan.modules if one.role == "up"} == {0}


def test_layers_that_lack_a_chosen_type_are_recorded():
    plan, _ = planned(small_model("jamba"), strategy("plop", types=9))  # Mamba first, then attention
    assert plan.notes["missing"] == {role: [0] for role in "qkvo"}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_kappa_takes_the_share_with_the_lowest_condition_numbers(kind):
    model = MODELS[kind]()
    plan, _ = planned(model, strategy("kappa", share=0.3))
    auto = plan.notes["auto"]
    for path, number in auto["scores"].items():
        expected = torch.linalg.cond(model.get_submodule(path).weight.detach().double()).item()
        assert number == pytest.approx(expected, rel=1e-2), path
    assert not [path for path in auto["scores"] if "head" in path]
    count = int(0.3 * len(auto["scores"]))
    assert auto["chosen"] == sorted(auto["scores"], key=auto["scores"].get)[:count]
    assert {one.module for one in plan.modules} == set(auto["chosen"])


@pytest.mark.parametrize(("kind", "positions"), [("llama", "answers"), ("gpt2", "answers"), ("phi3", "all")])
def test_evas_rows_are_the_inputs_principal_components(kind, positions):
    model, batches = MODELS[kind](), prompts(rows=16)
    if positions == "all":
        batches[0]["labels"][:, :-1] = -100  # too few answers for as many components
    plan, start = planned(model, strategy("eva"), batches)
    assert plan.init is Init.eva
    assert plan.notes["auto"]["positions"] == positions
    inputs = inputs_of(model, start, batches, positions)
    for path, rows in start.items():
        assert rows.dtype == torch.float32
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-4)
        z = inputs[path] - inputs[path].mean(0)
        _, values, components = torch.linalg.svd(z, full_matrices=False)
        best = values[: len(rows)].square().sum()
        assert (z @ rows.double().T).square().sum() > 0.98 * best, path  # found by iteration, in a random basis
        gap = values[0] / values[1]
        if gap > 1.2:
            assert abs(rows[0].double() @ components[0]) > 0.99, path


@pytest.mark.parametrize("asked", [1000, 3000, 4321])
def test_evas_ranks_cost_the_budget_to_within_half_a_component(asked):
    model = make_model()
    plan, start = planned(model, strategy("eva", budget=asked))
    dearest = max(one.d_in + one.d_out for one in map_modules(model, "tiny", "here").projections)
    assert abs(plan.trainable_parameters - asked) <= dearest / 2
    assert {path: len(rows) for path, rows in start.items()} == {one.module: one.rank for one in plan.modules}
    distribution = plan.notes["auto"]["chosen"]
    assert sum(distribution.values()) == 14
    assert sum(int(rank) * modules for rank, modules in distribution.items()) == sum(one.rank for one in plan.modules)
    assert {one.scale for one in plan.modules} == {2.0}


def test_what_eva_gives_up_explains_no_more_than_what_it_keeps():
    model, batches = make_model(), prompts()
    paths = [one.module for one in map_modules(model, "tiny", "here").projections]
    read = eva.prompts_for(batches, 8)
    found = eva.components(model, paths, 4, read, most=8)
    shares = eva.explained(model, found, read)
    inputs = inputs_of(model, paths, batches, "answers")
    for path, those in shares.items():
        z = inputs[path] - inputs[path].mean(0)
        expected = (z @ found[path].double().T).square().sum(0) / z.square().sum()
        assert those == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
    costs = dict.fromkeys(paths, 1)
    ranks = eva.ranks_within(shares, costs, 30)
    assert sum(ranks.values()) == 30
    kept = [those[index] for path, those in shares.items() for index in range(ranks[path])]
    given_up = [those[index] for path, those in shares.items() for index in range(ranks[path], len(those))]
    assert len(given_up) == 4 * 14 - 30
    assert max(given_up) <= min(kept) * 1.05  # but for components that were found in another order


def test_evas_components_are_pefts():
    model, batches = make_model(), prompts()
    paths = [one.module for one in map_modules(model, "tiny", "here").projections]
    config = LoraConfig(r=3, target_modules=paths, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0))
    pefts = get_eva_state_dict(model, batches, config, show_progress_bar=False)
    own = eva.components(model, paths, 3, eva.prompts_for(batches, 6), most=6)
    assert {path: len(rows) for path, rows in own.items()} == {path: len(rows) for path, rows in pefts.items()}
    assert all(torch.equal(rows, pefts[path].float()) for path, rows in own.items())


REFUSALS = [
    ("plop", {"budget": 10}, r"budget=10: 10 parameters .* rank 1 costs \d+ on the 6 .* or lower target.auto.types"),
    ("kappa", {"budget": 10}, r"rank 1 costs \d+ on the 2 .*, or lower target.auto.share"),
    ("eva", {"budget": 10}, r"the cheapest component costs 48.\n  Raise the budget"),
    ("eva", {"budget": 100_000}, r"reads 32 numbers: it has no more components.\n  Lower the budget"),
    ("kappa", {"layers": "5"}, r"target.layers: 5 is out of range"),
]


@pytest.mark.parametrize(("method", "settings", "message"), REFUSALS)
def test_what_cannot_be_is_refused_with_a_remedy(method, settings, message):
    with pytest.raises(PlanError, match=f"(?s){message}"):
        planned(make_model(), strategy(method, **settings))


def test_prompts_with_too_few_tokens_for_the_ranks_are_refused():
    with pytest.raises(PlanError, match=r"(?s)up to 6 components .* the longest has 5 tokens.*more or longer prompts"):
        planned(make_model(), strategy("eva"), prompts(rows=1, width=5))


def test_components_that_never_settle_are_refused_and_leave_no_hooks(monkeypatch):
    monkeypatch.setattr(eva, "ENOUGH_PASSES", 1)
    model = make_model()
    with pytest.raises(PlanError, match="have not settled"):
        planned(model, strategy("eva"))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["plop", "eva"])
def test_a_model_that_keeps_positions_before_rows_is_refused(method, monkeypatch):
    monkeypatch.delitem(roles.UNTRAINABLE, "xlnet")  # for what it does besides
    with pytest.raises(PlanError, match="no module of this model reads its tokens in rows and positions"):
        planned(small_model("xlnet"), strategy(method))


def test_a_type_without_attention_has_nothing_to_choose_from():
    with pytest.raises(PlanError, match=r"no linear module with a role"):
        planned(small_model("mamba"), strategy("kappa"))
