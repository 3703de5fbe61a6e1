"""Keeps secrets out of what is written: values come in, the same come out with '[redacted]' where a secret was."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REDACTED = "[redacted]"
# HF_TOKEN, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, DB_PASSWORD; not TOKENIZERS_PARALLELISM, not SSH_KEY_PATH
SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD)S?(_|$)", re.IGNORECASE)
NO_SECRET_NAME = re.compile(r"_(FILE|PATH|DIR|NAME|URL)$", re.IGNORECASE)
SHORTEST = 8  # a shorter value (KEY=1, TOKEN=none) hides nothing and would blot out innocent words
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")  # known by its form, wherever it came from


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The values of the environment's secrets and the variables' names, the longest value first."""
    found = {
        value.strip(): name
        for name, value in environment.items()
        if SECRET_NAME.search(name) and not NO_SECRET_NAME.search(name) and len(value.strip()) >= SHORTEST
    }
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def redact(value: Any) -> Any:
    """The value with each secret of the environment replaced, however deep in dicts and lists, also inside a text."""
    return _clean(value, secrets(os.environ))


def redact_file(path: Path) -> None:
    """The same for a text file that another program wrote, if it is there: Hydra keeps a sweep's config of its own."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        clean = redact(text)
        if clean != text:
            path.write_text(clean, encoding="utf-8")


def _clean(value: Any, found: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for secret in found:
            value = value.replace(secret, REDACTED)
        return HUB_TOKEN.sub(REDACTED, value)
    if isinstance(value, dict):
        return {_clean(key, found): _clean(item, found) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, found) for item in value]
    return value
