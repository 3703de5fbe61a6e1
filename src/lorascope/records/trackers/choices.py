"""Which trackers a config asks for: whether their packages are there, and the trackers themselves."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

from lorascope.config import LoggerConfig
from lorascope.errors import ConfigError
from lorascope.records.record import RunRecord
from lorascope.records.redact import redact
from lorascope.records.trackers.base import Tracker, Trackers
from lorascope.records.trackers.history import History
from lorascope.records.trackers.tensorboard import TensorBoard
from lorascope.records.trackers.trackio import Trackio
from lorascope.records.trackers.wandb import Wandb

# logger=NAME -> the tracker; NAME is its setting's and its package's name too
CHOICES: dict[str, Callable[[RunRecord, Path, Mapping[str, str]], Tracker]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
}


def wanted(logger: LoggerConfig) -> list[str]:
    """The names of the trackers that are enabled."""
    return [name for name in CHOICES if getattr(logger, name).enabled]


def check_installed(logger: LoggerConfig) -> None:
    """Refuse a tracker whose package is missing: told before anything is loaded.

    Raises:
        ConfigError: for the first of them.
    """
    for name in wanted(logger):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"logger={name}",
                f"the package {name} is not installed.",
                "Run: pip install 'lorascope[trackers]', or take logger=none",
            )


def open_trackers(
    logger: LoggerConfig, record: RunRecord, folder: Path, metrics: Mapping[str, str], warn: Callable[[str], None]
) -> Trackers:
    """The history and every tracker that is enabled; one that cannot start is told of and left out.

    Args:
        logger: which are enabled.
        record: the run's, with its plan; its config is what trackers are told.
        folder: the run's own.
        metrics: what the run is judged by: a name, and whether "lower" or "higher" is better.
        warn: told of what did not work.
    """
    trackers: list[Tracker] = [History(folder)]
    for name in wanted(logger):
        try:
            trackers.append(CHOICES[name](record, folder, metrics))
        except Exception as error:
            warn(f"{CHOICES[name].__name__} could not start ({redact(str(error))}); the local record goes on.")
    return Trackers(trackers, warn)
