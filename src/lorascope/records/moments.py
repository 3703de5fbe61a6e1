"""Times as records hold them: ISO 8601, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """This moment."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(text: object) -> float:
    """Seconds since 1970; 0 where it is no time."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
