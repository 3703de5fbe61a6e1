"""Who is told while a run goes on: a local history, and Weights & Biases where it is wanted.

A tracker is told of the start, of each step's values and of the end. None of them decides about the run.
"""

from __future__ import annotations

import json
import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from lorascope.config import RunConfig
from lorascope.records.record import RunRecord, Status
from lorascope.records.store import HISTORY

INIT_SECONDS = 15
FINISH_SECONDS = 20  # W&B waits for ever by default when its server is gone


class Tracker(Protocol):
    """What a run tells."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step."""

    def finish(self, record: RunRecord) -> None:
        """The run has ended, as its record says."""


class History:
    """`history.jsonl` in the run's folder: a line for each step that was logged."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def finish(self, record: RunRecord) -> None:
        """Nothing is left to do: the record is kept elsewhere."""


class Wandb:
    """A W&B run in the run's folder, online when a key is configured, else offline."""

    def __init__(self, record: RunRecord, config: RunConfig, folder: Path) -> None:
        self.folder = folder
        self.mode, self.why = wandb_mode(config.logger.wandb.mode)
        try:
            self.run = self._init(record, config, self.mode)
        except Exception as error:
            if self.mode == "offline":
                raise
            self.mode, self.why = "offline", f"it did not answer: {str(error).splitlines()[0]}"
            self.run = self._init(record, config, self.mode)

    def _init(self, record: RunRecord, config: RunConfig, mode: str) -> Any:
        import wandb

        run = wandb.init(
            project=config.logger.wandb.project,
            entity=config.logger.wandb.entity,
            name=record.name,
            group=config.logger.group,
            tags=[*config.logger.tags, record.config["target"]["name"], record.config["model"]["name"]],
            config=record.config | {"run_id": record.run_id, "plan": _short(record.plan)},
            dir=str(self.folder),
            mode=mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, disable_git=True,
                disable_code=True, save_code=False, x_disable_stats=True,
            ),
        )  # fmt: skip
        run.define_metric("eval_loss", summary="last")
        return run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the history."""
        self.run.log(dict(values), step=step)

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
        offline = next(iter(sorted(self.folder.glob("wandb/offline-run-*"))), self.folder / "wandb")
        return f"W&B     offline ({self.why}); send it later with: wandb sync {offline}"


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


class Trackers:
    """All of a run's trackers as one; one that fails is told of once and never stops the run."""

    def __init__(self, trackers: list[Tracker], warn: Any) -> None:
        self.trackers = list(trackers)
        self.warn = warn

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step, to each."""
        for tracker in list(self.trackers):
            self._tell(tracker, tracker.log, step, values)

    def finish(self, record: RunRecord) -> None:
        """The end, to each."""
        for tracker in list(self.trackers):
            self._tell(tracker, tracker.finish, record)

    def _tell(self, tracker: Tracker, method: Any, *words: Any) -> None:
        try:
            method(*words)
        except Exception as error:
            self.trackers.remove(tracker)
            self.warn(f"{type(tracker).__name__} stopped listening ({error}); the local record goes on.")
