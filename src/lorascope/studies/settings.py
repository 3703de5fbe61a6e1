"""A record's config as dotted keys: which settings decide a run, and which differ between runs. Never loads torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lorascope.config import RunConfig, as_dict
from lorascope.records.identity import ELSEWHERE
from lorascope.records.record import RunRecord

SUGGESTED = "model.learning_rate"  # a preset's suggestion; train.learning_rate is what counts


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; an empty mapping leaves nothing."""
    if not isinstance(values, Mapping):
        return {prefix: values} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def deciding(record: RunRecord) -> dict[str, Any]:
    """The settings that decide the run's result, by dotted key; as `records.identity` sees them.

    What an older record does not name had its default then, so it has it here.
    """
    settings = flat(as_dict(RunConfig())) | flat(record.config)
    return {
        key: value for key, value in settings.items() if key.partition(".")[0] not in ELSEWHERE and key != SUGGESTED
    }


def setting(record: RunRecord, key: str) -> Any:
    """One setting by its dotted key; None where an older record has none."""
    value: Any = record.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Key -> both values, where they differ; a key that is absent counts as null, so that old records compare."""
    keys = dict.fromkeys([*first, *second])
    return {key: [first.get(key), second.get(key)] for key in keys if first.get(key) != second.get(key)}


def plain(value: Any) -> Any:
    """The value as strict JSON has it: a loss that is not a number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
