"""What W&B is told of a run: a record comes in, its config, summary and table of modules go out in W&B's forms."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorascope.records.record import RunRecord
from lorascope.records.store import WANDB

COLUMNS = ("name", "layer", "role", "rank", "alpha", "scale", "parameters")


def config_of(record: RunRecord) -> dict[str, Any]:
    """The run's config, its id, its plan without the modules, and the environment."""
    plan = {key: value for key, value in record.plan.items() if key != "modules"}
    return record.config | {"run_id": record.run_id, "plan": plan, "environment": record.environment}


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
        **{name: metric["value"] for name, metric in metrics},
        **{f"base_{name}": metric["base"] for name, metric in metrics if metric["base"] is not None},
        "tokens_per_second": record.timing.get("tokens_per_second"),
        "peak_bytes": record.memory.get("peak_bytes"),
    }


def table_of(run: Any, plan: Mapping[str, Any], key: str) -> Any:
    """The targeted modules as a `wandb.Table` of the W&B run, to be logged as `key`: a row each."""
    return bound_table(run, plan["modules"], COLUMNS, key, 0)


def bound_table(run: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], key: str, step: int) -> Any:
    """These columns of the rows as a `wandb.Table`, to be logged as `key` at this step."""
    import wandb

    table = wandb.Table(columns=list(columns), data=[[row[name] for name in columns] for row in rows])
    table.bind_to_run(run, key, step)  # else W&B makes an artifact of it, and waits for its server without an end
    return table


@contextmanager
def data_below(folder: Path) -> Iterator[None]:
    """W&B keeps a table's bytes in the home folder until they are sent; a run's belong into the run's folder."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str((folder / WANDB).absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
