"""docs/architectures.md: what lorascope knows of every causal language model type, read from a small model of each.

python scripts/architectures.py            write it
python scripts/architectures.py --check    exit 1 where it is not what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from check_architectures import RESULTS, TRAINED
from lorascope.base.architecture import model_class
from lorascope.errors import ModelError
from lorascope.targets.module_map import ModuleMap, map_modules
from lorascope.targets.roles import CAUSAL_BY, group_of, is_adaptable_mixer, mixer_of, place_of
from lorascope.targets.weights import weights_of
from small_models import UNBUILDABLE, causal_types, quiet, seeing_types, small_config

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
HEAD = """# Architectures

Every causal language model type of transformers {version}, and every type that also sees images and is fine-tuned on
text, with what a strategy means on it. This page is written by `python scripts/architectures.py` from a small model of
each type, and a test keeps it true. Another test (`tests/targets/test_architectures.py`) holds each line against the
model's own arithmetic without knowing a name: it perturbs the rows that the map gives to a role and looks at which
operands of attention's two matrix products move.

Of {types} types **{exact}** are exact (every role by its name), **{structure}** are read by structure (names and shapes
in the block), **{partly}** have a role that cannot be told apart or is missing, **{refused}** are refused. Of the
{softmax} with softmax attention {good} ({share:.0f} %) are exact or by structure on all of q, k, v, o and the FFN.
**{trained}** were trained: two steps of a small model through `python train.py target=block`, its adapter saved and
loaded again in plain PEFT with the same loss (`make check-architectures` writes that into `docs/architectures.json`).

- `q k v o` and `gate up down` are the roles; `o_gate` is a gate on attention's output, `latent` the compression of
  multi-head latent attention, from which k and v are expanded; `mixer` is what recurs or convolves in
  attention's place.
- *fused*: several roles in one module, adapted by parts (`target.fused=parts`, the default: the other parts stay
  untouched to the last bit) or whole as PEFT does (`target.fused=native`).
- *experts*: stacks of matrices that are one parameter; PEFT adapts them without dropout
  (`target.lora_dropout=0`), and bitsandbytes leaves them as they are.
- *not on all layers*: a strategy with such a role needs `target.layers` or `target.missing=allow`.
- *past adapters*: weights of a mixer that fast kernels read without calling the module; an adapter there would be
  trained on one machine and ignored on another, so they have no role.
- Before the first step each model is asked once whether a later token changes the logits before it. If so it is
  refused: its eval loss would say nothing.
- A type that is not here, or your own model: `roles` in its YAML, or `target.modules` by name.

"""
SEEING = """
## Types that also see

Roles are those of the language model inside; the rest of the model, its vision tower among it, is left untouched to
the last bit, and the adapter is loaded on the whole model.

"""
TABLE = "| type | how | attention | FFN | mixer | trained | remarks |\n|---|---|---|---|---|---|---|\n"
# What the map cannot say by itself.
REMARKS = {
    "axk2": "q's heads alternate with the gate's",
    "blt": "the patcher, which is not trained, is left out",
    "deepseek_v4": "one projection is both k and v: no strategy can tell them apart",
    "doge": "v is left out: its values decide the attention mask as well",
    "dbrx": "the experts are flat 2-D parameters, which no adapter can sit on",
    "diffllama": "two attentions share q and k",
    "gemma4": "with attention_k_eq_v, k and v are one projection on the full-attention layers",
    "hrm_text": "two stacks of blocks, numbered one after the other, each run several times",
    "longcat_flash": "two attentions and two FFNs a layer, beside the experts",
    "mllama": "layers with cross-attention run only with images, and are left out",
    "reformer": "its reversible layers give no gradient to an adapter on a frozen base",
    "zaya": "queries and keys are mixed with each other behind their projections; v is two modules",
}
REMARKS |= dict.fromkeys(CAUSAL_BY, "refused unless is_decoder is true: it sees the future")
REMARKS["xlm"] = "refused unless causal is true: it sees the future"
REMARKS["laguna"] = "the shared experts are left out: PEFT does not load their adapters again"
REMARKS["mistral_large4"] = "the experts are left out: PEFT does not load their adapters again"
REMARKS["glm5_next"] = "the oracle does not see its sparse attention"
WITHOUT_SOFTMAX = {
    "falcon_mamba": "a state space model without attention or FFN",
    "mamba": "a state space model without attention or FFN",
    "mamba2": "a state space model without attention or FFN",
    "rwkv": "no softmax attention: time mixing, and channel mixing without a role",
    "xlstm": "no softmax attention: matrix memory",
}


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = page()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("docs/architectures.md is true" if same else "docs/architectures.md differs: make docs")
        return 0 if same else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """The whole page."""
    import transformers

    trained = json.loads(RESULTS.read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    tables = []
    for kinds in (causal_types(), seeing_types()):
        rows = []
        for kind in kinds:
            how, (attention, ffn, mixer, remarks) = describe(kind)
            done = trained.get(kind) == TRAINED
            softmax = kind not in WITHOUT_SOFTMAX
            counts.update([how, "types", *["trained"] * done, *["softmax"] * softmax])
            counts["good"] += softmax and how in ("exact", "structure")
            rows.append(f"| {kind} | {how} | {attention} | {ffn} | {mixer} | {'yes' if done else 'no'} | {remarks} |\n")
        tables.append(TABLE + "".join(rows))
    share = 100 * counts["good"] / counts["softmax"]
    return HEAD.format(version=transformers.__version__, share=share, **counts) + SEEING.join(tables)


def describe(kind: str) -> tuple[str, tuple[str, str, str, str]]:
    """How a type is known, and its cells."""
    if kind in UNBUILDABLE:
        return "refused", ("", "", "", f"not built: {UNBUILDABLE[kind]}")
    try:
        modules = small_map(kind)
    except ModelError as error:
        return "refused", ("", "", "", REMARKS.get(kind, error.what.rstrip(".")))
    remarks = [REMARKS[kind]] if REMARKS.get(kind) else []
    if kind in WITHOUT_SOFTMAX:
        remarks.append(WITHOUT_SOFTMAX[kind])
        left = [WITHOUT_ADAPTER.format(past_adapters(kind))] if past_adapters(kind) else []
        return ("partly" if kind == "rwkv" else "exact"), (*columns(modules), "; ".join(remarks + left))
    told_apart = all(one.d_out is not None for one in modules.projections)
    whole = {"q", "k", "v", "o", "up", "down"} <= set(modules.roles) and told_apart
    inferred = any(one.source == "structure" for one in modules.projections)
    how = "partly" if not whole else "structure" if inferred else "exact"
    stacks = sorted({one.role for one in modules.projections if one.experts > 1}, key=modules.roles.index)
    if stacks:
        remarks.append(f"experts: {' '.join(stacks)}")
    holes = [role for role in modules.roles if modules.missing(role)]
    if holes:
        remarks.append(f"not on all layers: {' '.join(holes)}")
    if past_adapters(kind):
        remarks.append(WITHOUT_ADAPTER.format(past_adapters(kind)))
    return how, (*columns(modules), "; ".join(remarks))


WITHOUT_ADAPTER = "past adapters: {}"


def past_adapters(kind: str) -> str:
    """The leaf names of a type's mixers that have no role."""
    model = meta_model(kind)
    places = ((weight, place_of(weight.name)) for weight in weights_of(model))
    left = (
        place.inside.rpartition(".")[2]
        for weight, place in places
        if place and mixer_of(weight, place) and not is_adaptable_mixer(weight, place)
    )
    return " ".join(dict.fromkeys(left))


@cache
def meta_model(kind: str) -> Any:
    """A small model of a type, on the meta device."""
    import torch

    with quiet(), torch.device("meta"):
        config = small_config(kind)
        return model_class(config).from_config(config)


def small_map(kind: str) -> ModuleMap:
    """Its module map."""
    return map_modules(meta_model(kind), kind, "a small model")


def columns(modules: ModuleMap) -> tuple[str, str, str]:
    """The modules of attention, of the FFN and of recurrent mixers, with their roles."""
    groups: dict[str, dict[str, str]] = {"attention": {}, "ffn": {}, "mixer": {}}
    for one in modules.projections:
        leaf = one.parameter if one.parameter != "weight" else one.module.rpartition(".")[2]
        if leaf.isdigit() or leaf in ("linear", "dense") or (one.experts > 1 and leaf == "weight"):
            leaf = ".".join(one.module.split(".")[-2:])
        roles = "+".join(one.fused_with) if one.fused_with else one.role
        if one.fused_with:
            roles += " fused" if one.d_out is not None else " not told apart"
        groups[group_of(one.role)].setdefault(leaf, "" if one.role == "mixer" else f" {roles}")
    return tuple(", ".join(f"`{leaf}`{roles}" for leaf, roles in group.items()) for group in groups.values())  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
