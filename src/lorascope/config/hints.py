"""What a user probably meant by an override that the config does not have."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from lorascope.config.schema import GROUPS, ROLES, all_settings

# names of other tools -> the override, with {} for the value
SETTINGS = {
    "lr learning_rate": "train.learning_rate={}",
    "num_epochs num_train_epochs n_epochs": "train.epochs={}",
    "steps": "train.max_steps={}",
    "bs batch per_device_train_batch_size micro_batch_size": "train.batch_size={}",
    "gradient_accumulation_steps grad_accum": "train.gradient_accumulation={}",
    "max_seq_length max_seq_len seq_len seq_length cutoff_len context_length": "train.max_length={}",
    "warmup": "train.warmup_ratio={}",
    "lr_scheduler lr_scheduler_type": "train.scheduler={}",
    "weight_decay": "train.sft.weight_decay={}",
    "max_grad_norm": "train.sft.max_grad_norm={}",
    "optim optimizer": "train.sft.optim={}",
    "gradient_checkpointing": "train.sft.gradient_checkpointing={}",
    "r rank lora_r lora_rank": "target.ranks={{q: {0}, v: {0}}}",
    "lora_alpha": "target.alpha={}",
    "dropout": "target.lora_dropout={}",
    "use_dora": "target.dora={}",
    "init_lora_weights": "target.init={}",
    "lora_target target_modules": "target={}",
    "torch_dtype precision": "model.dtype={}",
    "attn_implementation": "model.attention={}",
    "model_name model_id model_path model_name_or_path base_model base": "model={}",
    "data data_path data_file data_files dataset_name dataset_path train_file": "dataset={}",
    "output_dir out_dir out output": "runs_dir={}",
    "wandb_project": "logger.wandb.project={}",
    "report_to": "logger={}",
    "load_in_4bit": "quantization=nf4",
    "load_in_8bit": "quantization=int8",
}
ALIASES = {name: meant for names, meant in SETTINGS.items() for name in names.split()}
# group -> other spellings -> its choice
CHOICES = {
    "quantization": {"4 4bit 4-bit nf4bit bnb bnb_4bit qlora fp4": "nf4", "8 8bit 8-bit llm_int8": "int8"},
    "logger": {"tb": "tensorboard", "w&b": "wandb"},
}
OFF = ("null", "false", "off", "no", "None")
ROLE_OF = {  # leaf names of modules and other names -> roles and groups
    "q_proj query": ("q",), "k_proj key": ("k",), "v_proj value": ("v",), "o_proj out_proj": ("o",),
    "gate_proj w1": ("gate",), "up_proj w3 fc1 c_fc": ("up",), "down_proj w2 fc2": ("down",),
    "qkv_proj query_key_value c_attn Wqkv qkv": ("q", "k", "v"), "gate_up_proj": ("gate", "up"),
    "attn self_attn": ("attention",), "mlp feed_forward": ("ffn",), "all-linear linear": ("all",),
}  # fmt: skip
ROLES_OF = {name: roles for names, roles in ROLE_OF.items() for name in names.split()}
ROLES_OF |= {role: (role,) for role in (*ROLES, *GROUPS)}
WITHOUT_ROLE = ("lm_head", "embed_tokens", "wte")
DATA_FILE = re.compile(r"(?i)\.(jsonl?|ndjson|csv|tsv|parquet|arrow)(\.gz)?$|[*?]")


def config_dir() -> Path:
    """The folder of the shipped configs: inside the installed package, or the checkout's conf/."""
    package = Path(__file__).parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parents[1] / "conf"


def known_groups() -> list[str]:
    """The parts of a config that have choices."""
    others = ("hydra", "ship")  # Hydra's own, and the policies of `lorascope ship`
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir() and path.name not in others)


def choices_of(group: str) -> list[str]:
    """A group's shipped choices, those in folders with their folder's name."""
    folder = config_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def suggest(key: str, value: str = "VALUE") -> str:
    """The remedy for a setting that does not exist: what was meant, or what there is."""
    known = list(all_settings())
    parent, _, leaf = key.rpartition(".")
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    if meant := _renamed(key, value):
        return _mean(meant)
    if near := difflib.get_close_matches(leaf, siblings, n=1):
        return _mean(f"{parent}.{near[0]}" if parent else near[0])
    if elsewhere := [quoted(name, value) for name in known if name.rpartition(".")[2] == leaf]:
        return _mean(*elsewhere)
    if siblings:
        return f"{parent or 'The config'} has: {', '.join(siblings)}."
    return _mean(*difflib.get_close_matches(key, known, n=1)) or f"The groups are: {', '.join(known_groups())}."


def choose(group: str, choice: str) -> str:
    """The remedy for a choice that a group does not have; empty where nothing is like it."""
    return _mean(_choice(group, choice.strip("'\"")))


def hint(word: str, following: str = "") -> str:
    """The remedy for a word of the command line, such as `--KEY`, whose value may be the following word; or empty."""
    key, equals, value = word.lstrip("+~-").partition("=")
    key = key.replace("-", "_")
    if not equals:
        value = following if following and "=" not in following and not following.startswith("-") else "VALUE"
    if key == "target.ranks":
        ranks = dict(re.findall(r"([\w-]+)\s*:\s*(\d+)", value))
        return _mean(_ranks(ranks)) if ranks.keys() - {*ROLES, *GROUPS} <= ROLES_OF.keys() | {*WITHOUT_ROLE} else ""
    if key in known_groups():
        return _mean(quoted(key, value)) if value in (*choices_of(key), "VALUE") else choose(key, value)
    if key in all_settings():
        return _mean(quoted(key, value)) if not equals or word.startswith("--") else ""
    return suggest(key, value)


def quoted(key: str, value: str) -> str:
    """An override as it is typed into a shell."""
    if re.fullmatch(r"[\w./@:+-]+", value):
        return f"{key}={value}"
    return shlex.quote(f"{key}={value}" if value[:1] in ("{", "[") else f"{key}='{value}'")


def _mean(*overrides: str) -> str:
    return f"Did you mean {' or '.join(overrides)}?" if any(overrides) else ""


def _renamed(key: str, value: str) -> str:
    """The setting that another tool calls so, or a role that was named by its module."""
    parent, _, leaf = key.rpartition(".")
    if parent == "target.ranks":
        return _ranks({leaf: value if value.isdigit() else "8"})
    group, equals, meant = ALIASES.get(leaf, "").partition("=")
    if not equals:
        return ""
    meant = meant.format(value)
    if group in known_groups() and meant not in (*choices_of(group), "VALUE"):
        return _choice(group, meant)
    return quoted(group, meant)


def _choice(group: str, choice: str) -> str:
    """The override that was meant by a choice that there is not."""
    if choice in OFF and "none" in choices_of(group):
        return f"{group}=none"
    same = [meant for names, meant in CHOICES.get(group, {}).items() if choice in names.split()]
    meant = f"{group}={same[0]}" if same else _roles(choice) if group == "target" else _place(group, choice)
    near = difflib.get_close_matches(choice, choices_of(group), n=1)
    return meant or (f"{group}={near[0]}" if near else "")


def _place(group: str, choice: str) -> str:
    """A file, a folder or a hub id, as a model or a data set."""
    if group not in ("model", "dataset"):
        return ""
    if preset := next((name for name in choices_of(group) if _file(group, name).get("path") == choice), ""):
        return f"{group}={preset}"
    local = choice.startswith((".", "~", "/")) or os.path.exists(choice)
    path = quoted(f"{group}.path", os.path.expanduser(choice))
    if group == "dataset" and (local or DATA_FILE.search(choice)):
        return f"dataset=file {path}"
    source = "hf" if group == "model" else "hub"
    return f"{group}={source} {path}" if local or "/" in choice else ""


def _roles(choice: str) -> str:
    """Roles or modules, as a strategy: a shipped one, or ranks over those of the default."""
    names = re.split(r"[\s,]+", choice.strip("[] "))
    if not all(name in ROLES_OF or name in WITHOUT_ROLE for name in names):
        return ""
    wanted = dict.fromkeys((role for name in names for role in ROLES_OF.get(name, ())), 8)
    for preset in choices_of("target"):
        if wanted and _file("target", preset) == {"ranks": wanted}:
            return f"target={preset}"
    default = {role: "null" for role in ("q", "v") if wanted and role not in wanted}  # target=q_v has them
    return _ranks(dict.fromkeys(names, "8") | default)


def _ranks(given: dict[str, str]) -> str:
    """Ranks by role, where modules were named."""
    ranks = {role: rank for name, rank in given.items() for role in ROLES_OF.get(name, ())}
    modules = {name: rank for name, rank in given.items() if name in WITHOUT_ROLE}
    parts = (("target.ranks", ranks), ("target.modules", modules))
    return " ".join(
        quoted(key, "{" + ", ".join(f"{name}: {rank}" for name, rank in values.items()) + "}")
        for key, values in parts
        if values
    )


def _file(group: str, choice: str) -> dict[str, Any]:
    """A shipped choice, as its file has it."""
    return yaml.safe_load((config_dir() / group / f"{choice}.yaml").read_text()) or {}
