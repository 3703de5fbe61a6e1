"""Whether W&B can be told online, and which of its runs is meant: from the environment and the run's folder."""

from __future__ import annotations

import json
import netrc
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorascope.records.store import WANDB_RUN

ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's own, in WANDB_MODE


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
    if kept := kept_identity(folder):
        return kept | {"resume": "allow"}
    fresh = {"id": secrets.token_hex(4), "project": project, "entity": entity}
    (folder / WANDB_RUN).write_text(json.dumps(fresh) + "\n", encoding="utf-8")
    return fresh


def kept_identity(folder: Path) -> dict[str, Any]:
    """The id, project and entity that the folder remembers; empty where it remembers none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads((folder / WANDB_RUN).read_text(encoding="utf-8"))
        return {name: kept[name] for name in ("id", "project", "entity")}
    return {}
