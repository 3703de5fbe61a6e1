"""The module map of every causal language model type, held against what the model does.

The oracle knows no names: it sees which operands of which matrix products move when a weight's rows are perturbed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import pytest
import torch

import architectures
from lorascope.config.schema import GROUPS, Missing, Ranks, TargetConfig
from lorascope.errors import ModelError
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import ModuleMap, Projection, map_modules
from lorascope.targets.roles import place_of
from small_models import UNBUILDABLE, VARIANTS, causal_types, seeing_types, small_model
from targets import oracle

IDS = torch.randint(1, 90, (2, 11), generator=torch.Generator().manual_seed(7))
TENSORS = ("queries", "keys", "probabilities", "values", "context")
# what a role's rows move in their own attention; the probabilities and the context follow from it
MOVES = {"q": {"queries"}, "k": {"keys"}, "v": {"values"}}
FOLLOWS = {"queries": {"probabilities", "context"}, "keys": {"probabilities", "context"}, "values": {"context"}}

UNTRAINABLE = {"reformer", "cpmant", "deepseek_ocr2", "molmo2", "paligemma", "shieldgemma2", "unlimited_ocr", "xlnet"}
UNSEEN = {"glm5_next"}  # its sparse attention passes by the products that the oracle watches
MIXES = {"zaya"}  # its queries and keys are averaged with each other before they meet
# types whose map lacks a role of their attention, and why, in docs/architectures.md
PARTLY = {"doge"}
# up is clamped, capped, normed, or has something added: not linear
NOT_LINEAR = {
    *("bitnet", "deepseek_v4", "gpt_oss", "inkling2", "inkling2_text", "minimax_m3_vl", "minimax_m3_vl_text", "zamba2"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def types() -> list[tuple[str, str]]:
    built = [kind for kind in (*causal_types(), *seeing_types()) if kind not in UNBUILDABLE]
    return [(kind, variant) for kind in built for variant in ("", *VARIANTS.get(kind, {}))]


@cache
def mapped(kind: str, variant: str) -> tuple[torch.nn.Module, ModuleMap | None]:
    model = small_model(kind, **VARIANTS[kind][variant] if variant else {})
    try:
        return model, map_modules(model, kind, "here")
    except ModelError:
        return model, None


def aliases(model: torch.nn.Module, names: set[str]) -> set[str]:
    """These parameters, and whatever else is tied to them."""
    state = model.state_dict()
    places = {state[name].data_ptr() for name in names if name in state}
    return names | {name for name, value in state.items() if value.data_ptr() in places}


def block_of(projection: Projection) -> str:
    place = place_of(projection.module)
    assert place
    return f"{place.stem}.{place.number}"


def moved(before: oracle.Observation, after: oracle.Observation, block: int | None) -> list[set[str]]:
    """For each attention of one block, or of all where the layers are no modules, which of its tensors moved."""
    return [
        {name for name in TENSORS if not torch.equal(getattr(one, name), getattr(other, name))}
        for one, other in zip(before.attentions, after.attentions, strict=True)
        if block is None or one.block == block
    ]


def perturb(model, projections) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for one in projections:
        rows = one.rows
        stack.enter_context(oracle.perturbed(model, one.module, one.parameter, rows, one.transposed))
    return stack


def judge(role: str, ordinal: int, seen: list[set[str]], mixes: bool) -> str:
    """What contradicts a role in the movements of its block's attentions; empty where nothing does."""
    first = next((index for index, tensors in enumerate(seen) if tensors), None)
    if role in MOVES:
        if first is None:
            return "no attention moved"
        wanted = MOVES[role] | set().union(*(FOLLOWS[one] for one in MOVES[role]))
        if mixes and role in "qk":
            wanted = {"queries", "keys", "probabilities", "context"}
        return "" if seen[first] == wanted else f"moved {sorted(seen[first])}, not {sorted(wanted)}"
    if role == "latent":
        if first is None:
            return "no attention moved"
        return "" if seen[first] & {"queries", "keys"} else f"moved {sorted(seen[first])}"
    own = ordinal if role in ("o", "o_gate") and ordinal < len(seen) else 0
    return "" if first is None or first > own else f"moved {sorted(seen[first])} of attention {first}"


def layer_kinds(modules: ModuleMap) -> list[list[Projection]]:
    """The projections of one layer of each kind: layers of the same names and shapes are judged once."""
    kinds: dict[object, list[Projection]] = {}
    for layer in range(modules.layers):
        there = [one for one in modules.projections if one.layer == layer and one.d_out is not None]
        look = tuple((one.role, one.ordinal, one.d_in, one.d_out, one.module.split(".")[-1]) for one in there)
        kinds.setdefault(look, there)
    return list(kinds.values())


def judged_together(there: list[Projection]) -> list[list[Projection]]:
    """A layer's projections, each for itself, but for the FFN's, which all must leave attention alone."""
    ffn = [one for one in there if one.role in GROUPS["ffn"]]
    return [[one] for one in there if one not in ffn] + ([ffn] if ffn else [])


def contradictions(kind: str, variant: str) -> list[str]:
    model, modules = mapped(kind, variant)
    assert modules is not None
    hooks = list(dict.fromkeys(block_of(one) for one in modules.projections))
    before = oracle.observe(model, IDS, hooks)
    faults = []
    for there in layer_kinds(modules):
        for together in judged_together(there):
            one = together[0]
            with perturb(model, together):
                after = oracle.observe(model, IDS, hooks)
            fault = judge(one.role, one.ordinal, moved(before, after, hooks.index(block_of(one))), kind in MIXES)
            if not fault and torch.equal(before.logits, after.logits):
                fault = "nothing moved"
            if fault:
                faults.append(f"{one.role} {one.module} {one.parameter}: {fault}")
    return faults


@pytest.mark.parametrize(("kind", "variant"), types())
def test_every_role_moves_what_its_name_says_and_nothing_else(kind, variant):
    _, modules = mapped(kind, variant)
    if modules is None:
        assert kind in UNTRAINABLE
        return
    assert modules.roles
    if kind not in UNSEEN:
        assert contradictions(kind, variant) == []


@pytest.mark.parametrize(("kind", "variant"), types())
def test_an_attention_that_the_oracle_sees_is_on_the_map(kind, variant):
    model, modules = mapped(kind, variant)
    if modules is None:
        return
    seen = oracle.observe(model, IDS)
    lacking = {role for role in "qkvo" if role not in modules.roles}
    assert not lacking or not seen.attentions or kind in PARTLY, lacking


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in types()}))
def test_the_output_of_an_ffn_doubles_with_up_and_not_with_gate(kind):
    """A gated FFN is down(act(gate(x)) * up(x)): linear in up alone."""
    model, modules = mapped(kind, "")
    if modules is None or "gate" not in modules.roles or kind in NOT_LINEAR:
        return
    for there in layer_kinds(modules):
        for down in [one for one in there if one.role == "down"]:
            pair = {one.role: one for one in there if one.role in ("gate", "up") and same_ffn(one, down)}
            if len(pair) < 2:
                continue
            before = ffn_output(model, down)
            with scaled(model, pair["up"]):
                assert torch.allclose(ffn_output(model, down), 2 * before, rtol=1e-4, atol=1e-5), down.module
            with scaled(model, pair["gate"]):
                assert not torch.allclose(ffn_output(model, down), 2 * before, rtol=1e-2), down.module


def same_ffn(one: Projection, down: Projection) -> bool:
    parents = one.module, down.module
    if down.parameter == "weight":
        parents = one.module.rpartition(".")[0], down.module.rpartition(".")[0]
    return one.experts == down.experts and len(set(parents)) == 1


def ffn_output(model: torch.nn.Module, down: Projection) -> torch.Tensor:
    """What a linear `down` takes, or what a stack of experts gives, in the first pass through it."""
    seen: list[torch.Tensor] = []
    module = model.get_submodule(down.module)

    def note(_, inputs, output):
        seen.append((output if down.parameter != "weight" else inputs[0]).detach().clone())

    handle = module.register_forward_hook(note)
    try:
        with torch.no_grad():
            model(IDS, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


@contextlib.contextmanager
def scaled(model: torch.nn.Module, one: Projection) -> Iterator[None]:
    """Twice the rows of one role, and of its bias."""
    module = model.get_submodule(one.module)
    tensors = [getattr(module, one.parameter)]
    bias = getattr(module, "bias" if one.parameter == "weight" else f"{one.parameter}_bias", None)
    tensors += [bias] if isinstance(bias, torch.Tensor) else []
    kept = [tensor.detach().clone() for tensor in tensors]
    for index, tensor in enumerate(tensors):
        last = one.transposed or index == 1
        rows = tensor.data if last else tensor.data.transpose(-1, -2)
        for start, stop in one.rows or ((0, one.width),):
            rows[..., start:stop] *= 2
    try:
        yield
    finally:
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.data.copy_(value)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")
@pytest.mark.parametrize("kind", sorted({kind for kind, _ in types()}))
def test_adapters_on_q_v_and_down_train_their_rows_alone(kind):
    base = small_model(kind)
    try:
        modules = map_modules(base, kind, "here")
    except ModelError:
        return
    parts = {one.role for one in modules.projections if one.d_out is None}
    wanted = [role for role in ("q", "v", "down") if role in modules.roles and role not in parts]
    if not wanted:
        return
    strategy = TargetConfig(ranks=Ranks(**dict.fromkeys(wanted, 2)), lora_dropout=0.0, missing=Missing.allow)
    plan = plan_targets(strategy, modules)
    kept = {name: value.clone() for name, value in base.state_dict().items()}
    model = attach(base, plan, 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    logits = model(input_ids=IDS, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS.flatten()).backward()
    torch.optim.SGD(trained, lr=10.0).step()
    merged = model.merge_and_unload().state_dict()
    expected = {f"{one.module}.{one.parameter}": one for one in modules.projections if one.role in wanted}
    moved_weights = {name for name, value in kept.items() if not torch.equal(value, merged[name])}
    idle = {name for name in expected if name not in moved_weights}
    assert moved_weights <= aliases(base, set(expected)), moved_weights - set(expected)
    # a batch may pass experts by
    assert idle <= aliases(base, {name for name, one in expected.items() if one.experts > 1})
    for name in moved_weights & set(expected):
        there = [one for one in modules.projections if f"{one.module}.{one.parameter}" == name]
        if any(one.rows is None for one in there):
            continue
        change = (merged[name] - kept[name]).abs()
        change = change if there[0].transposed else change.transpose(-1, -2)
        rows = change.flatten(0, -2).amax(0) > 0
        touched = {index for index, flag in enumerate(rows.tolist()) if flag}
        allowed = {index for one in there if one.role in wanted for a, b in one.rows for index in range(a, b)}
        assert touched <= allowed, name
        assert touched, name


def test_the_page_of_architectures_is_true():
    assert architectures.PAGE.read_text(encoding="utf-8") == architectures.page(), "make docs"
