"""Free answers: prompts come in, what the model writes after them goes out, greedily and in batches of like length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lorascope.evaluation.labels import left_padded

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)  # which some templates put before every answer
# what a model's own generation settings may ask for, and a measurement must not have
PLAIN = {
    "do_sample": False, "num_beams": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "min_new_tokens": None, "renormalize_logits": False,
}  # fmt: skip


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    ends: Sequence[int],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda items: None,
) -> list[str]:
    """The most likely next token, again and again, until one of `ends` or `max_new_tokens`.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        prompts: token ids, as far as where an answer begins.
        batch_tokens: padded tokens of one forward pass, prompts and answers together.
        progress: called with the number of prompts after each batch.

    Returns:
        The answers as text without special tokens and thoughts, in the prompts' order.
    """
    import torch

    answers = [""] * len(prompts)
    settings = _settings(tokenizer, max_new_tokens, ends)
    for batch in _batches(prompts, max_new_tokens, batch_tokens):
        ids, mask = left_padded([prompts[index] for index in batch], int(tokenizer.pad_token_id or 0), model.device)
        with torch.no_grad():
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, use_cache=True)
        for index, tokens in zip(batch, written[:, ids.shape[1] :].tolist(), strict=True):
            answers[index] = _text(tokens, tokenizer, ends)
        progress(len(batch))
    return answers


def _settings(tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, ends: Sequence[int]) -> GenerationConfig:
    from transformers import GenerationConfig

    return GenerationConfig(
        **PLAIN,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(ends) or None,
    )


def _batches(prompts: Sequence[Sequence[int]], more: int, batch_tokens: int) -> Iterator[list[int]]:
    """Prompt numbers, longest first. A step of all rows reads the weights once: few rows waste it, many cost memory."""
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        # each step computes one token a row, so a batch may hold more of these than a forward pass of whole rows
        if batch and (len(prompts[batch[0]]) + more) * (len(batch) + 1) > 4 * batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _text(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> str:
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    text = str(tokenizer.decode(tokens[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return THOUGHT.sub("", text, count=1) if text.lstrip().startswith("<think>") else text


def ends_of(model: Any, tokenizer: PreTrainedTokenizerBase, answers: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's and the model's own, and a special one that all answers share."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])} - {None}
    special = set(tokenizer.all_special_ids)
    if answers:
        # an end-of-turn token, which a template puts behind every answer
        found |= set.intersection(*(special.intersection(answer) for answer in answers))
    return tuple(sorted(found))
