"""Biases beside the LoRAs: PEFT's own count and tensors, and a base that keeps its bits."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM

from helpers import make_model
from lorascope.base.restore import Seal, sums_of
from lorascope.config.schema import Auto, AutoConfig, Bias, Fused, Init, Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.attach import attach
from lorascope.targets.auto_placement import plan_automatically
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.initialization import start_adapter
from lorascope.targets.module_map import map_modules

TOKENS = torch.arange(12).reshape(2, 6)


def gpt2():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=32))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # which start from zero
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def phi():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = PhiForCausalLM(PhiConfig(vocab_size=60, max_position_embeddings=32, **shape))
    return model.eval()


MODELS = {
    "gpt2": (gpt2, ["c_attn", "attn.c_proj"]),
    "phi": (phi, ["q_proj", "k_proj", "v_proj", "dense"]),
    "llama": (make_model, ["q_proj", "k_proj", "v_proj", "o_proj"]),
}


def strategy(bias: str, **named):
    ranks = named.pop("ranks", Ranks(attention=4))
    return TargetConfig(name="test", ranks=ranks, lora_dropout=0.0, bias=Bias(bias), **named)


def planned(model, bias: str, **named):
    return plan_targets(strategy(bias, **named), map_modules(model, "tiny", "here"))


def attached(model, bias: str, **named):
    return attach(model, planned(model, bias, **named), 0)


def train(model, steps: int = 4) -> None:
    """AdamW with momentum, at a rate that moves everything that may move."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def trained_biases(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad and ".bias" in name}


@pytest.mark.parametrize("bias", list(Bias))
@pytest.mark.parametrize("kind", MODELS)
def test_the_plan_the_adapter_and_peft_count_the_same(kind, bias):
    make, names = MODELS[kind]
    peft = get_peft_model(make(), LoraConfig(r=4, target_modules=names, bias=str(bias), fan_in_fan_out=kind == "gpt2"))
    theirs = {name for name, parameter in peft.named_parameters() if parameter.requires_grad}
    model = make()
    plan = planned(model, bias, fused=Fused.native)
    ours = attach(model, plan, 0)
    assert peft.get_nb_trainable_parameters()[0] == plan.trainable_parameters == plan.stored_parameters
    assert {name for name, parameter in ours.named_parameters() if parameter.requires_grad} == theirs
    assert plan.bias_parameters == 0 or (kind, bias) != ("llama", bias)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_before_a_step_the_adapted_model_is_the_base_and_afterwards_peft_loads_it(bias, dtype, tmp_path):
    base, fresh = gpt2().to(dtype), gpt2().to(dtype)
    expected = base(input_ids=TOKENS).logits
    model = attached(base, bias)
    assert torch.equal(model(input_ids=TOKENS).logits, expected)
    train(model)
    assert all(value.dtype is torch.float32 for value in trained_biases(model).values())
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(fresh, str(tmp_path))
    found = model.eval()(input_ids=TOKENS).logits
    assert not torch.equal(found, expected)
    assert torch.equal(loaded.eval()(input_ids=TOKENS).logits, found)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_planned_bias_moves_and_the_base_is_put_back_bit_for_bit(bias, dtype):
    base = phi().to(dtype)
    seal, before, logits = Seal(base), sums_of(base), base(input_ids=TOKENS).logits
    model = attached(base, bias)
    start = trained_biases(model)
    train(model)
    assert all(
        not torch.equal(start[name], value) for name, value in trained_biases(model).items() if "k_proj" not in name
    )
    seal.put_back()
    assert sums_of(base) == before
    assert seal.changed(base) == ""
    assert torch.equal(base(input_ids=TOKENS).logits, logits)
    again = attached(base, bias)
    assert all(torch.equal(start[name], value) for name, value in trained_biases(again).items())


def test_of_a_fused_module_lora_only_trains_the_adapted_parts_rows_alone():
    model, ranks = gpt2(), Ranks(q=4, v=4)
    plan = planned(model, "lora_only", ranks=ranks)
    assert plan.bias_parameters == 2 * 2 * 32
    assert plan.stored_parameters - planned(model, "none", ranks=ranks).stored_parameters == 2 * 3 * 32
    adapted = attach(model, plan, 0)
    start = trained_biases(adapted)
    train(adapted)
    for name, value in trained_biases(adapted).items():
        moved = (value != start[name]).split(32)
        assert [part.float().mean().item() > 0.9 for part in moved] == [True, False, True]
        assert not moved[1].any()


def test_all_trains_every_row_of_a_fused_module():
    plan = planned(gpt2(), "all", ranks=Ranks(q=4))
    expected = sum(p.numel() for name, p in gpt2().named_parameters() if name.endswith(".bias"))
    assert plan.bias_parameters == expected


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_a_budget_is_for_ranks_and_biases_together(bias):
    modules = map_modules(gpt2(), "tiny", "here")
    plan = plan_targets(strategy(bias, ranks=Ranks(q=8, v=8), budget="6000"), modules)
    step = 2 * 2 * (32 + 32)  # rank 1 on two roles of two layers
    assert plan.trainable_parameters == plan.notes["budget"]["reached"]
    assert abs(plan.trainable_parameters - 6000) <= step / 2
    with pytest.raises(PlanError, match="fewer than its smallest ranks cost"):
        plan_targets(strategy(bias, ranks=Ranks(q=8, v=8), budget=plan.bias_parameters + step - 1), modules)


def test_a_record_tells_of_biases_only_where_they_are_trained():
    none, both = planned(phi(), "none").entry(), planned(phi(), "lora_only").entry()
    assert {key: both[key] for key in both.keys() - none.keys()} == {"bias": "lora_only", "bias_parameters": 2 * 4 * 32}
    assert none.keys() <= both.keys()


@pytest.mark.parametrize("bias", ["lora_only", "all"])
@pytest.mark.parametrize("method", list(Auto))
def test_automatic_placement_keeps_ranks_and_biases_within_its_budget(method, bias):
    base = make_model(attention_bias=True, mlp_bias=True)
    batch = {"input_ids": torch.randint(4, 200, (6, 30)), "attention_mask": torch.ones(6, 30, dtype=torch.long)}
    auto = strategy(bias, ranks=Ranks(), auto=AutoConfig(method=method), budget=6000)
    plan, start = plan_automatically(auto, map_modules(base, "tiny", "here"), base, [batch])
    model = attach(base, plan, 0)
    start_adapter(model, plan, start)
    assert model.get_nb_trainable_parameters()[0] == plan.trainable_parameters == plan.notes["budget"]["reached"]
    assert plan.trainable_parameters == pytest.approx(6000, rel=0.1)
    with pytest.raises(PlanError, match="too few"):
        plan_automatically(
            strategy(bias, ranks=Ranks(), auto=AutoConfig(method=method), budget=70),
            map_modules(make_model(attention_bias=True, mlp_bias=True), "tiny", "here"),
            make_model(attention_bias=True, mlp_bias=True),
            [batch],
        )


@pytest.mark.parametrize("init", ["eva", "pissa"])
def test_biases_start_from_the_bases_whatever_a_and_b_start_from(init):
    base = phi()
    biases = {name: p.detach().clone() for name, p in base.named_parameters() if name.endswith(".bias")}
    batch = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    plan = planned(base, "all", init=Init(init))
    model = attach(base, plan, 0)
    start_adapter(model, plan, None, [batch])
    found = {
        name.replace(".base_layer", "").removeprefix("base_model.model."): p
        for name, p in trained_biases(model).items()
    }
    assert found.keys() == biases.keys()
    assert all(torch.equal(found[name], value) for name, value in biases.items())
