"""A run that is done, as what becomes of it takes it: its config, its adapter, and the name of its base."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.base.architecture import load_architecture
from lorascope.config.schema import RunConfig, from_dict
from lorascope.delivery.model_card import base_name
from lorascope.errors import RunError
from lorascope.records.record import RunRecord, Status
from lorascope.records.store import ADAPTER

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class FinishedRun:
    """A run with an adapter.

    Args:
        record: of the run.
        folder: of the run.
        config: as the run had it, or for another device.
    """

    record: RunRecord
    folder: Path
    config: RunConfig

    @property
    def adapter(self) -> Path:
        """The folder with PEFT's adapter."""
        return self.folder / ADAPTER

    @property
    def name(self) -> str:
        """The run's name."""
        return self.record.name

    @property
    def base_name(self) -> str:
        """What files call the base."""
        return base_name(self.config.model)

    def stored_config(self) -> PretrainedConfig:
        """transformers' config of the base as it is stored; of a packaged one, as its preset says."""
        model = self.config.model
        return load_architecture(model if model.package else dataclasses.replace(model, architecture={}))[0]


def finished_run(record: RunRecord, folder: Path, device: str | None = None) -> FinishedRun:
    """The run, ready to be taken further.

    Args:
        record: of the run.
        folder: of the run.
        device: cpu or cuda; that of the run where it is not named.

    Raises:
        RunError: when the run is not done, or its device is not here.
    """
    if record.status is not Status.done:
        raise RunError(str(folder), f"is {record.status}, and has no adapter.", "Finish it: the same command.")
    config: RunConfig = from_dict(RunConfig, record.config)
    if device:
        config = dataclasses.replace(config, device=type(config.device)(device))
    if str(config.device) == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise RunError(record.name, "was trained on a GPU, and torch sees none here.", "Take the CPU: --device cpu")
    return FinishedRun(record, folder, config)
