"""What is measured: each metric declared once, with its direction and unit."""

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
TRAIN_LOSS = Metric("train_loss", better="lower", unit="nats/token")
