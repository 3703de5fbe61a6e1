"""Answers kept beside the record, and a cache of the base model's own, which arms of a study share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.base.packaged import cache_dir
from lorascope.config.schema import RunConfig
from lorascope.evaluation.metrics import Answer
from lorascope.evaluation.tasks import Evaluated, Score, Suite
from lorascope.records.record import replacing

if TYPE_CHECKING:
    import pyarrow


FILE = "predictions.parquet"
BASE_FILE = "predictions-base.parquet"  # while the run is not done
BASE, ADAPTED = "base", "adapter"
META = b"lorascope"
ANSWER = [field.name for field in dataclasses.fields(Answer)]


def write(file: Path, stages: Mapping[str, Evaluated], suite: Suite) -> None:
    """Items of every stage and set, each metric's score of an item in a column of its own.

    Columns: stage (base or adapter), set, item (its number in the set), the fields of `Answer`, one for each metric.
    """
    import pyarrow.parquet

    with replacing(file) as aside:
        pyarrow.parquet.write_table(_table(stages, suite), aside)


def _table(stages: Mapping[str, Evaluated], suite: Suite) -> pyarrow.Table:
    import pyarrow

    metrics = {metric.name: metric for metric in suite.names().values()}
    rows = []
    for stage, found in stages.items():
        for name, answers in found.answers.items():
            here = {metric.name for metric in suite.metrics_of(name)}
            for number, answer in enumerate(answers):
                made = {key: metric.score(answer) if key in here else None for key, metric in metrics.items()}
                rows.append({"stage": stage, "set": name, "item": number, **vars(answer), **made})
    text, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    kinds = {
        "stage": text, "set": text, "item": whole, "prompt": text, "gold": text, "accepted": pyarrow.list_(text),
        "group": text, "choice": text, "scores": pyarrow.list_(number), "text": text, "nats": number, "tokens": whole,
        **dict.fromkeys(metrics, number),
    }  # fmt: skip
    scores = {stage: {key: vars(score) for key, score in found.scores.items()} for stage, found in stages.items()}
    return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(kinds, metadata={META: json.dumps(scores).encode()}))


def read(file: Path) -> dict[str, Evaluated] | None:
    """What `write` wrote, by stage; None where the file is missing or damaged."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
        answers: dict[tuple[str, str], list[Answer]] = {}
        for row in table.to_pylist():
            values: dict[str, Any] = {
                name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in ANSWER
            }
            answers.setdefault((row["stage"], row["set"]), []).append(Answer(**values))
        return {
            stage: Evaluated(
                {key: Score(**score) for key, score in scores.items()},
                {name: tuple(found) for (at, name), found in answers.items() if at == stage},
            )
            for stage, scores in json.loads(table.schema.metadata[META]).items()
        }
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException):
        return None


FORMAT = 1  # raise it when questions are asked, answered or scored in another way
LOCAL = "local"  # the revision of weights that have none


def place(kind: str, config: RunConfig, revision: str, *more: Any) -> Path | None:
    """Where something of this base is cached; None where it may change: a local folder's weights, remote code.

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
        torch.get_num_threads(), torch.__version__, transformers.__version__, version("lorascope"), FORMAT, *more,
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
