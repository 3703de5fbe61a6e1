"""Which W&B run a run folder belongs to, whether it is online, and what is sent to it."""

from __future__ import annotations

import functools
import json
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorascope.config.schema import WandbConfig
from lorascope.records.record import RunRecord, write_text
from lorascope.records.store import WANDB_RUN

IDENTITY = ("id", "project", "entity")  # arguments of `wandb.init`


def wandb_mode(wanted: str) -> tuple[str, str]:
    """Online or offline, and why."""
    if environment := os.environ.get("WANDB_MODE"):
        return {"dryrun": "offline", "run": "online"}.get(environment, environment), "WANDB_MODE says so"
    if wanted != "auto":
        return wanted, f"logger.wandb.mode={wanted}"
    return ("online", "a key is configured") if has_key() else ("offline", "no key is configured")


def has_key() -> bool:
    """Whether a key is configured: WANDB_API_KEY, or one that `wandb login` wrote; it may be wrong."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname
    with suppress(OSError, netrc.NetrcParseError):
        hosts = netrc.netrc(os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())).hosts
        return any("wandb" in host or host == server for host in hosts)
    return False


def run_identity(folder: Path, project: str, entity: str | None) -> dict[str, Any]:
    """The arguments of `wandb.init` that name the W&B run: the folder's, else those of a new one.

    A run that starts over finds its folder emptied and gets a new one; a run that is resumed stays the same one.
    """
    if known := read_state(folder):
        return {name: known[name] for name in IDENTITY} | {"resume": "allow"}
    if project == WandbConfig.project:  # nobody has set it
        project = os.environ.get("WANDB_PROJECT") or project
    entity = entity or os.environ.get("WANDB_ENTITY") or None
    fresh = {"id": _given_id() or secrets.token_hex(4), "project": project, "entity": entity}
    update_state(folder, **fresh)
    return fresh


@functools.cache
def _ids() -> list[str]:
    """WANDB_RUN_ID, for the first run of this process: a second one is another run."""
    return [os.environ["WANDB_RUN_ID"]] if os.environ.get("WANDB_RUN_ID") else []


def _given_id() -> str:
    return _ids().pop() if _ids() else ""


def group_and_tags(config: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The group and the tags of the config, and those of W&B's own variables."""
    logger, more = config["logger"], os.environ.get("WANDB_TAGS", "").split(",")
    group = logger["group"] or os.environ.get("WANDB_RUN_GROUP") or None
    return group, [*logger["tags"], *(tag.strip() for tag in more if tag.strip())]


def read_state(folder: Path) -> dict[str, Any]:
    """The folder's wandb.json; empty where there is none, or a damaged one.

    Besides IDENTITY it has `sent`, the number of rows of the local history that were sent with the run's end, and
    `reached`, the last step that was logged before the run went back to a checkpoint.
    """
    with suppress(OSError, ValueError):
        state = json.loads((folder / WANDB_RUN).read_text(encoding="utf-8"))
        if isinstance(state, dict) and set(IDENTITY) <= set(state):
            return state
    return {}


def update_state(folder: Path, **values: Any) -> None:
    """Change values of the folder's wandb.json; None removes one."""
    state = read_state(folder) | values
    state = {name: value for name, value in state.items() if name in IDENTITY or value is not None}
    write_text(folder / WANDB_RUN, json.dumps(state) + "\n")


def summary_of(record: RunRecord) -> dict[str, Any]:
    """A run's W&B summary: status, parameters, metrics and the base's, speed and memory."""
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
    """Some columns of the rows as a `wandb.Table`, to be logged as `key` at this step."""
    import wandb

    table = wandb.Table(columns=list(columns), data=[[row[name] for name in columns] for row in rows])
    table.bind_to_run(run, key, step)  # else W&B makes an artifact of it, and waits for its server without an end
    return table
