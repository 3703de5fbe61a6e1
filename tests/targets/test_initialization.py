"""Starts from data and weights: EVA's A and LoftQ's A and B as their papers have them, PiSSA's, and what is refused."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.utils.loftq_utils import _low_rank_decomposition
from safetensors.torch import load_file, save_file

from helpers import make_model, make_tokenizer
from lorascope.base.loading import load_base
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import AlphaPolicy, Auto, AutoConfig, Fused, Init, Ranks, Scheme, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.adapter_parts import check_init
from lorascope.targets.attach import adapted_modules, attach
from lorascope.targets.auto_placement import plan_automatically
from lorascope.targets.auto_scores import plain_weight
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.initialization import start_adapter
from lorascope.targets.module_map import map_modules
from small_models import small_model

# what PEFT says of `init_lora_weights: eva` before it has its config and its data
pytestmark = [
    pytest.mark.filterwarnings("ignore:.init_lora_weights. is 'eva'"),
    pytest.mark.filterwarnings("ignore:lora with eva initialization"),
]
IDS = torch.arange(40)[None]
QV_FFN = TargetConfig(name="qv_ffn", ranks=Ranks(q=6, v=6, ffn=3), lora_dropout=0.0)
AUTO = TargetConfig(
    name="auto_eva", auto=AutoConfig(method=Auto.eva), budget=3000, alpha_policy=AlphaPolicy.proportional
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model whose rows are one block of bitsandbytes: its CPU kernel misreads shorter ones."""
    place = tmp_path_factory.mktemp("wide")
    make_model(hidden_size=64, intermediate_size=128).save_pretrained(place)
    make_tokenizer().save_pretrained(place)
    return place


def base_of(folder, scheme="none"):
    words = ["model=hf", f"model.path={folder}", "model.dtype=float32", "device=cpu", f"quantization={scheme}"]
    return load_base(resolve(compose(words))).model


def prompts(rows=16, width=20):
    stream = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 290, (rows, width), generator=stream)
    mask = torch.ones_like(ids)
    mask[::2, width // 2 :] = 0
    return [{"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}]


def plan_on(model, strategy, init=Init.lora):
    return plan_targets(dataclasses.replace(strategy, init=init), map_modules(model, "small", "here"))


def pairs(model):
    """A and B of every adapted module, and its scale."""
    return {
        path: (
            layer.lora_A["default"].weight.detach(),
            layer.lora_B["default"].weight.detach(),
            layer.scaling["default"],
        )
        for path, layer in adapted_modules(model).items()
    }


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.eval()(ids).logits


def move(model):
    """As if it had been trained."""
    stream = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=stream)


def automatic(model):
    plan, start = plan_automatically(AUTO, map_modules(model, "small", "here"), model, prompts())
    return attach(model, plan, 0), plan, start


def test_the_components_of_automatic_placement_become_a_and_nothing_else_changes():
    expected = logits(make_model())
    model, plan, start = automatic(make_model())
    config = copy.deepcopy(model.peft_config["default"])
    start_adapter(model, plan, start)
    for path, (a, b, scale) in pairs(model).items():
        assert torch.equal(a, start[path])
        assert not b.any()
        assert scale == 2.0
    assert model.peft_config["default"] == config
    assert torch.equal(logits(model), expected)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == plan.trainable_parameters


def test_a_named_strategy_keeps_its_ranks_and_reads_the_same_components():
    base = make_model()
    plan = plan_on(base, QV_FFN, Init.eva)
    model = attach(base, plan, 0)
    start_adapter(model, plan, batches=prompts())
    found = pairs(model)
    for planned in plan.modules:
        a, b, _ = found[planned.module]
        assert len(a) == planned.rank
        assert not b.any()
        assert torch.allclose(a @ a.T, torch.eye(len(a)), atol=1e-4)
    # q and v read the same, so do gate and up
    for layer in (f"model.layers.{number}" for number in range(2)):
        assert torch.equal(found[f"{layer}.self_attn.q_proj"][0], found[f"{layer}.self_attn.v_proj"][0])
        assert torch.equal(found[f"{layer}.mlp.gate_proj"][0], found[f"{layer}.mlp.up_proj"][0])


def test_evas_a_holds_of_the_inputs_what_so_many_directions_can():
    base, batch = make_model(), prompts()[0]
    seen = []
    hook = base.model.layers[1].mlp.gate_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        base.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    hook.remove()
    inputs = seen[0][batch["attention_mask"].bool()]
    inputs = inputs - inputs.mean(0)
    plan = plan_on(base, QV_FFN, Init.eva)
    model = attach(base, plan, 0)
    start_adapter(model, plan, batches=[batch])
    a, _, _ = pairs(model)["model.layers.1.mlp.gate_proj"]
    most = torch.linalg.svdvals(inputs)[: len(a)].square().sum()
    assert 0.98 * most < (inputs @ a.T).square().sum() <= most * 1.0001


@pytest.mark.parametrize("kind", ["gpt2", "phi3"])
def test_eva_starts_conv1d_and_fused_modules(kind):
    base = small_model(kind)
    strategy = TargetConfig(name="all", ranks=Ranks(all=3), fused=Fused.native, lora_dropout=0.0)
    plan = plan_on(base, strategy, Init.eva)
    model = attach(base, plan, 0)
    batch = {key: value.clamp(max=90) if key == "input_ids" else value for key, value in prompts()[0].items()}
    start_adapter(model, plan, batches=[batch])
    assert all(torch.allclose(a @ a.T, torch.eye(3), atol=1e-4) for a, _, _ in pairs(model).values())


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_eva_reads_a_quantized_base_and_the_adapter_is_float32(folder, scheme):
    base = base_of(folder, scheme)
    plan = plan_on(base, QV_FFN, Init.eva)
    check_init(plan, Scheme(scheme))
    model = attach(base, plan, 0)
    start_adapter(model, plan, batches=prompts())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_the_same_seed_and_prompts_start_alike_bit_for_bit():
    starts = []
    for _ in range(2):
        base = make_model()
        plan = plan_on(base, QV_FFN, Init.eva)
        model = attach(base, plan, 0)
        start_adapter(model, plan, batches=prompts())
        starts.append(pairs(model))
    assert all(torch.equal(a, starts[1][path][0]) for path, (a, _, _) in starts[0].items())


@pytest.mark.parametrize("policy", list(AlphaPolicy))
def test_loftq_makes_up_for_the_largest_part_of_what_4_bits_lost(folder, policy):
    base = base_of(folder, "nf4")
    plan = plan_on(base, dataclasses.replace(QV_FFN, alpha_policy=policy), Init.loftq)
    check_init(plan, Scheme.nf4)
    model = attach(base, plan, 0)
    start_adapter(model, plan, base_folder=folder)
    weights = load_file(folder / "model.safetensors")
    layers = adapted_modules(model)
    for path, (a, b, scale) in pairs(model).items():
        lost = weights[f"{path}.weight"] - plain_weight(layers[path].get_base_layer())
        left = lost - scale * b @ a
        values = torch.linalg.svdvals(lost)
        assert left.norm() == pytest.approx(values[len(a) :].norm().item(), rel=1e-4)  # Eckart and Young's bound
        assert left.norm() < 0.97 * lost.norm()
        pefts = _low_rank_decomposition(lost, reduced_rank=len(a))
        assert torch.allclose(scale * b @ a, pefts["L"] @ pefts["R"], atol=1e-5)


def test_loftq_brings_the_output_nearer_to_that_of_the_unquantized_base(folder):
    expected, quantized = logits(base_of(folder)), logits(base_of(folder, "nf4"))
    base = base_of(folder, "nf4")
    plan = plan_on(base, TargetConfig(name="all", ranks=Ranks(all=32), lora_dropout=0.0), Init.loftq)
    model = attach(base, plan, 0)
    start_adapter(model, plan, base_folder=folder)
    assert (logits(model) - expected).norm() < 0.5 * (quantized - expected).norm()


def test_loftq_reads_weights_in_shards(folder, tmp_path):
    base_of(folder).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = []
    for place in (folder, tmp_path):
        base = base_of(folder, "nf4")
        plan = plan_on(base, QV_FFN, Init.loftq)
        model = attach(base, plan, 0)
        start_adapter(model, plan, base_folder=place)
        found.append(pairs(model))
    assert all(torch.equal(b, found[1][path][1]) for path, (_, b, _) in found[0].items())


def test_pissa_is_done_when_it_is_attached(folder):
    base = base_of(folder)
    expected = logits(base)
    plan = plan_on(base, QV_FFN, Init.pissa)
    check_init(plan, Scheme.none)
    model = attach(base, plan, 0)
    before = copy.deepcopy(pairs(model))
    start_adapter(model, plan)
    assert all(torch.equal(b, before[path][1]) for path, (_, b, _) in pairs(model).items())
    assert torch.allclose(logits(model), expected, atol=1e-4)
    weight = base_of(folder).get_submodule("model.layers.0.mlp.up_proj").weight
    a, b, scale = pairs(model)["model.layers.0.mlp.up_proj"]
    assert torch.linalg.matrix_norm(scale * b @ a, 2) == pytest.approx(torch.linalg.svdvals(weight)[0].item(), rel=1e-4)


@pytest.mark.parametrize(("init", "scheme"), [("eva", "none"), ("pissa", "none"), ("loftq", "nf4")])
def test_what_was_started_so_loads_in_plain_peft(folder, tmp_path, init, scheme):
    base = base_of(folder, scheme)
    plan = plan_on(base, QV_FFN, Init(init))
    model = attach(base, plan, 0)
    start_adapter(model, plan, None, prompts(), folder)
    move(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(base_of(folder, scheme), tmp_path)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-4)
    assert not torch.allclose(logits(model), logits(base_of(folder, scheme)), atol=1e-2)


def test_what_automatic_placement_started_loads_in_plain_peft(tmp_path):
    model, plan, start = automatic(make_model())
    start_adapter(model, plan, start)
    move(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(logits(PeftModel.from_pretrained(make_model(), tmp_path)), logits(model))


REFUSALS = [
    ("pissa", "nf4", {}, r"pissa takes .* which nf4 .*quantization=none, or target.init=loftq"),
    ("pissa", "int8", {}, r"which int8"),
    ("loftq", "none", {}, r"loftq .* quantization is none.\n  Take quantization=nf4"),
    ("loftq", "int8", {}, r"quantization is int8"),
    ("eva", "none", {"modules": {"lm_head": 2}}, r"eva is for linear modules in the blocks, and lm_head is none"),
    ("pissa", "none", {"modules": {"embed_tokens": 2}}, r"model.embed_tokens is none"),
    ("pissa", "none", {"ranks": Ranks(v=17)}, r"finds 16 components in .*v_proj, not 17.\n  Lower the ranks"),
]


@pytest.mark.parametrize(("init", "scheme", "settings", "message"), REFUSALS)
def test_a_start_that_cannot_be_is_refused_beforehand(init, scheme, settings, message):
    plan = plan_on(make_model(), dataclasses.replace(QV_FFN, **settings), Init(init))
    with pytest.raises(PlanError, match=f"(?s){message}"):
        check_init(plan, Scheme(scheme))


@pytest.mark.parametrize("scheme", list(Scheme))
def test_plain_lora_starts_anywhere(scheme):
    check_init(plan_on(make_model(), dataclasses.replace(QV_FFN, modules={"lm_head": 2})), scheme)


def test_loftq_without_the_weights_says_what_to_do(folder, tmp_path):
    base = base_of(folder, "nf4")
    plan = plan_on(base, QV_FFN, Init.loftq)
    model = attach(base, plan, 0)
    with pytest.raises(PlanError, match=r"on no disk.\n  Keep the base as a local folder"):
        start_adapter(model, plan)
    with pytest.raises(PlanError, match="holds no safetensors"):
        start_adapter(model, plan, base_folder=tmp_path)
    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(PlanError, match=r"holds no weight of model.layers.0.self_attn.q_proj"):
        start_adapter(model, plan, base_folder=tmp_path)


def test_loftq_on_a_base_that_is_not_in_4_bits_is_refused(folder):
    base = base_of(folder)
    plan = plan_on(base, QV_FFN, Init.loftq)
    with pytest.raises(PlanError, match="q_proj is not stored in 4 bits"):
        start_adapter(attach(base, plan, 0), plan, base_folder=folder)


def test_components_of_another_plan_are_refused():
    model, plan, start = automatic(make_model())
    path = plan.modules[0].module
    fewer = start | {path: start[path][1:]}
    with pytest.raises(PlanError, match=f"{path}: planned"):
        start_adapter(model, plan, fewer)
