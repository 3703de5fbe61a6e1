"""The door: Hydra's groups and overrides come in, one checked `RunConfig` goes out, or an error that says why not."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
import sys
import tempfile
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException, SearchPathException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from lorascope.checks import check
from lorascope.config import RunConfig, TargetConfig, amount, as_dict
from lorascope.data.sources import check_options
from lorascope.errors import ConfigError
from lorascope.records.redact import secrets
from lorascope.training.sft_options import check_sft

NAMED_GROUPS = ("model", "dataset", "target")
OPEN_KEYS = (
    "train.sft",
    "dataset.options",
    "dataset.columns",
    "model.architecture",
    "model.roles",
    "target.modules",
    "target.budget_strategy",
)  # names that a source or library decides


def config_dir() -> Path:
    """The folder of the shipped configs: inside the installed package, or the checkout's conf/."""
    package = Path(__file__).parent
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parents[1] / "conf"


def register() -> None:
    """Make the schema and the resolver of `conf/config.yaml` known to Hydra; calling it again changes nothing."""
    schema = OmegaConf.structured(RunConfig)
    for key in OPEN_KEYS:
        # so that train.sft.weight_decay=0.1 needs no '+'; the names are checked by `check_sft` and its like
        OmegaConf.set_struct(OmegaConf.select(schema, key), False)
    ConfigStore.instance().store(name="schema", node=schema)
    OmegaConf.register_new_resolver("sweep_dir", _sweep_dir, use_cache=True, replace=True)


def _sweep_dir(runs_dir: str, dry_run: bool) -> str:
    """Where Hydra keeps a sweep's own config: one place for one command, so that the same command finds it again."""
    words = sorted(word for word in sys.argv[1:] if "=" in word)
    name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]
    # a dry run leaves nothing among the runs
    return str(Path(tempfile.gettempdir(), "lorascope-dry-run", name) if dry_run else Path(runs_dir, "sweeps", name))


def compose(overrides: Sequence[str] = (), extra_dir: str | Path | None = None) -> RunConfig:
    """The config that `python train.py OVERRIDES` would run with.

    Args:
        overrides: Hydra's words, such as `target=q_v` and `train.epochs=2`.
        extra_dir: a folder of own groups, as `--config-dir`.

    Raises:
        ConfigError: for the first word or value that cannot be, and for a secret among them.
    """
    refuse_secrets(overrides)
    register()
    search = [f"hydra.searchpath=[file://{Path(extra_dir).absolute()}]"] if extra_dir else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = hydra_compose("config", [*overrides, *search], return_hydra_config=True)
            choices, folders = dict(composed.hydra.runtime.choices), config_folders(composed.hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    del composed.hydra
    return to_run_config(composed, choices, folders)


def config_folders(hydra: Any) -> list[Path]:
    """The folders that Hydra looked for configs in, in its order."""
    return [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]


def refuse_secrets(words: Sequence[str]) -> None:
    """Refuse a word that holds the value of a secret of the environment: Hydra writes words into files of its own.

    Raises:
        ConfigError: naming the setting and the variable, not the value.
    """
    found = secrets(os.environ)
    for word in words:
        for value, name in found.items():
            if value in word:
                place = word.partition("=")[0]
                raise ConfigError(
                    "the command line" if value in place else place,
                    f"holds the value of {name}.",
                    f"Leave it out: what needs {name} reads it from the environment.",
                )


def to_run_config(composed: DictConfig, choices: Mapping[str, Any], folders: Sequence[Path] = ()) -> RunConfig:
    """Hydra's dictionary as a checked `RunConfig`; a nameless group is named by its choice.

    Args:
        composed: without Hydra's own part.
        choices: the choice of each group.
        folders: where a strategy that `target.budget` names is looked for.

    Raises:
        ConfigError: for the first value that cannot be.
    """
    try:
        for place in _strangers(composed, RunConfig):
            raise ConfigError(place, "there is no such setting.", suggest(place))
        config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise explain(error) from error
    for group in NAMED_GROUPS:
        part = getattr(config, group)
        part.name = part.name or str(choices.get(group) or "custom")
    _find_budget(config.target, folders)
    check(config)
    check_sft(config.train)
    check_options(config.dataset)
    return config


def _find_budget(target: TargetConfig, folders: Sequence[Path]) -> None:
    """Put the strategy that a budget names beside it, so that later edits of its file change no queued run."""
    if target.budget is None or amount(target.budget) is not None or target.budget_strategy:
        return
    name = str(target.budget)
    for folder in folders or [config_dir()]:
        path = folder / "target" / f"{name}.yaml"
        if path.is_file():
            merged = OmegaConf.merge(OmegaConf.structured(TargetConfig), OmegaConf.load(path))
            other: TargetConfig = OmegaConf.to_object(merged)  # type: ignore[assignment]
            other.name = other.name or name
            if other.budget is not None or other.auto.method is not None:
                raise ConfigError(
                    f"target.budget={name}",
                    "that strategy's own size is not fixed.",
                    "Name one with ranks of its own: target.budget=qv_ffn",
                )
            target.budget_strategy = as_dict(other)
            return
    raise ConfigError(
        f"target.budget={name}",
        "is neither a number of parameters nor a strategy.",
        f"Take 10M, 500k, or one of: {', '.join(_choices('target'))}.",
    )


def _strangers(node: Any, schema: Any, place: str = "") -> Iterator[str]:
    """Keys that a '+key=value' put beside the schema."""
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = _hints(schema)
    for key in node:
        here = f"{place}.{key}" if place else str(key)
        if key not in fields:
            yield here
        elif dataclasses.is_dataclass(hints[key]):
            yield from _strangers(node[key], hints[key], here)


def _hints(schema: Any) -> dict[str, Any]:
    return typing.get_type_hints(schema)


def known_keys() -> list[str]:
    """Every setting's dotted name."""

    def walk(values: Mapping[str, Any], place: str) -> Iterator[str]:
        for key, value in values.items():
            yield place + key
            if isinstance(value, dict):
                yield from walk(value, f"{place}{key}.")

    return list(walk(as_dict(RunConfig()), ""))


def suggest(key: str) -> str:
    """The settings whose names are nearest to a misspelt one, as a remedy."""
    known = known_keys()
    parent, _, leaf = key.rpartition(".")
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    if siblings:
        near = difflib.get_close_matches(leaf, siblings, n=1)
        if near:
            return f"Did you mean {parent}.{near[0]}?" if parent else f"Did you mean {near[0]}?"
        return f"{parent or 'The config'} has: {', '.join(siblings)}."
    whole = difflib.get_close_matches(key, known, n=1)
    return f"Did you mean {whole[0]}?" if whole else f"The groups are: {', '.join(known_groups())}."


def known_groups() -> list[str]:
    """The parts of a config that have choices."""
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir() and path.name != "hydra")


def explain(error: Exception) -> ConfigError:
    """Hydra's or OmegaConf's complaint as place, value and remedy."""
    if isinstance(error, MissingConfigException):
        return _explain_missing(error)
    if isinstance(error, OverrideParseException):
        return ConfigError(error.override, "cannot be read.", "Write KEY=VALUE, GROUP=CHOICE; quote spaces and braces.")
    cause = error if isinstance(error, OmegaConfBaseException) else (error.__cause__ or error.__context__)
    override = _quoted_override(str(error))
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        where = _file_of(str(error))
        key = override.partition("=")[0].lstrip("+~") or str(cause.full_key or cause.key)
        return ConfigError(override or f"{where}{key}", f"there is no setting '{key}'.", suggest(key))
    if isinstance(cause, ValidationError):
        key = str(cause.full_key or "") or override.partition("=")[0]
        what = re.sub(r"\s+", " ", (cause.msg or str(cause)).splitlines()[0])
        wanted = _wanted(key)
        if "is not a subclass of" in what:
            return _not_a_value(override, key)
        if wanted and (value := re.search(r"[Vv]alue '(.*?)'", what)):
            what = f"'{value[1]}' is not {wanted}"
        return ConfigError(f"{_file_of(str(error))}{key}", f"{what}.", f"It takes {wanted}." if wanted else "")
    if isinstance(cause, MissingMandatoryValue):
        key = str(cause.full_key or "")
        return ConfigError(key, "must be given.", f"Add {key}=VALUE.")
    if isinstance(cause, InterpolationResolutionError):
        return ConfigError(str(cause.full_key or "config"), str(cause.msg or cause).splitlines()[0], "Mend the ${…}.")
    text = str(error).strip()
    head, _, rest = text.partition("\n")
    if isinstance(error, SearchPathException):
        return ConfigError(
            "--config-dir", head.rstrip(".") + ".", "Name a folder that holds target/, model/ and the like."
        )
    if head.startswith("Error merging override"):
        return _not_a_value(override, override.partition("=")[0])
    if match := re.match(r"Could not override '(.+?)'", head):
        return ConfigError(match[1], f"there is no group or setting '{match[1]}'.", suggest(match[1]))
    return ConfigError("config", head, rest.strip())


def _choices(group: str) -> list[str]:
    """A group's shipped choices; Hydra does not tell them where one of several is missing."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def _not_a_value(override: str, key: str) -> ConfigError:
    if any(name.startswith(f"{key}.") for name in known_keys()):
        return ConfigError(override or key, f"'{key}' is a group of settings, not a value.", suggest(f"{key}.?"))
    return ConfigError(override or key, "a value of this kind does not fit there.", f"It takes {_wanted(key)}.")


def _explain_missing(error: MissingConfigException) -> ConfigError:
    missing = error.missing_cfg_file or "?"
    group, _, choice = missing.rpartition("/")
    if not group:
        return ConfigError("config", f"'{missing}' is not in the config folders.", "Look with --info searchpath.")
    options = [option for option in error.options or _choices(group) if option != choice]
    near = difflib.get_close_matches(choice, options, n=1)
    hint = f"Did you mean {group}={near[0]}? " if near else ""
    return ConfigError(
        f"{group}={choice}",
        f"there is no {group} '{choice}'.",
        f"{hint}There are: {', '.join(options)}. Your own is DIR/{group}/{choice}.yaml with --config-dir DIR.",
    )


def _quoted_override(text: str) -> str:
    match = re.search(r"(?:Could not override|Error merging override|Could not append to config\S*) '?([^'\n]+)", text)
    if not match:
        return ""
    key = match[1].strip().rstrip(".")
    full = next((word for word in sys.argv[1:] if word.lstrip("+~").startswith(key.lstrip("+~"))), "")
    return full or key


def _file_of(text: str) -> str:
    match = re.match(r"In '([^']+)':", text)
    return f"{match[1]}.yaml: " if match else ""


def _wanted(key: str) -> str:
    """What kind of value a setting takes, from the schema."""
    schema: Any = RunConfig
    for part in key.split("."):
        if not dataclasses.is_dataclass(schema):
            return ""
        schema = _hints(schema).get(part)
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
    }
    if typing.get_origin(schema) is dict:
        return "settings in braces: {name: value}"
    kinds = [schema, *getattr(schema, "__args__", ())]
    for kind in kinds:
        if kind in names:
            return names[kind]
        if members := getattr(kind, "__members__", None):
            return f"one of {', '.join(members)}"
    return ""
