"""A run's checkpoints: the one to resume from, whether it is of the same run, the best one, what stays at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorascope.errors import RunError
from lorascope.records.environment import exactness
from lorascope.training.checkpoints import Checkpoint, newest, thin_out
from lorascope.training.exact import check_resumable


def latest(checkpoints: Path, warn: Callable[[str], None] = lambda reason: None) -> Checkpoint | None:
    """The newest checkpoint that a run can be resumed from; those that are passed over are warned of."""
    return newest(checkpoints, warn, check_resumable)


def best(checkpoints: Path) -> Mapping[str, Any] | None:
    """Step and eval loss of the best checkpoint, as far as the run was evaluated."""
    found = latest(checkpoints)
    return found.meta["best"] if found else None


def clear(checkpoints: Path, keep: int | None) -> None:
    """Remove the checkpoints of a run that is done, but the one of step `keep`."""
    if keep is None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    else:
        thin_out(checkpoints, 0, keep)


def check_same_run(
    checkpoint: Checkpoint,
    fingerprint: Mapping[str, Any],
    environment: dict[str, Any],
    warn: Callable[[str], object],
) -> None:
    """Refuse to resume with other data or another base; warn of other versions.

    Args:
        checkpoint: to resume from.
        fingerprint: of data and base as they are now.
        environment: as it is now.
        warn: told of versions that differ.

    Raises:
        RunError: naming what differs.
    """
    then = checkpoint.meta["fingerprint"]
    if differs := [key for key in fingerprint if key != "hash" and fingerprint[key] != then.get(key)]:
        raise RunError(
            str(checkpoint.path),
            f"was written with another {', '.join(differs)}: {then.get(differs[0])}, not {fingerprint[differs[0]]}.",
            "Bring it back, or begin anew: resume=never",
        )
    before = checkpoint.meta["versions"]
    if changed := [name for name, version in exactness(environment).items() if before.get(name) != version]:
        warn(f"resuming with another {', '.join(changed)}: the result may differ in the last bits")
