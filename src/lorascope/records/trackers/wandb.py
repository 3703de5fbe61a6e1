"""Weights & Biases: a run's record, plan and values become a W&B run in the run's folder, online or offline."""

from __future__ import annotations

import json
import netrc
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorascope.records.record import RunRecord, Status
from lorascope.records.redact import redact
from lorascope.records.store import WANDB_RUN

INIT_SECONDS = 15
FINISH_SECONDS = 20  # W&B waits for ever by default when its server is gone
STEP = "step"  # the x-axis of every chart
SUMMARIES = {"lower": "min", "higher": "max"}  # how W&B is told a metric's direction
COLUMNS = ("name", "layer", "role", "rank", "alpha", "scale", "parameters")


class Wandb:
    """A W&B run in the run's folder, online when a key is configured, else offline."""

    def __init__(self, record: RunRecord, folder: Path, metrics: Mapping[str, str]) -> None:
        settings = record.config["logger"]["wandb"]
        self.folder = folder
        self.mode, self.why = wandb_mode(settings["mode"])
        place = (folder, settings["project"], settings["entity"])
        try:
            self.run = self._init(record, self.mode, run_identity(*place))
        except Exception as error:
            if self.mode == "offline":
                raise
            self.mode, self.why = "offline", f"it did not answer: {redact(str(error)).splitlines()[0]}"
            (folder / WANDB_RUN).unlink()  # the W&B process holds an id that it failed to start: "run ID is in use"
            self.run = self._init(record, self.mode, run_identity(*place))
        self._define(metrics)
        with _data_below(folder):
            self.run.log({"modules": _table(record.plan)}, step=0)

    def _init(self, record: RunRecord, mode: str, identity: Mapping[str, Any]) -> Any:
        import wandb

        config = record.config
        return wandb.init(
            **identity,
            name=record.name,
            group=config["logger"]["group"],
            tags=[*config["logger"]["tags"], config["target"]["name"], config["model"]["name"]],
            config=config
            | {"run_id": record.run_id, "plan": _short(record.plan), "environment": record.environment},
            dir=str(self.folder),
            mode=mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS,
                disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
                # W&B's own metadata hold the command line as it was typed, and the names of host and folders
                x_disable_meta=True, x_disable_machine_info=True, host="",
            ),
        )  # fmt: skip

    def _define(self, metrics: Mapping[str, str]) -> None:
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric("*", step_metric=STEP)
        for name, better in metrics.items():
            self.run.define_metric(name, step_metric=STEP, summary=SUMMARIES[better])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the history."""
        self.run.log({STEP: step, **values}, step=step)

    def finish(self, record: RunRecord) -> None:
        """The summary and the exit code."""
        plan = record.plan
        self.run.summary.update(
            {
                "status": str(record.status),
                "trainable_parameters": plan.get("trainable_parameters"),
                "trainable_percent": plan.get("trainable_percent"),
                **{name: metric["value"] for name, metric in record.metrics.items()},
                **{
                    f"base_{name}": metric["base"]
                    for name, metric in record.metrics.items()
                    if metric["base"] is not None
                },
                "tokens_per_second": record.timing.get("tokens_per_second"),
                "peak_bytes": record.memory.get("peak_bytes"),
            }
        )
        self.run.finish(exit_code=0 if record.status is Status.done else 1)

    @property
    def note(self) -> str:
        """A line for the user: where the run can be seen."""
        if self.mode == "online":
            return f"W&B     {self.run.url}"
        offline = [self.folder / "wandb", *sorted(self.folder.glob("wandb/offline-run-*"))][-1]
        return f"W&B     offline ({self.why}); send it later with: wandb sync {offline}"


def run_identity(folder: Path, project: str, entity: str | None) -> dict[str, Any]:
    """Which W&B run this is, in `wandb.init`'s words: a fresh one, or that which the folder remembers.

    A run that starts over finds its folder emptied and gets a fresh one; a run that goes on stays the same one.
    """
    path = folder / WANDB_RUN
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {name: kept[name] for name in ("id", "project", "entity")} | {"resume": "allow"}
    fresh = {"id": secrets.token_hex(4), "project": project, "entity": entity}
    path.write_text(json.dumps(fresh) + "\n", encoding="utf-8")
    return fresh


def wandb_mode(wanted: str) -> tuple[str, str]:
    """Online or offline, and why."""
    if environment := os.environ.get("WANDB_MODE"):
        return environment, "WANDB_MODE says so"
    if wanted != "auto":
        return wanted, f"logger.wandb.mode={wanted}"
    return ("online", "a key is configured") if _has_key() else ("offline", "no key is configured")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, netrc.NetrcParseError):
        hosts = netrc.netrc(os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())).hosts
        return any("wandb" in host for host in hosts)
    return False


def _short(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key != "modules"}


def _table(plan: Mapping[str, Any]) -> Any:
    """The targeted modules, a row each."""
    import wandb

    return wandb.Table(columns=list(COLUMNS), data=[[module[name] for name in COLUMNS] for module in plan["modules"]])


@contextmanager
def _data_below(folder: Path) -> Iterator[None]:
    """W&B keeps a table's bytes in the home folder until they are sent; a run's belong into the run's folder."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str((folder / "wandb").absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
