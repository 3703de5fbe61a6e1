"""The card beside an adapter or a merged model, with the hub's metadata, and the config that repeats the run."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from lorascope.base.architecture import load_architecture, model_class
from lorascope.base.loading import base_folder
from lorascope.config.schema import ModelConfig, RunConfig, from_dict
from lorascope.config.validation import is_local
from lorascope.errors import ModelError
from lorascope.records.record import RunRecord
from lorascope.records.store import CONFIG

FILE = "README.md"
TEMPLATE = "model_card.md.jinja"
Sections = Mapping[str, Sequence[str]]
PLACES = ("model.path", "dataset.path", "dataset.eval_path", "dataset.chat_template")  # that may be of this machine


def write_card(record: RunRecord, folder: Path, *, form: str = "adapter", sections: Sections | None = None) -> None:
    """Write README.md and config.yaml into a folder that is to be deployed; no path of this machine is in them.

    Args:
        record: of the run.
        folder: with the adapter, or the merged model.
        form: adapter or merged.
        sections: what more is to be said: paragraphs by their heading.
    """
    import jinja2
    import yaml

    config: RunConfig = from_dict(RunConfig, record.config)
    base = base_name(config.model)
    shown, local = without_places(record.config)
    data = _public(record.data)
    license_ = license_of(config.model)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, autoescape=False
    )
    text = environment.get_template(TEMPLATE).render(
        metadata=_metadata(record, config, base, license_, form),
        name=record.name,
        strategy=f"LoRA, strategy {config.target.name}",
        base=base,
        form=form,
        auto=_auto_class(config.model),
        config=shown,
        plan=record.plan,
        modules=_by_role(record.plan.get("modules", [])),
        systems=[text for text in data["card"]["system_messages"] if text],
        metrics=[_row(name, entry) for name, entry in record.metrics.items()],
        forgetting=any(name.startswith("forgetting") for name in record.metrics),
        sections=sections or {},
        data=data,
        license=license_,
        notes=[*map(without_folders, record.notes)],
        local=local,
        steps=record.timing.get("steps", "?"),
        device=record.environment.get("gpu") or record.environment.get("cpu") or config.device,
        versions=", ".join(f"{name} {one}" for name, one in record.environment.get("packages", {}).items()),
        run_id=record.run_id,
    )
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    (folder / CONFIG).write_text(yaml.safe_dump(shown, sort_keys=False), encoding="utf-8")


def base_name(model: ModelConfig) -> str:
    """What files call the base: its id on the hub, where it has one; never a path of this machine."""
    return (model.hub_id or "") if not model.path or is_local(model.path) else model.path


def _auto_class(model: ModelConfig) -> str:
    """The class of transformers that loads the base."""
    try:
        return str(model_class(load_architecture(model)[0]).__name__)
    except ModelError:  # it is not at hand any more
        return "AutoModelForCausalLM"


def license_of(model: ModelConfig) -> str | None:
    """The base's licence by its package or its own card; None where nothing here tells it."""
    import yaml
    from huggingface_hub import metadata_load

    if model.package:
        try:
            found = metadata(model.package.replace("_", "-")).json
        except PackageNotFoundError:
            return None
        return str(found.get("license_expression") or found.get("license") or "") or None
    folder = base_folder(model)
    try:
        card = metadata_load(folder / FILE) if folder else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    name = (card or {}).get("license_name") or (card or {}).get("license")
    return str(name) if name else None


def without_places(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A run's config without paths of this machine, and the settings that were such; their last part is kept."""
    shown = copy.deepcopy(dict(config))
    shown["runs_dir"] = "runs"
    local = []
    for place in PLACES:
        group, name = place.split(".")
        value = shown.get(group, {}).get(name)
        if value and _is_place(value, place):
            shown[group][name] = [Path(one).name for one in value] if isinstance(value, list) else Path(value).name
            local.append(place)
    for part in shown["dataset"].get("parts", {}).values():
        for name in ("path", "eval_path"):
            if part.get(name) and _is_place(part[name], f"dataset.{name}"):
                part[name] = Path(str(part[name])).name
                local.append("dataset.parts")
    return shown, list(dict.fromkeys(local))


def _is_place(value: Any, setting: str) -> bool:
    """Whether a path leads to this machine; a template and a data file always do, a hub's name does not."""
    return setting == "dataset.chat_template" or isinstance(value, list) or is_local(str(value))


def without_folders(text: str) -> str:
    """A text whose absolute paths are cut to their last part; addresses on the web stay."""
    return re.sub(r"(?<![\w:/.~])~?/(?:[^\s/,;:]+/)+", "", text)


def _public(data: Mapping[str, Any]) -> dict[str, Any]:
    """A record's data for strangers: its files by their names alone, and what is not known said so."""
    card: dict[str, Any] = {"origin": "-", "split": None, "license": None, "system_messages": []} | dict(
        data.get("card") or {}
    )
    unknown = {"train": {"rows": "?"}, "eval": {"rows": "?"}}
    return unknown | {**data} | {"card": card | {"origin": without_folders(str(card["origin"]))}}


def _metadata(record: RunRecord, config: RunConfig, base: str, license_: str | None, form: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = config.dataset
    data = dataset.path if dataset.source == "hub" else dataset.name
    results = [
        EvalResult(
            task_type="text-generation", dataset_type=str(data), dataset_name=str(dataset.name), metric_type=name,
            metric_name=name, metric_value=entry["value"],
        )
        for name, entry in record.metrics.items()
        if "train" not in name
    ]  # fmt: skip
    known = license_ and " " not in license_
    card = ModelCardData(
        base_model=base or None,
        datasets=[str(data)] if dataset.source == "hub" else None,
        library_name="transformers" if form == "merged" else "peft",
        license=(license_.lower() if known else "other") if license_ else None,
        license_name=None if known else license_,
        model_name=record.name,
        pipeline_tag="text-generation",
        tags=["lora", "lorascope", str(config.target.name)],
        eval_results=results,
    )
    return str(card.to_yaml()).strip()


def _by_role(modules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plan's modules, counted by role, rank and scale."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for module in modules:
        kind = {name: module[name] for name in ("role", "rank", "alpha", "scale")}
        row = found.setdefault(tuple(kind.values()), kind | {"modules": 0, "parameters": 0})
        row["modules"] += 1
        row["parameters"] += module["parameters"]
    return list(found.values())


def _row(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """A metric's line: value and interval, trained and base."""

    def shown(value: str, low: str, high: str) -> str:
        if entry.get(value) is None:
            return "-"
        text = f"{entry[value]:.4f}"
        return f"{text} [{entry[low]:.4f}, {entry[high]:.4f}]" if entry.get(low) is not None else text

    ends = {"value": shown("value", "low", "high"), "base": shown("base", "base_low", "base_high")}
    return {"name": name, "unit": entry.get("unit", ""), "better": entry.get("better", "")} | ends
