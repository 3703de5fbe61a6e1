"""Whether W&B can be told online, which of its runs is meant, and what of it was sent."""

from __future__ import annotations

import json
import netrc
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorascope.atomic import write_text
from lorascope.records.store import WANDB_RUN

ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's own, in WANDB_MODE
IDENTITY = ("id", "project", "entity")  # in the words of `wandb.init`
SENT = "sent"  # so many rows of the local history, and the run's end
REACHED = "reached"  # the last step that W&B was told of before the run went back to a checkpoint


def wandb_mode(wanted: str) -> tuple[str, str]:
    """Online or offline, and why."""
    if environment := os.environ.get("WANDB_MODE"):
        return ALIASES.get(environment, environment), "WANDB_MODE says so"
    if wanted != "auto":
        return wanted, f"logger.wandb.mode={wanted}"
    return ("online", "a key is configured") if has_key() else ("offline", "no key is configured")


def has_key() -> bool:
    """Whether a key is configured: WANDB_API_KEY, or one that `wandb login` wrote; whether it is right, W&B knows."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname
    with suppress(OSError, netrc.NetrcParseError):
        hosts = netrc.netrc(os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())).hosts
        return any("wandb" in host or host == server for host in hosts)
    return False


def run_identity(folder: Path, project: str, entity: str | None) -> dict[str, Any]:
    """Which W&B run this is, in `wandb.init`'s words: a fresh one, or that which the folder remembers.

    A run that starts over finds its folder emptied and gets a fresh one; a run that goes on stays the same one.
    """
    if kept := remembered(folder):
        return {name: kept[name] for name in IDENTITY} | {"resume": "allow"}
    fresh = {"id": secrets.token_hex(4), "project": project, "entity": entity}
    remember(folder, **fresh)
    return fresh


def remembered(folder: Path) -> dict[str, Any]:
    """What the folder remembers of its W&B run; empty where it remembers none."""
    with suppress(OSError, ValueError):
        kept = json.loads((folder / WANDB_RUN).read_text(encoding="utf-8"))
        if isinstance(kept, dict) and set(IDENTITY) <= set(kept):
            return kept
    return {}


def remember(folder: Path, **values: Any) -> None:
    """Add to what the folder remembers; None forgets a mark."""
    kept = remembered(folder) | values
    kept = {name: value for name, value in kept.items() if name in IDENTITY or value is not None}
    write_text(folder / WANDB_RUN, json.dumps(kept) + "\n")
