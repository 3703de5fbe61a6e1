"""Q and V without K where q, k and v are one module: the same as on separate layers, K untouched to the last bit."""

import copy
import dataclasses

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from lorascope.config.schema import AlphaPolicy, Fused, Init, Ranks, TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.attach import adapted_modules, attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from small_models import small_model

Q_V = TargetConfig(name="q_v", ranks=Ranks(q=4, v=4), lora_dropout=0.0)
QV_FFN = TargetConfig(name="qv_ffn", ranks=Ranks(q=4, v=4, ffn=2), lora_dropout=0.0)
SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
IDS = torch.randint(1, 90, (3, 11), generator=torch.Generator().manual_seed(0))


def plan_on(model, strategy):
    return plan_targets(strategy, map_modules(model, "small", "here"))


def train(model, steps=1, **adamw):
    """A few steps of AdamW with clipping, by hand."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, **adamw)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def output_rows(model, projection):
    """The rows of the weight that a projection stands for, output first."""
    weight = model.get_submodule(projection.module).weight
    weight = weight.T if projection.transposed else weight
    return torch.cat([weight[start:stop] for start, stop in projection.rows])


FUSED = ["phi3", "gpt_neox", "bloom", "gpt2", "falcon", "gpt_bigcode", "codegen", "mpt", "persimmon"]


@pytest.mark.parametrize("kind", FUSED)
def test_k_stays_the_bases_bit_for_bit_after_training_with_dropout_and_weight_decay(kind):
    strategy = dataclasses.replace(Q_V, lora_dropout=0.3)
    base = small_model(kind)
    kept = copy.deepcopy(base)
    projections = map_modules(base, kind, "here").projections
    model = train(attach(base, plan_on(base, strategy), 0), steps=4, weight_decay=0.1)
    merged = model.merge_and_unload()
    for projection in projections:
        if projection.fused_with and projection.role in "qkv":
            equal = torch.equal(output_rows(merged, projection), output_rows(kept, projection))
            assert equal == (projection.role == "k"), (projection.module, projection.role)


def separate_copy(phi3):
    """The same function with q, k, v, gate and up as modules of their own: a LLaMA with Phi-3's weights."""
    sizes = {key: value for key, value in SIZES.items() if key != "pad_token_id"}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, rms_norm_eps=phi3.config.rms_norm_eps))
    own = {name: value for name, value in phi3.state_dict().items() if "qkv" not in name and "gate_up" not in name}
    for layer in range(2):
        stem = f"model.layers.{layer}"
        q, k, v = phi3.get_submodule(f"{stem}.self_attn.qkv_proj").weight.split([32, 16, 16])
        gate, up = phi3.get_submodule(f"{stem}.mlp.gate_up_proj").weight.split([48, 48])
        for role, part in (("q", q), ("k", k), ("v", v)):
            own[f"{stem}.self_attn.{role}_proj.weight"] = part
        own |= {f"{stem}.mlp.gate_proj.weight": gate, f"{stem}.mlp.up_proj.weight": up}
    llama.load_state_dict(own)
    return llama.eval()


@pytest.fixture
def phi3():
    torch.manual_seed(0)
    return Phi3ForCausalLM(Phi3Config(**SIZES)).eval()


@pytest.mark.parametrize("strategy", [Q_V, QV_FFN, dataclasses.replace(QV_FFN, alpha_policy=AlphaPolicy.rslora)])
@pytest.mark.parametrize("steps", [1, 3])
def test_without_dropout_a_step_equals_that_on_separate_layers(phi3, strategy, steps):
    llama = separate_copy(phi3)
    with torch.no_grad():
        assert torch.allclose(phi3(IDS).logits, llama(IDS).logits, atol=1e-5)
    assert plan_on(phi3, strategy).trainable_parameters == plan_on(llama, strategy).trainable_parameters
    fused = train(attach(phi3, plan_on(phi3, strategy), 5), steps, weight_decay=0.1).merge_and_unload()
    alone = train(attach(llama, plan_on(llama, strategy), 5), steps, weight_decay=0.1).merge_and_unload()
    expected = separate_copy(fused).state_dict()
    for name, value in alone.state_dict().items():
        assert torch.allclose(value, expected[name], atol=2e-5), name


@pytest.mark.parametrize("kind", FUSED)
def test_the_adapter_loads_in_plain_peft(kind, tmp_path):
    base = small_model(kind)
    model = train(attach(base, plan_on(base, Q_V), 0), steps=2)
    with torch.no_grad():
        expected = model(IDS).logits
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(small_model(kind), tmp_path).eval()
        assert torch.allclose(again(IDS).logits, expected, atol=1e-5)


def test_trained_are_the_parts_stored_is_the_whole(phi3):
    plan = plan_on(phi3, Q_V)
    assert plan.trainable_parameters == 2 * (4 * (32 + 32) + 4 * (32 + 16))
    assert plan.stored_parameters == 2 * 8 * (32 + 64)
    model = attach(phi3, plan, 0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == plan.stored_parameters
    train(model, steps=2)
    moved = sum((layer.lora_B["default"].weight != 0).sum() for layer in adapted_modules(model).values())
    assert moved == 2 * (4 * 32 + 4 * 16)
    assert {entry["rows"] for entry in plan.entry()["modules"]} == {32, 16}


def test_parts_start_as_separate_layers_do(phi3):
    whole = adapted_modules(attach(phi3, plan_on(phi3, Q_V), 3))
    llama = separate_copy(Phi3ForCausalLM(Phi3Config(**SIZES)))
    alone = adapted_modules(attach(llama, plan_on(llama, Q_V), 3))
    for layer in range(2):
        stem = f"model.layers.{layer}.self_attn"
        parts = [alone[f"{stem}.{role}_proj"].lora_A["default"].weight for role in "qv"]
        assert torch.equal(whole[f"{stem}.qkv_proj"].lora_A["default"].weight, torch.cat(parts))


def test_parts_that_need_scales_of_their_own_are_refused_with_the_remedy(phi3):
    strategy = dataclasses.replace(Q_V, ranks=Ranks(q=8, v=4))
    with pytest.raises(PlanError, match=r"q r8, v r4 are parts of one module.*\n?.*") as caught:
        plan_on(phi3, strategy)
    assert "alpha_policy: proportional" in str(caught.value)
    proportional = dataclasses.replace(strategy, alpha_policy=AlphaPolicy.proportional)
    assert plan_on(phi3, proportional).scales == {8: 2.0, 4: 2.0}
    with pytest.raises(PlanError, match="scales of their own"):
        plan_on(phi3, dataclasses.replace(strategy, alpha_policy=AlphaPolicy.rslora))


def test_native_is_pefts_own_adapter_on_the_whole_module(phi3):
    from peft import LoraConfig, get_peft_model

    plan = plan_on(phi3, dataclasses.replace(Q_V, fused=Fused.native))
    assert {one.role for one in plan.modules} == {"q+k+v"}
    assert plan.entry()["fused"] == "native"
    peft = get_peft_model(copy.deepcopy(phi3), LoraConfig(r=4, target_modules=["qkv_proj"]))
    assert plan.trainable_parameters == plan.stored_parameters == peft.get_nb_trainable_parameters()[0]
    before = phi3.get_submodule("model.layers.0.self_attn.qkv_proj").weight.clone()
    merged = train(attach(phi3, plan, 0), steps=2).merge_and_unload()
    after = merged.get_submodule("model.layers.0.self_attn.qkv_proj").weight
    assert (after != before).any(dim=1).all()  # K's rows too


def test_native_parts_of_unequal_ranks_are_refused(phi3):
    with pytest.raises(PlanError, match="would need rank 8 and 4"):
        plan_on(phi3, dataclasses.replace(Q_V, ranks=Ranks(q=8, v=4), fused=Fused.native))


@pytest.mark.parametrize(
    ("change", "what"), [({"dora": True}, "magnitudes"), ({"init": Init.pissa}, "stay as they are")]
)
def test_what_would_move_the_other_rows_is_refused(phi3, change, what):
    with pytest.raises(PlanError, match=what) as caught:
        plan_on(phi3, dataclasses.replace(Q_V, **change))
    assert "fused=native" in str(caught.value)
