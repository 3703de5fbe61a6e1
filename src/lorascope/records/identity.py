"""Which run a config means: the same settings always name the same run, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from lorascope.config import RunConfig, as_dict

# settings that change what is shown or where it is kept, not what is trained
ELSEWHERE = ("logger", "runs_dir", "dry_run", "overwrite")


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings that decide a run's result; `config` is resolved, no `auto` is left in it."""
    settings = {key: value for key, value in as_dict(config).items() if key not in ELSEWHERE}
    del settings["model"]["learning_rate"]  # a preset's suggestion; train.learning_rate is what counts
    return settings


def run_hash(config: RunConfig) -> str:
    """SHA-256 of the identity, 64 hex digits."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def run_id(config: RunConfig) -> str:
    """The run's short name: 8 hex digits of its hash."""
    return run_hash(config)[:8]


def run_name(config: RunConfig) -> str:
    """The name of the run's folder: target, model, dataset, seed and id."""
    names = (config.target.name, config.model.name, config.dataset.name, f"s{config.seed}", run_id(config))
    return "-".join(re.sub(r"[^\w.+]", "_", str(name)) for name in names)
