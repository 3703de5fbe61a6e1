"""A metric: its name, direction and unit, declared once; and the losses that every run has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A number that a run is judged by."""

    name: str
    better: Literal["lower", "higher"]
    unit: str

    def entry(self, value: float, base: float | None) -> dict[str, Any]:
        """The metric as a record keeps it, beside the base model's value."""
        return {"value": value, "base": base, "unit": self.unit, "better": self.better}


EVAL_LOSS = Metric("eval_loss", better="lower", unit="nats/token")
BEST_LOSS = Metric("best_eval_loss", better="lower", unit="nats/token")  # of the checkpoints that were kept
TRAIN_LOSS = Metric("train_loss", better="lower", unit="nats/token")
