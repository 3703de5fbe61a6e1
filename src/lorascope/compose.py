"""Compose Hydra's groups and overrides into one checked `RunConfig`."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lorascope.compat import keep_text_of_yaml
from lorascope.config.hints import choices_of, suggest
from lorascope.config.hints import config_dir as config_dir
from lorascope.config.override_errors import explain, explain_reading, explain_value
from lorascope.config.schema import DatasetConfig, RunConfig, ShipConfig, TargetConfig, all_settings, amount, as_dict
from lorascope.config.sft_settings import check_sft
from lorascope.config.text_values import check_part, keep_text, text_names
from lorascope.config.validation import check, check_dataset, check_target
from lorascope.data.sources import check_options
from lorascope.errors import ConfigError, first_line
from lorascope.evaluation.external_metrics import check_harness, check_metrics
from lorascope.records.environment import secrets

OPEN_KEYS = (  # names that a source or library decides
    "train.sft", "dataset.options", "dataset.template_kwargs", "dataset.columns", "dataset.eval_columns",
    "dataset.parts", "model.architecture", "model.roles", "target.modules", "target.budget_strategy", "study.arms",
    "study.tasks",
)  # fmt: skip


def register() -> None:
    """Make the schema and the resolver of `conf/config.yaml` known to Hydra; calling it again changes nothing."""
    keep_text_of_yaml(text_names())
    ConfigStore.instance().store(name="schema", node=schema())
    OmegaConf.register_new_resolver("sweep_dir", _sweep_dir, use_cache=True, replace=True)


def schema() -> DictConfig:
    """Every setting with its type and default; open where a source or library decides the names."""
    every = OmegaConf.structured(RunConfig)
    for key in OPEN_KEYS:
        # so that train.sft.weight_decay=0.1 needs no '+'; the names are checked by `check_sft` and its like
        OmegaConf.set_struct(OmegaConf.select(every, key), False)
    return every


def _sweep_dir(runs_dir: str, dry_run: bool) -> str:
    """Where Hydra keeps a sweep's own config: one place for one command, so that the same command finds it again."""
    words = sorted(word for word in sys.argv[1:] if "=" in word)
    name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]
    # a dry run leaves nothing among the runs
    return str(Path(tempfile.gettempdir(), "lorascope-dry-run", name) if dry_run else Path(runs_dir, "sweeps", name))


def compose(overrides: Sequence[str] = (), extra_dir: str | Path | None = None) -> RunConfig:
    """The config that `python train.py OVERRIDES` would run with; `extra_dir` is what `--config-dir` names.

    Raises:
        ConfigError: for the first word or value that cannot be, and for a secret among them.
    """
    refuse_secrets(overrides)
    overrides = keep_text(overrides)
    register()
    search = []
    if extra_dir:
        if not os.path.isdir(extra_dir):
            remedy = "Name a folder that holds target/, model/ and the like."
            raise ConfigError(f"--config-dir={extra_dir}", "is not a folder.", remedy)
        quoted = str(Path(extra_dir).absolute()).replace("\\", r"\\").replace("'", r"\'")
        search = [f"hydra.searchpath=['file://{quoted}']"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = hydra_compose("config", [*overrides, *search], return_hydra_config=True)
            choices, folders = dict(composed.hydra.runtime.choices), config_folders(composed.hydra)
    except Exception as error:  # for what is written wrong, readers of YAML and Hydra raise a dozen kinds
        raise explain(error, overrides) from error
    del composed.hydra
    return to_run_config(composed, choices, folders)


VERDICTS = ("better", "equivalent", "reference", "inconclusive", "worse", "too few seeds", "no verdict")
FORMS = ("merged", "peft", "vllm", "llama.cpp")


def read_policy(name: str, overrides: Sequence[str] = ()) -> ShipConfig:
    """A policy of `lorascope ship`: a file of conf/ship, or any other, with overrides like `max_forgetting=1`.

    Raises:
        ConfigError: when there is no such file, or for the first setting or value that cannot be.
    """
    file = Path(name).expanduser()
    if file.suffix != ".yaml":
        file = config_dir() / "ship" / f"{name}.yaml"
    if not os.path.isfile(file):
        remedy = f"There is {', '.join(choices_of('ship'))}; your own is a file: --policy FILE.yaml"
        raise ConfigError(f"--policy {name}", "there is no such policy.", remedy)
    words = [word.removeprefix("ship.") for word in overrides]
    for word in words:
        if not re.match(r"[a-z_.]+=.", word):
            raise ConfigError(word, "cannot be read.", "Write SETTING=VALUE, for example max_forgetting=1.")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(ShipConfig), OmegaConf.load(file), OmegaConf.from_dotlist(words))
        policy: ShipConfig = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = str(error.full_key or error.key or "")
        known = ", ".join(field.name for field in dataclasses.fields(ShipConfig))
        what = "there is no such setting." if key.partition(".")[0] not in known else f"{first_line(error)}."
        raise ConfigError(f"ship.{key}", what, f"See {file}: {known}.") from error
    except Exception as error:
        raise explain_reading(error, str(file)) from error
    _check_policy(policy)
    return policy


def _check_policy(policy: ShipConfig) -> None:
    limits = {f"min_gain.{task}": value for task, value in policy.min_gain.items()}
    for key, value in (limits | {"max_forgetting": policy.max_forgetting}).items():
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"ship.{key}={value}", "is not a number.")
    for key, given, known in (("verdicts", policy.verdicts, VERDICTS), ("deliver", policy.deliver, FORMS)):
        if unknown := [one for one in given if one not in known]:
            raise ConfigError(f"ship.{key}: {unknown[0]}", "is not one of them.", f"There are: {', '.join(known)}.")
    if not policy.deliver:
        raise ConfigError("ship.deliver", "is empty.", f"Take some of: {', '.join(FORMS)}.")


GROUPS = ("model", "dataset", "target", "quantization", "train", "evaluation", "logger")
RERUN = "rerun"


def write_rerun(run: Path, words: Sequence[str], folder: Path) -> str:
    """Write a config that composes to a run's own, but for the groups that the words choose anew; return its name.

    Args:
        run: a folder with a run's `config.yaml`.
        words: the overrides beside it.
        folder: where to write.

    Raises:
        ConfigError: when there is no such file, or it is not one.
    """
    file = run / "config.yaml"
    place, remedy = f"--from {run}", "Name a run's folder, or one with a model card: it has a config.yaml."
    if not os.path.isfile(file):
        raise ConfigError(place, "has no config.yaml.", remedy)
    try:
        given: Any = OmegaConf.load(file)
        settings = OmegaConf.to_container(given)
    except Exception as error:
        raise explain_reading(error, str(file)) from error
    if not isinstance(settings, dict) or not {"model", "target"} <= settings.keys():
        raise ConfigError(str(file), "is not a run's config.", remedy)
    chosen = [group for group in GROUPS if any(word.startswith(f"{group}=") for word in words)]
    kept = {key: value for key, value in settings.items() if key not in chosen}
    quiet = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    engines = [{"override hydra/sweeper": "study"}, {"override hydra/launcher": "shared_base"}]
    main: Any = OmegaConf.load(config_dir() / "config.yaml")
    head: dict[str, Any] = {"defaults": ["schema", *({g: None} for g in chosen), "_self_", *quiet, *engines]}
    OmegaConf.save(OmegaConf.create(head | {"hydra": main.hydra} | kept), folder / f"{RERUN}.yaml")
    return RERUN


def config_folders(hydra: Any) -> list[Path]:
    """The folders that Hydra looked for configs in, in its order."""
    return [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]


def refuse_secrets(words: Sequence[str]) -> None:
    """Refuse a word that holds the value of a secret of the environment: Hydra writes words into files of its own."""
    for word, (value, name) in itertools.product(words, secrets(os.environ).items()):
        if value in word:
            place = word.partition("=")[0]
            remedy = f"Leave it out: what needs {name} reads it from the environment."
            raise ConfigError("the command line" if value in place else place, f"holds the value of {name}.", remedy)


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
        for place in _strangers(composed):
            raise ConfigError(place, "there is no such setting.", suggest(place))
        config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise explain(error) from error
    for group in ("model", "dataset", "target"):
        part = getattr(config, group)
        part.name = part.name or str(choices.get(group) or "custom")
    config.target.name = _changed_name(config.target, str(choices.get("target") or config.target.name), folders)
    if config.study.arms:
        config.study.name = config.study.name or str(choices.get("experiment") or "study")
    _find_budget(config.target, folders)
    _find_parts(config.dataset, folders)
    check(config)
    check_sft(config.train)
    check_options(config.dataset)
    check_metrics(config.dataset.metrics)
    check_harness(config.evaluation)
    return config


def _changed_name(target: TargetConfig, choice: str, folders: Sequence[Path]) -> str | None:
    """The strategy's name, with what was changed of its placement: overrides merge into a choice's ranks.

    `target=q_v target.ranks.k=8` adapts K too, so it is `q_v+k=8` in folders, tables and trackers.
    """
    shipped = _choice_of(choice, folders)
    if target.name is None or shipped is None or target.name != (shipped.name or choice):
        return target.name
    before, now = _placement(shipped), _placement(target)
    changes = [f"{key}={now.get(key, 'none')}" for key in now | before if before.get(key) != now.get(key)]
    return "+".join([target.name, *(re.sub(r"[\s'\"]", "", change) for change in changes)])


def _placement(target: TargetConfig) -> dict[str, Any]:
    """What of a strategy decides which modules adapt, and their ranks."""
    rest = {name: getattr(target, name) for name in ("modules", "peft_default", "layers")} | {
        "method": target.auto.method
    }
    return target.ranks.given() | {name: value for name, value in rest.items() if value not in (None, {}, "all")}


def _choice_of(choice: str, folders: Sequence[Path], depth: int = 5) -> TargetConfig | None:
    """A choice of the group target as its file and the files of its defaults have it; None where there is no file."""
    path = _file_of("target", choice, folders)
    if path is None or not depth:
        return None
    own: Any = OmegaConf.load(path)
    names = [name for name in own.pop("defaults", []) if isinstance(name, str) and name != "_self_"]
    bases = [_choice_of(name.lstrip("/").removeprefix("target/"), folders, depth - 1) for name in names]
    merged = OmegaConf.merge(OmegaConf.structured(TargetConfig), *(as_dict(one) for one in bases if one), own)
    target: TargetConfig = OmegaConf.to_object(merged)  # type: ignore[assignment]
    return target


def _find_budget(target: TargetConfig, folders: Sequence[Path]) -> None:
    """Put the strategy that a budget names beside it, so that later edits of its file change no queued run."""
    name = str(target.budget)
    if target.budget_strategy:
        _strategy_of(name, target.budget_strategy, "target.budget_strategy")
    elif target.budget is not None and amount(target.budget) is None:
        path = _file_of("target", name, folders)
        if not path:
            remedy = f"Take 10M, 500k, or one of: {', '.join(choices_of('target'))}."
            raise ConfigError(f"target.budget={name}", "is neither a number of parameters nor a strategy.", remedy)
        target.budget_strategy = as_dict(_strategy_of(name, path, f"target/{path.name}"))


def _file_of(group: str, name: str, folders: Sequence[Path]) -> Path | None:
    """The file of a group's choice, in the first folder that has one."""
    paths = (folder / group / f"{name}.yaml" for folder in folders or [config_dir()])
    return next((path for path in paths if os.path.isfile(path)), None)  # isfile takes names of every length and kind


def _find_parts(dataset: DatasetConfig, folders: Sequence[Path]) -> None:
    """Put the settings of a mixture's parts beside their names, and the parts' metrics where it names none."""
    metrics: list[str] = []
    empty = as_dict(DatasetConfig())
    for name, given in dataset.parts.items():
        settings: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"weight": given}
        weight = settings.pop("weight", 1)
        weight = float(weight) if type(weight) is int and abs(weight) < 2**31 else weight
        part = _part_of(name, settings, folders)
        metrics += part.metrics
        # what later versions add to the schema must not rename this run: only what was set is kept
        changed = {key: value for key, value in as_dict(part).items() if value != empty[key]}
        dataset.parts[name] = {"weight": weight, "source": part.source, **changed}
    if dataset.parts:
        dataset.metrics = dataset.metrics or list(dict.fromkeys(metrics))


def _part_of(name: str, settings: Mapping[str, Any], folders: Sequence[Path]) -> DatasetConfig:
    """A part as its file has it, with the settings that the mixture gives it; with a source it needs no file."""
    place = f"dataset.parts.{name}"
    check_part(settings, place)
    path = None if "source" in settings else _file_of("dataset", name, folders)
    if path is None and "source" not in settings:
        near = difflib.get_close_matches(name, choices_of("dataset"), n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(choices_of('dataset'))}."
        raise ConfigError(place, f"there is no dataset '{name}'.", remedy)
    part: DatasetConfig = _loaded("dataset", [path or {}, settings], place)
    part.name = part.name or name
    with _placed(place):
        check_dataset(part)
    return part


def _strategy_of(name: str, given: Path | Mapping[str, Any], place: str) -> TargetConfig:
    """The strategy in a file, without what its `defaults` would add, or in what was made of one."""
    target: TargetConfig = _loaded("target", [given], place)
    target.name = target.name or name
    if target.budget is not None or target.auto.method is not None:
        remedy = "Name one with ranks of its own: target.budget=qv_ffn"
        raise ConfigError(f"target.budget={name}", "that strategy's own size is not fixed.", remedy)
    with _placed(place):
        check_target(target)
    return target


def _loaded(group: str, given: Sequence[Path | Mapping[str, Any]], place: str) -> Any:
    """A group's part as files and settings have it, the later over the earlier."""
    try:
        parts = [OmegaConf.load(one) if isinstance(one, Path) else dict(one) for one in given]
        merged = OmegaConf.merge(schema(), *({group: part} for part in parts))
        return getattr(OmegaConf.to_object(merged), group)
    except OmegaConfBaseException as error:
        raise explain_value(error, "", f"{place}: ") from error
    except Exception as error:
        raise explain_reading(error, place) from error


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Errors name the file or part that they are in."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.place}", error.what, error.remedy) from error


def _strangers(node: Any, group: str = "") -> Iterator[str]:
    """Keys that a '+key=value' put beside the schema."""
    for key in node:
        here = f"{group}{key}"
        if here not in all_settings():
            yield here
        elif dataclasses.is_dataclass(all_settings()[here]):
            yield from _strangers(node[key], f"{here}.")
