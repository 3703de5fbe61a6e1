"""The small models are what they say, and the oracle sees their attention; names are used here only to check it."""

import pytest
import torch

from small_models import UNBUILDABLE, VARIANTS, causal_types, quiet, seeing_types, small_model
from targets import oracle

TYPES = [*causal_types(), *seeing_types()]
CASES = [(one, "") for one in TYPES] + [(one, name) for one, variants in VARIANTS.items() for name in variants]
NO_SOFTMAX = {"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"}
# a length that is no size of any model
IDS = torch.tensor([[(7 * row + 5 * column) % 90 + 5 for column in range(11)] for row in range(2)])


@pytest.fixture(autouse=True)
def _plainly():
    """On one thread: these tensors are smaller than the cost of sharing them out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with quiet():
        yield
    torch.set_num_threads(threads)


def made(model_type, variant=""):
    return small_model(model_type, **(VARIANTS[model_type][variant] if variant else {}))


@pytest.mark.parametrize(("model_type", "variant"), CASES, ids=lambda one: one or "-")
def test_every_type_runs_and_its_attention_is_seen(model_type, variant):
    if model_type in UNBUILDABLE:
        pytest.skip(UNBUILDABLE[model_type])
    model = made(model_type, variant)
    seen = oracle.observe(model, IDS)
    assert seen.logits.shape[:2] == IDS.shape
    assert seen.logits.isfinite().all()
    assert seen.logits.std() > 0.01
    assert bool(seen.attentions) == (model_type not in NO_SOFTMAX)
    for one in seen.attentions:
        keys = one.keys.shape[-2]
        assert one.queries.shape[:-1] == one.probabilities.shape[:-1] == one.context.shape[:-1]
        assert one.probabilities.shape[-1] in (keys, keys + 1)
        assert one.probabilities.sum(-1).allclose(torch.ones(()))
        assert (one.probabilities[..., :keys] @ one.values).allclose(one.context, atol=1e-5)


def test_what_cannot_be_built_and_what_varies_are_types_of_transformers():
    assert UNBUILDABLE.keys() <= {*TYPES}
    assert VARIANTS.keys() <= {*TYPES} - UNBUILDABLE.keys()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "diffllama", "jetmoe", "mamba", "reformer", "zamba2"])
def test_a_model_is_made_by_its_type_and_seed(model_type):
    first, again, other = small_model(model_type), small_model(model_type), small_model(model_type, seed=1)
    for (name, tensor), same in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, same), name
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not any(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "gpt_oss", "qwen3_next", "deepseek_v3", "bart"])
def test_no_weight_is_zero_or_constant(model_type):
    for name, parameter in small_model(model_type).named_parameters():
        assert parameter.std() > 0.01, name


def thirds(heads, size, part):
    """The rows of one of three parts that alternate by heads."""
    return [((3 * head + part) * size, (3 * head + part + 1) * size) for head in range(heads)]


NEOX, FALCON = "gpt_neox.layers.0.attention.query_key_value", "transformer.h.0.self_attention.query_key_value"
LATENT, GATED = "model.layers.0.self_attn.", "model.layers.1.self_attn."
SEEN = [
    ("llama", "", "model.layers.0.self_attn.q_proj", None, False, "queries"),
    ("llama", "", "model.layers.0.self_attn.k_proj", None, False, "keys"),
    ("llama", "", "model.layers.0.self_attn.v_proj", None, False, "values"),
    ("llama", "", "model.layers.0.self_attn.o_proj", None, False, ""),
    ("llama", "", "model.layers.0.mlp.gate_proj", None, False, ""),
    ("gpt2", "", "transformer.h.0.attn.c_attn", [(0, 32)], True, "queries"),
    ("gpt2", "", "transformer.h.0.attn.c_attn", [(32, 64)], True, "keys"),
    ("gpt2", "", "transformer.h.0.attn.c_attn", [(64, 96)], True, "values"),
    ("gpt_neox", "", NEOX, thirds(4, 8, 0), False, "queries"),
    ("gpt_neox", "", NEOX, thirds(4, 8, 1), False, "keys"),
    ("gpt_neox", "", NEOX, thirds(4, 8, 2), False, "values"),
    ("falcon", "", FALCON, [(0, 16), (32, 48)], False, "queries"),
    ("falcon", "", FALCON, [(16, 24), (48, 56)], False, "keys"),
    ("falcon", "", FALCON, [(24, 32), (56, 64)], False, "values"),
    ("falcon", "multi_query", FALCON, [(0, 32)], False, "queries"),
    ("falcon", "multi_query", FALCON, [(32, 40)], False, "keys"),
    ("falcon", "multi_head", FALCON, thirds(4, 8, 2), False, "values"),
    ("deepseek_v3", "", LATENT + "q_a_proj", None, False, "queries"),
    ("deepseek_v3", "", LATENT + "q_b_proj", None, False, "queries"),
    ("deepseek_v3", "", LATENT + "kv_a_proj_with_mqa", [(0, 18)], False, "keys values"),
    ("deepseek_v3", "", LATENT + "kv_a_proj_with_mqa", [(18, 24)], False, "keys"),
    ("deepseek_v3", "", LATENT + "kv_b_proj", [(24 * head, 24 * head + 10) for head in range(4)], False, "keys"),
    ("deepseek_v3", "", LATENT + "kv_b_proj", [(24 * head + 10, 24 * head + 24) for head in range(4)], False, "values"),
    ("gpt_oss", "", LATENT + "q_proj", None, False, "queries"),
    ("gpt_oss", "", LATENT + "k_proj", None, False, "keys"),
    ("gpt_oss", "", LATENT + "v_proj", None, False, "values"),
    ("qwen3_next", "", GATED + "q_proj", [(24 * head, 24 * head + 12) for head in range(4)], False, "queries"),
    ("qwen3_next", "", GATED + "q_proj", [(24 * head + 12, 24 * head + 24) for head in range(4)], False, ""),
    ("qwen3_next", "", GATED + "k_proj", None, False, "keys"),
]


@pytest.mark.parametrize(("model_type", "variant", "module", "rows", "transposed", "moved"), SEEN)
def test_a_projection_moves_what_it_makes_and_nothing_else(model_type, variant, module, rows, transposed, moved):
    model = made(model_type, variant)
    before = oracle.observe(model, IDS)
    with oracle.perturbed(model, module, "weight", rows, transposed):
        after = oracle.observe(model, IDS)
    first, then = before.attentions[0], after.attentions[0]
    tensors = ("queries", "keys", "values")
    assert " ".join(one for one in tensors if not torch.equal(getattr(first, one), getattr(then, one))) == moved
    assert not torch.equal(before.logits, after.logits)
    assert torch.equal(before.logits, oracle.observe(model, IDS).logits)


@pytest.mark.parametrize(("parameter", "transposed"), [("gate_up_proj", True), ("down_proj", True)])
def test_noise_lies_on_the_rows_alone_and_is_taken_back(parameter, transposed):
    experts = (model := small_model("gpt_oss")).model.layers[0].mlp.experts
    before = getattr(experts, parameter).detach().clone()
    with oracle.perturbed(model, "model.layers.0.mlp.experts", parameter, [(3, 7)], transposed):
        changed = getattr(experts, parameter) != before
    assert changed[..., 3:7].all()
    assert changed.sum() == changed[..., 3:7].numel()
    assert torch.equal(getattr(experts, parameter), before)
    mixtral = small_model("mixtral")
    stack = mixtral.model.layers[0].mlp.experts.down_proj
    before = stack.detach().clone()
    with oracle.perturbed(mixtral, "model.layers.0.mlp.experts", "down_proj", [(3, 7)]):
        assert (stack != before).any((0, 2)).tolist() == [3 <= row < 7 for row in range(32)]


def test_an_attention_knows_its_block_and_a_hook_gives_the_blocks_output():
    model = small_model("qwen3_next")
    hooks = ["model.layers.0", "model.layers.1", "model.layers.1.mlp"]
    seen = oracle.observe(model, IDS, hooks)
    assert [one.block for one in seen.attentions] == [1]
    assert list(seen.outputs) == ["model.layers.0", "model.layers.1.mlp", "model.layers.1"]
    assert seen.outputs["model.layers.1"].shape == (2, 11, 32)
    hidden = model(IDS, output_hidden_states=True, use_cache=False).hidden_states
    assert torch.equal(seen.outputs["model.layers.0"], hidden[1])


def test_no_hook_stays():
    model = small_model("llama")
    oracle.observe(model, IDS, ["model.layers.0"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
