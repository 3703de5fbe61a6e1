"""Forgetting: divergence from the base model and loss on texts that are not the task's.

The texts are the base's own (drawn from it, seeded, without any data or network) or a corpus by name. On its own texts
the loss that was added is an estimate of the divergence below, and without bias: the texts are drawn from the base.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.config.schema import DatasetConfig, ForgettingConfig, RunConfig
from lorascope.data.sources import load_rows
from lorascope.data.tokenization import TokenizedSplit
from lorascope.errors import DataError
from lorascope.evaluation.answers import LOGITS, last_logits
from lorascope.evaluation.loss import batches, item_losses
from lorascope.evaluation.predictions import keep, place
from lorascope.records.record import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
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
    return Texts(TokenizedSplit(rows, rows, ""), "the base's own") if whole else None


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


# KL(base || adapted), the mean over the texts' positions; loss of the texts
FORGETTING_KL = Metric("forgetting_kl", better="lower", unit="nats/token")
FORGETTING_LOSS = Metric("forgetting_loss", better="lower", unit="nats/token")
AT_ONCE = 64  # texts that are drawn in one batch


@dataclass(frozen=True)
class Texts:
    """Token ids to be remembered, all of them supervised but each text's first."""

    encoded: TokenizedSplit
    origin: str


def own_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    settings: ForgettingConfig,
    progress: Callable[[int], object] = lambda texts: None,
) -> Texts:
    """Texts that the base writes: drawn token by token from its own distribution, each as long as `settings.tokens`.

    The global random state stays as it was: a run that measures forgetting trains as one that does not.
    """
    import torch
    from transformers import GenerationConfig

    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    plain = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, num_beams=1,
        no_repeat_ngram_size=0, renormalize_logits=False, max_new_tokens=settings.tokens,
        min_new_tokens=settings.tokens, pad_token_id=tokenizer.pad_token_id, bos_token_id=start, eos_token_id=None,
    )  # fmt: skip
    rows: list[list[int]] = []
    training = model.training
    model.eval()
    try:
        with _own_randomness(settings.seed, model.device), torch.no_grad(), _no_end(model):
            while len(rows) < settings.texts:
                size = min(AT_ONCE, settings.texts - len(rows))
                ids = torch.full((size, 1), int(start or 0), device=model.device)
                mask = torch.ones_like(ids)
                drawn = model.generate(
                    input_ids=ids, attention_mask=mask, generation_config=plain, use_cache=True, **last_logits(model)
                )
                rows += drawn.tolist()
                progress(size)
    finally:
        model.train(training)
    return Texts(TokenizedSplit(tuple(rows), tuple(rows), ""), "the base's own")


def corpus(rows: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: ForgettingConfig, origin: str) -> Texts:
    """The first texts of a corpus, each cut at `settings.tokens`."""
    ids = [tokenizer(text)["input_ids"][: settings.tokens] for text in rows[: settings.texts]]
    kept = tuple(row for row in ids if len(row) > 1)
    return Texts(TokenizedSplit(kept, kept, ""), origin)


def text_loss(model: Any, texts: Texts, pad_id: int, batch_tokens: int) -> float:
    """The texts' loss, in nats per token."""
    items = item_losses(model, texts.encoded, pad_id=pad_id, batch_tokens=batch_tokens)
    return math.fsum(item.nats for item in items) / sum(item.tokens for item in items)


def divergence(model: Any, texts: Texts, pad_id: int, batch_tokens: int) -> float:
    """KL(base || adapted) in nats, the mean over all positions that predict a token of the texts.

    Args:
        model: a base with an adapter that, switched off, leaves the base as it was.
    """
    import torch

    from lorascope.data.tokenization import padded

    total, positions = 0.0, 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for rows in batches(texts.encoded, batch_tokens):
                inputs = padded(texts.encoded, rows, pad_id, model.device)
                there = inputs.pop("labels")[:, 1:].ne(-100)
                adapted = model(**inputs, use_cache=False).logits[:, :-1][there]
                with model.disable_adapter():
                    base = model(**inputs, use_cache=False).logits[:, :-1][there]
                total += _kl(base, adapted)
                positions += len(base)
    finally:
        model.train(training)
    return total / positions


def _kl(base: torch.Tensor, adapted: torch.Tensor) -> float:
    """Summed over positions; both (positions, vocabulary). A part at a time, since float32 doubles what they take."""
    total, at_once = 0.0, max(LOGITS // base.shape[1], 1)
    for one, other in zip(base.split(at_once), adapted.split(at_once), strict=True):
        left, right = one.float().log_softmax(dim=-1), other.float().log_softmax(dim=-1)
        total += (left.exp() * (left - right)).sum(dim=-1).double().sum().item()
    return total


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _no_end(model: Any) -> Iterator[None]:
    """The model's own settings may name an end of text, which would be taken where ours names none."""
    own = model.generation_config
    before, own.eos_token_id = own.eos_token_id, None
    try:
        yield
    finally:
        own.eos_token_id = before
