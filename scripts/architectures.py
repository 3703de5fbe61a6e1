"""docs/architectures.md: what lorascope knows of every causal language model type, read from a small model of each.

python scripts/architectures.py            write it
python scripts/architectures.py --check    exit 1 where it is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lorascope.errors import ModelError
from lorascope.targets.module_map import ModuleMap, map_modules
from small_models import UNBUILDABLE, quiet, small_config

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
HEAD = """# Architectures

Every causal language model type of transformers {version}, and what a strategy means on it. This page is written by
`python scripts/architectures.py` from a small model of each type, and a test keeps it true. Another test
(`tests/targets/test_architectures.py`) holds each line against the model's own arithmetic without knowing a name:
it perturbs the rows that the map gives to a role and looks at which operands of attention's two matrix products move.

**{exact}** types are exact (every role by its name), **{structure}** are read by structure (names and shapes in the
block), **{partly}** have a role that cannot be told apart or is missing, **{refused}** are refused. Of the {softmax}
types with softmax attention {good} ({share:.0f} %) are exact or by structure on all of q, k, v, o and the FFN.

- `q k v o` and `gate up down` are the roles; `o_gate` is a gate on attention's output, `latent` the compression of
  multi-head latent attention, from which k and v are expanded.
- *fused*: several roles in one module, adapted by parts (`target.fused=parts`, the default: the other parts stay
  untouched to the last bit) or whole as PEFT does (`target.fused=native`).
- *experts*: stacks of matrices that are one parameter; PEFT adapts them without dropout
  (`target.lora_dropout=0`), and bitsandbytes leaves them as they are.
- *not on all layers*: a strategy with such a role needs `target.layers` or `target.missing=allow`.
- A type that is not here, or your own model: `roles` in its YAML, or `target.modules` by name.

"""
TABLE = "| type | how | attention | FFN | remarks |\n|---|---|---|---|---|\n"
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
    "xlnet": "attention's weights are bare parameters, which PEFT cannot adapt",
    "zaya": "queries and keys are mixed with each other behind their projections; v is two modules",
}
WITHOUT_SOFTMAX = {
    "falcon_mamba": "a state space model without attention or FFN",
    "mamba": "a state space model without attention or FFN",
    "mamba2": "a state space model without attention or FFN",
    "rwkv": "no softmax attention: time mixing",
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
    from transformers.models.auto import modeling_auto

    rows, counts = [], dict.fromkeys(("exact", "structure", "partly", "refused"), 0)
    softmax = good = 0
    for kind in sorted(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        how, cells = describe(kind)
        counts[how] += 1
        if kind not in WITHOUT_SOFTMAX:
            softmax += 1
            good += how in ("exact", "structure")
        rows.append(f"| {kind} | {how} | {' | '.join(cells)} |\n")
    head = HEAD.format(
        version=transformers.__version__, softmax=softmax, good=good, share=100 * good / softmax, **counts
    )
    return head + TABLE + "".join(rows)


def describe(kind: str) -> tuple[str, tuple[str, str, str]]:
    """How a type is known, and its cells."""
    if kind in UNBUILDABLE:
        return "refused", ("", "", f"not built: {UNBUILDABLE[kind]}")
    try:
        modules = small_map(kind)
    except ModelError as error:
        return "refused", ("", "", REMARKS.get(kind, error.what))
    remarks = [REMARKS[kind]] if REMARKS.get(kind) else []
    if kind in WITHOUT_SOFTMAX:
        remarks.append(WITHOUT_SOFTMAX[kind])
        return ("partly" if modules.roles else "refused"), (*columns(modules), "; ".join(remarks))
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
    return how, (*columns(modules), "; ".join(remarks))


def small_map(kind: str) -> ModuleMap:
    """The module map of a small model, on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small_config(kind))
    return map_modules(model, kind, "a small model")


def columns(modules: ModuleMap) -> tuple[str, str]:
    """The modules of attention and of the FFN, with their roles."""
    groups: dict[str, dict[str, str]] = {"attention": {}, "ffn": {}}
    for one in modules.projections:
        leaf = one.parameter if one.parameter != "weight" else one.module.rpartition(".")[2]
        if leaf.isdigit() or leaf in ("linear", "dense") or (one.experts > 1 and leaf == "weight"):
            leaf = ".".join(one.module.split(".")[-2:])
        roles = "+".join(one.fused_with) if one.fused_with else one.role
        if one.fused_with:
            roles += " fused" if one.d_out is not None else " not told apart"
        group = "ffn" if one.role in ("gate", "up", "down") else "attention"
        groups[group].setdefault(leaf, roles)
    return tuple(", ".join(f"`{leaf}` {roles}" for leaf, roles in group.items()) for group in groups.values())  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
