"""Forgetting: divergence from the base model and loss on texts that are not the task's.

The texts are the base's own (drawn from it, seeded, without any data or network) or a corpus by name. On its own texts
the loss that was added is an estimate of the divergence below, and without bias: the texts are drawn from the base.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import DatasetConfig, ForgettingConfig, RunConfig
from lorascope.data.sources import load_rows
from lorascope.data.tokenization import IGNORED, TokenizedSplit, padded
from lorascope.errors import DataError
from lorascope.evaluation.answers import LOGITS, decode
from lorascope.evaluation.loss import batches, evaluating
from lorascope.evaluation.predictions import keep, place
from lorascope.records.record import Metric

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

# KL(base || adapted), the mean over the texts' positions; loss of the texts
FORGETTING_KL = Metric("forgetting_kl", better="lower", unit="nats/token")
FORGETTING_LOSS = Metric("forgetting_loss", better="lower", unit="nats/token")
AT_ONCE = 64  # texts that are drawn in one batch


def texts_of(config: RunConfig, model: Any, tokenizer: PreTrainedTokenizerBase, revision: str) -> TokenizedSplit | None:
    """The texts of this base, or None where forgetting is not measured.

    Args:
        config: resolved; `evaluation.forgetting` and what the base depends on.
        model: the base, without an adapter.
        revision: of the base; what was drawn from `local` weights is not kept, since they may change.

    Returns:
        Token ids, all of them supervised but each text's first.

    Raises:
        DataError: when the corpus cannot be read, or has no texts.
    """
    settings = config.evaluation.forgetting
    if not settings.texts:
        return None
    if settings.path:
        return _load_corpus(settings.path, settings, tokenizer)
    file = place("texts", config, revision, settings.texts, settings.tokens, settings.seed)
    if file and (found := _read(file, settings.texts)):
        return found
    drawn = own_texts(model, tokenizer, settings)
    keep(file, lambda aside: aside.write_text(json.dumps(drawn.input_ids), encoding="utf-8"))
    return drawn


def _read(file: Path, count: int) -> TokenizedSplit | None:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        whole = len(rows) == count and all(isinstance(token, int) for row in rows for token in row)
    except (OSError, ValueError, TypeError):
        return None
    return _supervised(rows) if whole else None


def _supervised(rows: Sequence[list[int]]) -> TokenizedSplit:
    return TokenizedSplit(tuple(rows), tuple(rows), "")


def _load_corpus(path: str, settings: ForgettingConfig, tokenizer: PreTrainedTokenizerBase) -> TokenizedSplit:
    rows = load_rows(
        DatasetConfig(
            name="evaluation.forgetting",
            source="file" if os.path.exists(os.path.expanduser(path)) else "hub",
            path=path,
            split=settings.split,
            columns={"text": "text"},
        )
    )
    texts = corpus([row.text for row in (*rows.train, *rows.eval) if row.text], tokenizer, settings)
    if not len(texts):
        place = f"evaluation.forgetting.path={path}"
        raise DataError(place, "holds no texts.", "Name files or a data set with a column text.")
    return texts


def corpus(rows: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: ForgettingConfig) -> TokenizedSplit:
    """The first texts of a corpus, each cut at `settings.tokens`."""
    ids = [tokenizer(text)["input_ids"][: settings.tokens] for text in rows[: settings.texts]]
    return _supervised([row for row in ids if len(row) > 1])


def own_texts(model: Any, tokenizer: PreTrainedTokenizerBase, settings: ForgettingConfig) -> TokenizedSplit:
    """Texts that the base writes: drawn token by token from its own distribution, each as long as `settings.tokens`.

    The global random state stays as it was: a run that measures forgetting trains as one that does not.
    """
    import torch

    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    drawing = {"do_sample": True, "top_k": 0, "min_new_tokens": settings.tokens, "bos_token_id": start}
    rows: list[list[int]] = []
    own = model.generation_config
    end, own.eos_token_id = own.eos_token_id, None  # which would be taken where ours names none
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with evaluating(model), torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed)
            while len(rows) < settings.texts:
                ids = torch.full((min(AT_ONCE, settings.texts - len(rows)), 1), int(start or 0), device=model.device)
                rows += decode(model, tokenizer, ids, torch.ones_like(ids), settings.tokens, **drawing).tolist()
    finally:
        own.eos_token_id = end
    return _supervised(rows)


def divergence(model: Any, texts: TokenizedSplit, pad_id: int, batch_tokens: int) -> float:
    """KL(base || adapted) in nats, the mean over all positions that predict a token of the texts.

    Args:
        model: a base with an adapter that, switched off, leaves the base as it was.
    """
    total, positions = 0.0, 0
    with evaluating(model):
        for rows in batches([*map(len, texts.input_ids)], batch_tokens):
            inputs = padded(texts, rows, pad_id, model.device)
            there = inputs.pop("labels")[:, 1:] != IGNORED
            adapted = model(**inputs, use_cache=False).logits[:, :-1][there]
            with model.disable_adapter():
                base = model(**inputs, use_cache=False).logits[:, :-1][there]
            total += _kl(base, adapted)
            positions += len(base)
    return total / positions


def _kl(base: torch.Tensor, adapted: torch.Tensor) -> float:
    """Summed over positions; both (positions, vocabulary). A part at a time, since float32 doubles what they take."""
    total, at_once = 0.0, max(LOGITS // base.shape[1], 1)
    for one, other in zip(base.split(at_once), adapted.split(at_once), strict=True):
        left, right = one.float().log_softmax(dim=-1), other.float().log_softmax(dim=-1)
        total += (left.exp() * (left - right)).sum(dim=-1).double().sum().item()
    return total
