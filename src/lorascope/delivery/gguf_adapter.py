"""An adapter as a GGUF file for llama.cpp: under its names of tensors, in its order of rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.delivery.merging import split_key
from lorascope.delivery.uniform_rank import MERGE, check_absent, uniform
from lorascope.errors import RunError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

ENGINE = "llama.cpp"
FILE = "adapter.gguf"
PLACE = f"--for {ENGINE}"
# the tensors of a block to which llama.cpp applies an adapter in every architecture of the table; others it reads and
# passes over in silence, like the embeddings of positions
APPLIED = ("ATTN_Q", "ATTN_K", "ATTN_V", "ATTN_QKV", "ATTN_OUT", "FFN_GATE", "FFN_UP", "FFN_DOWN")
ENDS = ("TOKEN_EMBD", "OUTPUT")


@dataclass(frozen=True)
class Layout:
    """What llama.cpp calls a model type, and which rows its conversion moves.

    pairs: the rows of Q and K, from the two halves of a head that rotate together to neighbours.
    by_head: the rows of a fused QKV, from Q, K and V of one head after another to all Q, all K, all V.
    """

    architecture: str
    pairs: bool = False
    by_head: bool = False


# The types whose conversion is known row by row; `make check-llama-cpp` holds every one against llama.cpp itself.
LAYOUTS = {
    "llama": Layout("llama", pairs=True),
    "mistral": Layout("llama", pairs=True),
    "mixtral": Layout("llama", pairs=True),
    "arcee": Layout("arcee", pairs=True),
    "granite": Layout("granite", pairs=True),
    "granitemoe": Layout("granitemoe", pairs=True),
    "ministral3": Layout("mistral3", pairs=True),
    "mistral3": Layout("mistral3", pairs=True),
    "olmo": Layout("olmo", pairs=True),
    "smollm3": Layout("smollm3", pairs=True),
    "bloom": Layout("bloom", by_head=True),
    "gpt_neox": Layout("gptneox", by_head=True),
    "apertus": Layout("apertus"),
    "cohere": Layout("command-r"),
    "cohere2": Layout("cohere2"),
    "ernie4_5": Layout("ernie4_5"),
    "exaone4": Layout("exaone4"),
    "gemma": Layout("gemma"),
    "gemma2": Layout("gemma2"),
    "gemma3": Layout("gemma3"),
    "gemma3_text": Layout("gemma3"),
    "glm4": Layout("glm4"),
    "glm4_moe": Layout("glm4moe"),
    "gpt2": Layout("gpt2"),
    "hunyuan_v1_dense": Layout("hunyuan-dense"),
    "nemotron": Layout("nemotron"),
    "olmo2": Layout("olmo2"),
    "olmo3": Layout("olmo2"),
    "phi": Layout("phi2"),
    "phi3": Layout("phi3"),
    "qwen2": Layout("qwen2"),
    "qwen2_5_vl": Layout("qwen2vl"),
    "qwen2_moe": Layout("qwen2moe"),
    "qwen2_vl": Layout("qwen2vl"),
    "qwen3": Layout("qwen3"),
    "qwen3_moe": Layout("qwen3moe"),
    "qwen3_vl": Layout("qwen3vl"),
    "seed_oss": Layout("seed_oss"),
    "stablelm": Layout("stablelm"),
    "starcoder2": Layout("starcoder2"),
}


def export_gguf(adapter: Path, out: Path, config: PretrainedConfig, base: str) -> dict[str, Any]:
    """Write OUT/adapter.gguf, float32, which llama.cpp loads beside the base as its own script converts it.

    Every module has the same rank, its scale is in its B, and `adapter.lora.alpha` is the rank: llama.cpp scales by
    alpha / rank.

    Args:
        adapter: a folder with PEFT's adapter.
        out: a folder; is complete afterwards, or absent.
        config: of the base.
        base: what the file calls its base; never a path of this machine.

    Returns:
        What `uniform` says, and the `architecture` and `blocks` of the base that it fits; JSON-ready.

    Raises:
        RunError: when `out` is there, or llama.cpp cannot load what the adapter has.

    Source: docs/gguf.md of the ggml project, src/llama-adapter.cpp of llama.cpp.
    """
    gguf = _gguf()
    check_absent(out)
    layout = _layout(config)
    _, tensors, report = uniform(adapter, ENGINE)
    blocks = int(config.get_text_config().num_hidden_layers)
    named = _named(tensors, config, layout, blocks)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        folder = Path(aside, "adapter")
        folder.mkdir()
        writer = gguf.GGUFWriter(folder / FILE, layout.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(report["rank"]))
        if base:
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, base)
        for name, value in named.items():
            writer.add_tensor(name, value.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.rename(folder, out)
    return report | {"architecture": layout.architecture, "blocks": blocks}


def _gguf() -> Any:
    """The package gguf.

    Raises:
        RunError: when it is not installed.
    """
    try:
        import gguf
    except ImportError:
        remedy = "Run: pip install 'lorascope[embedded]'"
        raise RunError(PLACE, "needs the package gguf, which is not installed.", remedy) from None
    return gguf


def _layout(config: PretrainedConfig) -> Layout:
    """How llama.cpp lays out a base.

    Raises:
        RunError: where that is not known, or the installed gguf does not know the architecture.
    """
    layout = LAYOUTS.get(config.model_type)
    if layout is None:
        kind = config.model_type
        what = f"cannot be written for the model type '{kind}': how llama.cpp orders its rows is not known here."
        raise RunError(PLACE, what, f"{MERGE}, then convert the merged model with llama.cpp's own script.")
    if layout.architecture not in _gguf().MODEL_ARCH_NAMES.values():
        what = f"needs a newer gguf: the installed one does not know the architecture '{layout.architecture}'."
        raise RunError(PLACE, what, "Run: pip install --upgrade gguf")
    return layout


def _named(
    tensors: Mapping[str, torch.Tensor], config: PretrainedConfig, layout: Layout, blocks: int
) -> dict[str, torch.Tensor]:
    """The tensors under llama.cpp's names, their rows in its order."""
    gguf = _gguf()
    architecture = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.architecture)
    names = gguf.get_tensor_name_map(architecture, blocks)
    tied = any(getattr(one, "tie_word_embeddings", False) for one in (config, config.get_text_config()))
    found: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        module, ending = split_key(key)
        kind, name = _tensor_of(module, names, tied)
        is_a = ending in ("lora_A.weight", "lora_embedding_A")
        if not is_a and (rows := moved_rows(kind, value.shape[0], config, layout)) is not None:
            value = value[rows]
        if is_a and kind == "TOKEN_EMBD":
            value = value.T  # llama.cpp looks up rows of A, one for each token
        found[f"{name}.weight.{'lora_a' if is_a else 'lora_b'}"] = value
    return found


def _tensor_of(module: str, names: Any, tied: bool) -> tuple[str, str]:
    """What gguf calls a module's weight: its kind, and its name.

    Args:
        module: path inside the base; of a model that also sees, with its `language_model`.
        names: gguf's map of names.
        tied: the head is the embeddings.

    Raises:
        RunError: when it has none, or llama.cpp would pass over an adapter there.
    """
    found = names.get_type_and_name(module.replace("language_model.", ""))
    kind = found[0].name if found else ""
    if kind in ENDS and tied:
        what = f"has one tensor for embeddings and head, and no adapter on either of them alone ({module})."
        raise RunError(PLACE, what, MERGE)
    if kind not in (*APPLIED, *ENDS):
        raise RunError(PLACE, f"has no adapter on {module}.", MERGE)
    return kind, found[1]


def moved_rows(kind: str, rows: int, config: PretrainedConfig, layout: Layout) -> torch.Tensor | None:
    """For every row of llama.cpp's weight, the row of the base's weight that stands there; None where none is moved.

    Args:
        kind: gguf's name for what the weight is: ATTN_Q.
        rows: of the weight.
        config: of the base.
        layout: of its type.
    """
    import torch

    text = config.get_text_config()
    heads = text.num_attention_heads
    order = torch.arange(rows)
    if layout.pairs and kind in ("ATTN_Q", "ATTN_K"):
        own = heads if kind == "ATTN_Q" else getattr(text, "num_key_value_heads", None) or heads
        return order.view(own, 2, -1).transpose(1, 2).reshape(-1)
    if layout.by_head and kind == "ATTN_QKV":
        return order.view(heads, 3, -1).transpose(0, 1).reshape(-1)
    return None
