"""What is known of a base on this machine: its own texts and answers, kept by all that they depend on.

Arms of a study share a base, and every process would ask it the same. Nothing is kept of weights without a revision
(a local folder's may change), nor of what code or files outside this key decide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorascope import __version__
from lorascope.atomic import replacing
from lorascope.config import RunConfig
from lorascope.models.packaged import cache_dir

FORMAT = 1  # raise it when questions are asked, answered or scored in another way
LOCAL = "local"  # the revision of weights that have none


def place(kind: str, config: RunConfig, revision: str, *more: Any) -> Path | None:
    """Where something of this base is kept; None where nothing may be.

    Args:
        kind: of what is kept.
        config: resolved; what the base's arithmetic depends on is read from it.
        revision: of the base.
        more: what else it depends on, JSON-ready.
    """
    import torch
    import transformers

    if revision == LOCAL or config.model.trust_remote_code:
        return None
    device = torch.cuda.get_device_name() if str(config.device) == "cuda" else torch.backends.cpu.get_cpu_capability()
    parts = [
        config.model.path or config.model.package, revision, str(config.model.dtype), str(config.model.attention),
        str(config.quantization.scheme), config.quantization.double_quant, str(config.device), device,
        torch.get_num_threads(), torch.__version__, transformers.__version__, __version__, FORMAT, *more,
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / kind / key


def keep(file: Path | None, write: Callable[[Path], object]) -> None:
    """Let `write` make the file; a cache that cannot be written is done without."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as aside:
            write(aside)
