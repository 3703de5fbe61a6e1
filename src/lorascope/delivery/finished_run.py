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

    def on(self, device: str | None) -> FinishedRun:
        """The run where it is to be computed: on its own device, where none is named.

        Raises:
            RunError: when the device is not here.
        """
        config = self.config
        if device:
            config = dataclasses.replace(config, device=type(config.device)(device))
        if str(config.device) == "cuda":
            import torch

            if not torch.cuda.is_available():
                what = "is to be computed on a GPU, and torch sees none here."
                raise RunError(self.name, what, "Take the CPU: --device cpu")
        return dataclasses.replace(self, config=config)

    def stored_config(self) -> PretrainedConfig:
        """transformers' config of the base as it is stored; of a packaged one, as its preset says."""
        model = self.config.model
        return load_architecture(model if model.package else dataclasses.replace(model, architecture={}))[0]


def finished_run(record: RunRecord, folder: Path) -> FinishedRun:
    """The run, ready to be taken further.

    Raises:
        RunError: when the run is not done.
    """
    if record.status is not Status.done:
        raise RunError(str(folder), f"is {record.status}, and has no adapter.", "Finish it: the same command.")
    return FinishedRun(record, folder, from_dict(RunConfig, record.config))
