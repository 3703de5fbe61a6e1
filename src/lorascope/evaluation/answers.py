"""Answers of a model: written greedily, or the log-probability of each choice, whose prompt is read once."""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lorascope.data.chat_template import closing_tokens
from lorascope.data.prompts import Choices, Question
from lorascope.data.tokenization import IGNORED, TokenizedSplit, padded
from lorascope.errors import out_of_memory
from lorascope.evaluation.loss import batches, item_losses

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)  # which some templates put before every answer
# what a model's own generation settings may ask for, and a measurement must not have
GREEDY = {
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
    answers = [""] * len(prompts)
    # each step computes one token a row, so a batch may hold more of these than a forward pass of whole rows
    for batch in batches([len(prompt) + max_new_tokens for prompt in prompts], 4 * batch_tokens):
        ids, mask = left_padded([prompts[index] for index in batch], int(tokenizer.pad_token_id or 0), model.device)
        written = decode(model, tokenizer, ids, mask, max_new_tokens, ends)[:, ids.shape[1] :]
        for index, tokens in zip(batch, written.tolist(), strict=True):
            answers[index] = answer_text(tokens, tokenizer, ends)
        progress(len(batch))
    return answers


def decode(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
    ends: Sequence[int] = (),
    streamer: Any = None,
    **changes: Any,
) -> torch.Tensor:
    """Token ids, (rows, width), and what the model writes behind them: the most likely, whatever its own settings.

    Args:
        streamer: of transformers, handed each token.
        changes: fields of transformers' GenerationConfig.
    """
    import torch
    from transformers import GenerationConfig

    settings = GREEDY | {
        "max_new_tokens": max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": list(ends) or None,
    }
    asked = {"generation_config": GenerationConfig(**settings | changes), "use_cache": True, "streamer": streamer}
    asked |= last_logits(model)
    with torch.no_grad():
        written: torch.Tensor = model.generate(input_ids=ids, attention_mask=mask, **asked)
    return written


def answer_text(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> str:
    """The text of an answer's token ids, as far as one of `ends`, without special tokens and a thought before it."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    text = str(tokenizer.decode(tokens[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return THOUGHT.sub("", text, count=1) if text.lstrip().startswith("<think>") else text


def right_answer(question: Question, tokenizer: PreTrainedTokenizerBase) -> str:
    """The answer that is wanted: as the data have it, or a tool call as the template writes it."""
    if "tool_calls" not in json.loads(question.row.messages[-1].extra or "{}"):
        return question.row.completion
    ends = [token for token, _ in closing_tokens(question.answer, tokenizer)][:1]
    return answer_text(question.answer, tokenizer, ends).strip()


def unwrapped(text: str, completion: str, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """An answer without what the chat template writes around every answer besides special tokens: a channel's name.

    Args:
        text: as the model wrote it.
        completion: the right answer, as the data have it.
        answer: the same as the template renders it, in token ids.
    """
    rendered = answer_text(answer, tokenizer, [token for token, _ in closing_tokens(answer, tokenizer)][:1])
    before, found, after = rendered.partition(completion.strip())
    if not found or not (before.strip() or after.strip()):
        return text
    return text.strip().removeprefix(before.strip()).removesuffix(after.strip())


def ends_of(model: Any, tokenizer: PreTrainedTokenizerBase, answers: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's and the model's own, and a special one that all answers share."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])} - {None}
    if answers:
        # an end-of-turn token, which a template puts behind every answer; others may stand before or in an answer
        found |= set.intersection(*({token for token, _ in closing_tokens(answer, tokenizer)} for answer in answers))
    return tuple(sorted(found))


LOGITS = 2**26  # of one forward pass, 256 MiB in float32
# how far both ways of scoring may lie apart, as a share: by rounding, in 16 and in 32 bits
APART = {False: 0.02, True: 0.001}


def score_choices(
    model: Any,
    asked: Sequence[Choices],
    *,
    pad_id: int,
    batch_tokens: int,
    every: bool = True,
    progress: Callable[[int], object] = lambda items: None,
) -> list[tuple[float, ...]]:
    """The log-probability of every answer to every question, in nats, summed over the answer's tokens.

    An answer is no likelier than its first token, which the prompt alone tells: without `every`, answers whose first
    token is already less likely than the best whole answer are not read on. The likeliest answer stays the same.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        asked: questions, each with as many possible answers.
        pad_id: fills short rows; it is masked.
        batch_tokens: padded tokens of one forward pass.
        every: score those answers too that cannot be the likeliest.
        progress: called with the number of questions after each pass.

    Returns:
        For each question, in order, a number for each of its answers: minus the loss of the row with this answer, or
        -inf where it cannot be the likeliest and was not read on.
    """
    if not asked:
        return []
    if not _shares_prompts(model, asked, pad_id):
        scores = _plainly(model, asked, pad_id, batch_tokens)
        progress(len(asked))
        return scores
    scores = [()] * len(asked)
    for batch in batches([len(question.prompt) for question in asked], batch_tokens):
        score = _scored if every else _scored_for_the_best
        for index, found in zip(batch, score(model, [asked[i] for i in batch], pad_id, batch_tokens), strict=True):
            scores[index] = found
        progress(len(batch))
    return scores


def _shares_prompts(model: Any, asked: Sequence[Choices], pad_id: int) -> bool:
    """Whether this model's cache can be continued in many ways: tried, and held against the plain way."""
    by_length = sorted(asked, key=lambda question: len(question.prompt))
    pair = [
        Choices(one.prompt, (one.answers[0], max(one.answers, key=len), min(one.answers, key=len)))
        for one in (by_length[0], by_length[-1])  # so that a prompt is padded
    ]
    try:
        shared = _scored(model, pair, pad_id, 2**20)  # all at once
        best = _scored_for_the_best(model, pair, pad_id, 2**20)
    except (TypeError, ValueError, AttributeError, LookupError, AssertionError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        return False  # each kind of model has its own way to say that it has no such cache
    apart = APART[model.dtype.itemsize >= 4]
    return all(
        abs(one - other) <= apart * (1 + abs(other))
        for question, *found in zip(pair, shared, best, strict=True)
        for left in found
        for one, other in zip(left, _plainly(model, [question], pad_id, 1)[0], strict=True)
        if one > -math.inf
    )


ROUNDS = (2, 4)  # answers of each question that are read on first, and then


def _scored_for_the_best(
    model: Any, asked: Sequence[Choices], pad_id: int, batch_tokens: int
) -> list[tuple[float, ...]]:
    """The scores of some questions as far as they may be the best; -inf for the others."""
    import torch

    cache, mask, bounds, vocabulary = _read_prompts(model, asked, pad_id)
    single = torch.tensor([[len(answer) == 1 for answer in question.answers] for question in asked], device=mask.device)
    total = torch.where(single, bounds, -math.inf)  # the first token is all there is
    left = ~single
    longest = max(len(answer) for question in asked for answer in question.answers) - 1
    at_once = max(min(batch_tokens, LOGITS // vocabulary) // max(longest, 1), 1)
    for most in (*ROUNDS, bounds.shape[1]):
        left &= bounds > total.max(dim=1, keepdim=True).values
        likeliest = torch.where(left, bounds, -math.inf).argsort(dim=1, descending=True)[:, :most]
        chosen = torch.zeros_like(left).scatter(1, likeliest, value=True) & left
        rest = chosen.nonzero()  # (rows, 2): which question, which answer
        for rows in rest.split(at_once) if len(rest) else ():
            answers = [asked[question].answers[answer] for question, answer in rows.tolist()]
            own = copy.deepcopy(cache)  # a cache grows in place
            own.batch_select_indices(rows[:, 0])
            more = _continued(model, own, mask[rows[:, 0]], answers, pad_id)
            total[rows[:, 0], rows[:, 1]] = bounds[rows[:, 0], rows[:, 1]] + more
        left &= ~chosen
    return [tuple(row) for row in total.tolist()]


def _read_prompts(model: Any, asked: Sequence[Choices], pad_id: int) -> tuple[Any, torch.Tensor, torch.Tensor, int]:
    """The cache of the prompts, their mask, the log-probability of each answer's first token, and the vocabulary."""
    import torch

    ids, mask = left_padded([question.prompt for question in asked], pad_id, model.device)
    positions = taken(model, position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0))
    with torch.no_grad():
        read = model(input_ids=ids, attention_mask=mask, use_cache=True, **positions, **last_logits(model))
    opening = read.logits[:, -1].float().log_softmax(dim=-1)  # (questions, vocabulary)
    first = torch.tensor([[answer[0] for answer in question.answers] for question in asked], device=ids.device)
    return read.past_key_values, mask, opening.gather(1, first).double(), opening.shape[1]


def _scored(model: Any, asked: Sequence[Choices], pad_id: int, batch_tokens: int) -> list[tuple[float, ...]]:
    """The scores of some questions with equally many answers."""
    cache, mask, total, vocabulary = _read_prompts(model, asked, pad_id)
    count = len(asked[0].answers)
    longest = max(len(answer) for question in asked for answer in question.answers) - 1
    if longest:
        room = min(batch_tokens, LOGITS // vocabulary)
        at_once = min(max(room // (len(asked) * longest), 1), count)
        for start in range(0, count, at_once):
            end = min(start + at_once, count)
            answers = [answer for question in asked for answer in question.answers[start:end]]
            own = copy.deepcopy(cache)  # a cache grows in place
            own.batch_repeat_interleave(end - start)
            more = _continued(model, own, mask.repeat_interleave(end - start, dim=0), answers, pad_id)
            total[:, start:end] += more.view(len(asked), end - start)
    return [tuple(row) for row in total.tolist()]


def _continued(
    model: Any, cache: Any, before: torch.Tensor, answers: Sequence[tuple[int, ...]], pad_id: int
) -> torch.Tensor:
    """The log-probability of every answer after its first token, float64, shape (answers,).

    Args:
        cache: of the answers' prompts, one for each; it is used up.
        before: the mask of these prompts.
    """
    import torch

    width = max(map(len, answers)) - 1
    if not width:
        return torch.zeros(len(answers), dtype=torch.float64, device=before.device)
    rows = [list(answer) for answer in answers]
    filled = padded(TokenizedSplit(rows, rows, ""), range(len(rows)), pad_id, before.device)
    ids, there = filled["input_ids"], filled["attention_mask"][:, 1:]
    places = before.sum(dim=1, keepdim=True) + torch.arange(width, device=before.device)
    with torch.no_grad():
        logits = model(
            input_ids=ids[:, :-1],
            attention_mask=torch.cat([before, there], dim=1),
            past_key_values=cache,
            use_cache=True,
            **taken(model, position_ids=places),
        ).logits
    there = there.bool()
    chosen = logits[there].float()
    likelihood = chosen.gather(1, ids[:, 1:][there].unsqueeze(1)).squeeze(1) - chosen.logsumexp(dim=-1)
    total = torch.zeros(there.shape, dtype=torch.float64, device=before.device)
    total[there] = likelihood.double()
    return total.sum(dim=1)


def _plainly(model: Any, asked: Sequence[Choices], pad_id: int, batch_tokens: int) -> list[tuple[float, ...]]:
    """Every answer behind its own copy of the prompt: what a model without such a cache takes."""
    ids = tuple([*question.prompt, *answer] for question in asked for answer in question.answers)
    labels = tuple([IGNORED] * len(question.prompt) + list(answer) for question in asked for answer in question.answers)
    found = iter(item_losses(model, TokenizedSplit(ids, labels, ""), pad_id=pad_id, batch_tokens=batch_tokens))
    return [tuple(-next(found).nats for _ in question.answers) for question in asked]


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each (rows, longest row), what is short filled up on the left."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def last_logits(model: Any) -> dict[str, torch.Tensor]:
    """The argument by which a model makes logits of the last position alone.

    An index, not a count: torch multiplies a slice with the head by copying the head once for each row, which took
    more than half of an evaluation's time on a CPU.
    """
    import torch

    return taken(model, logits_to_keep=torch.tensor([-1], device=model.device))


def taken(model: Any, **arguments: torch.Tensor) -> dict[str, torch.Tensor]:
    """Those of the arguments that the model's forward has, below its adapter too."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(inner.forward).parameters
    return {name: value for name, value in arguments.items() if name in known}
