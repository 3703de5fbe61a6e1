"""Write an adapter into the weights of its base: one tensor in memory at a time, where its kind allows that."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.base.architecture import model_class
from lorascope.base.hub import INDEX
from lorascope.errors import ModelError, RunError

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
PREFIX = "base_model.model."
ENDINGS = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "bias")
# the dtypes that a base may have, by what safetensors calls them
NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Update:
    """What is added to one weight of the base: scale * B A, each a tensor of the adapter's file."""

    a: str
    b: str
    scale: float
    transposed: bool = False  # the weight is stored (d_in, d_out)

    def apply(self, weight: torch.Tensor, read: Any) -> torch.Tensor:
        """The merged weight, float32."""
        a, b = read(self.a).float(), read(self.b).float()
        delta = self.scale * (b @ a)
        return weight.float() + (delta.T if self.transposed else delta)


def merge(
    base: Path, adapter: Path, out: Path, dtype: str, progress: Callable[[int], object] = lambda tensors: None
) -> dict[str, Any]:
    """A folder with the merged weights, the config, the tokenizer and its template.

    Args:
        base: a folder with the base in full precision, as `save_pretrained` or the hub has it.
        adapter: a folder with PEFT's adapter.
        out: is complete afterwards, or absent.
        dtype: of the merged weights: float32, bfloat16 or float16.
        progress: called with the number of the base's tensors that were written since the last call.

    Returns:
        How many `weights` were changed, in how many `files`, and `way`: tensor by tensor, or in memory.

    Raises:
        RunError: when `out` is there already, or the adapter's file holds what cannot be merged.
    """
    if out.exists():
        raise RunError(str(out), "is there already.", "Remove it, or name another folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        folder = Path(aside, "merged")
        folder.mkdir()
        updates, biases = _updates(base, adapter)
        if updates is None:
            report = _in_memory(base, adapter, folder, dtype)
            progress(tensors_of(base))
        else:
            report = _by_tensor(base, adapter, folder, dtype, (updates, biases), progress)
        _copy_rest(base, folder)
        os.rename(folder, out)
    return report


def _updates(base: Path, adapter: Path) -> tuple[dict[str, Update] | None, dict[str, str]]:
    """The update of each tensor of the base's files, and the biases that are replaced; None where memory is needed.

    DoRA, PiSSA, experts that are one parameter, a head that is tied to the embeddings, and weights that the files call
    otherwise are merged by PEFT itself.
    """
    from safetensors import safe_open

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    plain = config.get("init_lora_weights") in (True, "eva", "gaussian", None)
    if config.get("use_dora") or config.get("target_parameters") or not plain:
        return None, {}
    shapes = {name: tuple(entry["shape"]) for file in weight_files(base) for name, entry in header_of(file)[0].items()}
    updates: dict[str, Update] = {}
    biases: dict[str, str] = {}
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        keys = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for key in keys:
        module, ending = split_key(key)
        if ending == "bias":
            biases[f"{module}.bias"] = key
        elif ending in ("lora_A.weight", "lora_embedding_A"):
            embedding = ending == "lora_embedding_A"
            other = key.removesuffix(ending) + ("lora_embedding_B" if embedding else "lora_B.weight")
            scale, _ = scale_and_rank(config, module)
            d_out, d_in = keys[other][0], keys[key][1]
            name = f"{module}.weight"
            transposed = shapes.get(name) == (d_in, d_out) and (embedding or bool(config.get("fan_in_fan_out")))
            if not transposed and shapes.get(name) != (d_out, d_in):
                return None, {}
            updates[name] = Update(key, other, scale, transposed)
    tied = json.loads((base / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings", True)
    if tied and any("embed" in name or name.startswith("lm_head") for name in updates):
        return None, {}
    return (None, {}) if biases.keys() - shapes.keys() else (updates, biases)


def scale_and_rank(config: Mapping[str, Any], module: str) -> tuple[float, int]:
    """The scale and the rank that a PEFT config gives a module."""
    rank = int(_matching(config.get("rank_pattern") or {}, module, config["r"]))
    alpha = _matching(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank), rank


def _matching(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that PEFT takes for a module: one that is all or the end of its path."""
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), otherwise)


def split_key(key: str) -> tuple[str, str]:
    """The module's path inside the base, and what of it a tensor of the adapter is.

    Raises:
        RunError: for a tensor of another kind.
    """
    ending = next((one for one in ENDINGS if key.endswith(f".{one}")), None)
    if ending is None:
        raise RunError("adapter_model.safetensors", f"holds {key}, which is no part of a LoRA.", "Train it anew.")
    return key.removeprefix(PREFIX).removesuffix(f".{ending}").removesuffix(".base_layer"), ending


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder.

    Raises:
        ModelError: when there are none.
    """
    if (folder / INDEX).is_file():
        names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            str(folder), "holds no safetensors files to merge into.", "Save the base with save_pretrained."
        )
    return [folder / WEIGHTS]


def tensors_of(folder: Path) -> int:
    """How many tensors a model's folder holds."""
    return sum(len(header_of(file)[0]) for file in weight_files(folder))


def header_of(file: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file by name, with dtype, shape and place, and where their bytes begin."""
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8))[0]
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"])), 8 + length


def _by_tensor(
    base: Path,
    adapter: Path,
    folder: Path,
    dtype: str,
    changes: tuple[Mapping[str, Update], Mapping[str, str]],
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Write each file of weights anew, one tensor after another; nothing is mapped into memory."""
    import torch
    from safetensors import safe_open

    files, (updates, biases) = weight_files(base), changes
    total = 0
    with safe_open(adapter / "adapter_model.safetensors", "pt") as learned:

        def merged(name: str, value: torch.Tensor) -> torch.Tensor:
            if name in updates:
                return updates[name].apply(value, learned.get_tensor)
            return learned.get_tensor(biases[name]) if name in biases else value

        for file in files:
            header, start = header_of(file)
            written = _header_in(header, dtype)
            text = json.dumps({"__metadata__": {"format": "pt"}} | written).encode()
            text += b" " * (-len(text) % 8)
            with file.open("rb") as stored, (folder / file.name).open("wb") as out:
                out.write(struct.pack("<Q", len(text)) + text)
                for name, entry in header.items():
                    first, last = entry["data_offsets"]
                    stored.seek(start + first)
                    data: Any = bytearray(last - first)
                    stored.readinto(data)
                    if entry["dtype"] in NAMES and data:
                        value = torch.frombuffer(data, dtype=getattr(torch, NAMES[entry["dtype"]]))
                        value = merged(name, value.view(entry["shape"])).to(getattr(torch, dtype)).contiguous()
                        data = value.view(-1).view(torch.uint8).numpy().data  # no copy
                    total += out.write(data)
                    progress(1)
    if (base / INDEX).is_file():
        index = json.loads((base / INDEX).read_text(encoding="utf-8"))
        index["metadata"] = (index.get("metadata") or {}) | {"total_size": total}
        (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=1) + "\n", encoding="utf-8")
    return {"weights": len(updates) + len(biases), "files": len(files), "way": "tensor by tensor"}


def _header_in(header: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The header of a file whose floating-point tensors are written in another dtype."""
    import torch

    code = next(code for code, name in NAMES.items() if name == dtype)
    written: dict[str, Any] = {}
    place = 0
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        size, kind = last - first, entry["dtype"]
        if kind in NAMES:
            size, kind = math.prod(entry["shape"]) * getattr(torch, dtype).itemsize, code
        written[name] = {"dtype": kind, "shape": entry["shape"], "data_offsets": [place, place + size]}
        place += size
    return written


def with_adapter(model: Any, adapter: Path) -> Any:
    """The model with the adapter, in evaluation mode."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # PEFT looks for the patterns' names among modules alone, and advises on what is done here
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", r".*tie_word_embeddings", UserWarning)
        return PeftModel.from_pretrained(model, str(adapter)).eval()


def _in_memory(base: Path, adapter: Path, folder: Path, dtype: str) -> dict[str, Any]:
    """Let PEFT merge, with the whole base in memory."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(base))
    model = model_class(config).from_pretrained(str(base), dtype=getattr(torch, dtype))
    names = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"] or ()
    ends = [model.get_output_embeddings(), model.get_input_embeddings()]
    paths = {path for path, module in model.named_modules() if any(module is end for end in ends)}
    if ends[0].weight is ends[1].weight and any(path.endswith(name) for path in paths for name in names):
        ends[0].weight = torch.nn.Parameter(ends[1].weight.detach().clone())  # one of them alone has an adapter
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    adapted = with_adapter(model, adapter)
    count = sum(1 for module in adapted.modules() if hasattr(module, "lora_A"))
    adapted.merge_and_unload().save_pretrained(folder)
    return {"weights": count, "files": len(list(folder.glob("*.safetensors"))), "way": "in memory"}


REST = ("generation_config.json", "*.jinja", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "*.py")


def _copy_rest(base: Path, folder: Path) -> None:
    """The tokenizer, its template and the model's own code."""
    for pattern in REST:
        for file in base.glob(pattern):
            if file.is_file() and not (folder / file.name).exists():
                shutil.copy(file, folder / file.name)
