"""The texts that are to be remembered: the base's own, drawn once a machine, or a corpus by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.config import DatasetConfig, ForgettingConfig, RunConfig
from lorascope.data.sources import load_rows
from lorascope.data.tokens import Encoded
from lorascope.errors import DataError
from lorascope.evaluation.forgetting import Texts, corpus, own_texts
from lorascope.evaluation.remembered import keep, place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def texts_of(
    config: RunConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    revision: str,
    progress: Callable[[int], object] = lambda texts: None,
) -> Texts | None:
    """The texts of this base, or None where forgetting is not measured.

    Args:
        config: resolved; `evaluation.forgetting` and what the base depends on.
        model: the base, without an adapter.
        revision: of the base; what was drawn from `local` weights is not kept, since they may change.

    Raises:
        DataError: when the corpus cannot be read, or has no texts.
    """
    settings = config.evaluation.forgetting
    if not settings.texts:
        return None
    if settings.path:
        return _corpus(settings, tokenizer)
    file = place("texts", config, revision, settings.texts, settings.tokens, settings.seed)
    if file and (found := _read(file, settings)):
        return found
    drawn = own_texts(model, tokenizer, settings, progress)
    keep(file, lambda aside: aside.write_text(json.dumps(drawn.encoded.input_ids), encoding="utf-8"))
    return drawn


def _read(file: Path, settings: ForgettingConfig) -> Texts | None:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        whole = len(rows) == settings.texts and all(isinstance(token, int) for row in rows for token in row)
    except (OSError, ValueError, TypeError):
        return None
    rows = tuple(rows)
    return Texts(Encoded(rows, rows, ""), "the base's own") if whole else None


def _corpus(settings: ForgettingConfig, tokenizer: PreTrainedTokenizerBase) -> Texts:
    assert settings.path
    local = os.path.exists(os.path.expanduser(settings.path))
    dataset = DatasetConfig(
        name="evaluation.forgetting",
        source="file" if local else "hub",
        path=settings.path,
        split=settings.split,
        columns={"text": "text"},
    )
    rows = load_rows(dataset)
    found = [row.text for row in (*rows.train, *rows.eval) if row.text]
    texts = corpus(found, tokenizer, settings, rows.origin)
    if not len(texts.encoded):
        place = f"evaluation.forgetting.path={settings.path}"
        raise DataError(place, "holds no texts.", "Name files or a data set with a column text.")
    return texts
