"""What W&B is told: online or not, as which of its runs, with what config, summary and tables; what of it was sent."""

from __future__ import annotations

import json
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorascope.records.record import RunRecord, write_text
from lorascope.records.store import WANDB_RUN

ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's own, in WANDB_MODE
IDENTITY = ("id", "project", "entity")  # in the words of `wandb.init`
SENT = "sent"  # so many rows of the local history, and the run's end
REACHED = "reached"  # the last step that W&B was told of before the run went back to a checkpoint


def wandb_mode(wanted: str) -> tuple[str, str]:
    """Online or offline, and why."""
    if environment := os.environ.get("WANDB_MODE"):
        return ALIASES.get(environment, environment), "WANDB_MODE says so"
    if wanted != "auto":
        return wanted, f"logger.wandb.mode={wanted}"
    return ("online", "a key is configured") if has_key() else ("offline", "no key is configured")


def has_key() -> bool:
    """Whether a key is configured: WANDB_API_KEY, or one that `wandb login` wrote; whether it is right, W&B knows."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname
    with suppress(OSError, netrc.NetrcParseError):
        hosts = netrc.netrc(os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())).hosts
        return any("wandb" in host or host == server for host in hosts)
    return False


def run_identity(folder: Path, project: str, entity: str | None) -> dict[str, Any]:
    """Which W&B run this is, in `wandb.init`'s words: a fresh one, or that which the folder remembers.

    A run that starts over finds its folder emptied and gets a fresh one; a run that goes on stays the same one.
    """
    if kept := remembered(folder):
        return {name: kept[name] for name in IDENTITY} | {"resume": "allow"}
    fresh = {"id": secrets.token_hex(4), "project": project, "entity": entity}
    remember(folder, **fresh)
    return fresh


def remembered(folder: Path) -> dict[str, Any]:
    """What the folder remembers of its W&B run; empty where it remembers none."""
    with suppress(OSError, ValueError):
        kept = json.loads((folder / WANDB_RUN).read_text(encoding="utf-8"))
        if isinstance(kept, dict) and set(IDENTITY) <= set(kept):
            return kept
    return {}


def remember(folder: Path, **values: Any) -> None:
    """Add to what the folder remembers; None forgets a mark."""
    kept = remembered(folder) | values
    kept = {name: value for name, value in kept.items() if name in IDENTITY or value is not None}
    write_text(folder / WANDB_RUN, json.dumps(kept) + "\n")


def config_of(record: RunRecord) -> dict[str, Any]:
    """The run's config, its id, its plan without the modules, and the environment."""
    return record.config | {"run_id": record.run_id, "plan": record.plan_totals(), "environment": record.environment}


def tags_of(config: Mapping[str, Any]) -> list[str]:
    """The user's tags, the strategy's name and the model's."""
    return [*config["logger"]["tags"], config["target"]["name"], config["model"]["name"]]


def summary_of(record: RunRecord) -> dict[str, Any]:
    """What is known at the end: status, parameters, metrics and the base's, speed and memory."""
    metrics, plan = record.metrics.items(), record.plan
    return {
        "status": str(record.status),
        "trainable_parameters": plan.get("trainable_parameters"),
        "trainable_percent": plan.get("trainable_percent"),
        **{name: metric.get("value") for name, metric in metrics},
        **{f"base_{name}": metric["base"] for name, metric in metrics if metric.get("base") is not None},
        "tokens_per_second": record.timing.get("tokens_per_second"),
        "peak_bytes": record.memory.get("peak_bytes"),
    }


def bound_table(run: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], key: str, step: int) -> Any:
    """These columns of the rows as a `wandb.Table`, to be logged as `key` at this step."""
    import wandb

    table = wandb.Table(columns=list(columns), data=[[row[name] for name in columns] for row in rows])
    table.bind_to_run(run, key, step)  # else W&B makes an artifact of it, and waits for its server without an end
    return table
