"""Label scoring: the log-probability of every answer that a question may have, the question read once for all of them.

The prompt's keys and values are computed once and shared by its answers; logits are made for the answers' tokens alone.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lorascope.data.questions import Choices
from lorascope.data.tokens import IGNORED, Encoded
from lorascope.errors import out_of_memory
from lorascope.evaluation.loss import item_losses

if TYPE_CHECKING:
    import torch

LOGITS = 2**26  # of one forward pass, 256 MiB in float32
ALL_AT_ONCE = 2**20
# how far both ways of scoring may lie apart, as a share: by rounding, in 16 and in 32 bits
APART = {False: 0.02, True: 0.001}


def score_choices(
    model: Any,
    asked: Sequence[Choices],
    *,
    pad_id: int,
    batch_tokens: int,
    progress: Callable[[int], object] = lambda items: None,
) -> list[tuple[float, ...]]:
    """The log-probability of every answer to every question, in nats, summed over the answer's tokens.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        asked: questions, each with its possible answers.
        pad_id: fills short rows; it is masked.
        batch_tokens: padded tokens of one forward pass.
        progress: called with the number of questions after each pass.

    Returns:
        For each question, in order, a number for each of its answers: minus the loss of the row with this answer.
    """
    if not asked:
        return []
    if not _shares_prompts(model, asked, pad_id):
        return _plainly(model, asked, pad_id, batch_tokens, progress)
    scores: list[tuple[float, ...]] = [()] * len(asked)
    for batch in _batches(asked, batch_tokens):
        for index, found in zip(batch, _scored(model, [asked[i] for i in batch], pad_id, batch_tokens), strict=True):
            scores[index] = found
        progress(len(batch))
    return scores


def _batches(asked: Sequence[Choices], batch_tokens: int) -> Iterator[list[int]]:
    """Question numbers, longest first: prompts within `batch_tokens`; a batch has as many answers to each question."""
    batch: list[int] = []
    for index in sorted(range(len(asked)), key=lambda i: (-len(asked[i].answers), -len(asked[i].prompt))):
        full = batch and len(asked[batch[0]].prompt) * (len(batch) + 1) > batch_tokens
        if batch and (full or len(asked[batch[0]].answers) != len(asked[index].answers)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _shares_prompts(model: Any, asked: Sequence[Choices], pad_id: int) -> bool:
    """Whether this model's cache can be continued in many ways: tried, and held against the plain way."""
    by_length = sorted(asked, key=lambda question: len(question.prompt))
    pair = [_some_answers(by_length[0]), _some_answers(by_length[-1])]  # so that a prompt is padded
    try:
        shared = _scored(model, pair, pad_id, ALL_AT_ONCE)
    except (TypeError, ValueError, AttributeError, LookupError, AssertionError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        return False  # each kind of model has its own way to say that it has no such cache
    plain = [score for one in pair for score in _plainly(model, [one], pad_id, 1)]
    apart = APART[model.dtype.itemsize >= 4]
    return all(
        abs(one - other) <= apart * (1 + abs(other))
        for left, right in zip(shared, plain, strict=True)
        for one, other in zip(left, right, strict=True)
    )


def _some_answers(question: Choices) -> Choices:
    """The question with its first, its longest and its shortest answer."""
    by_length = sorted(question.answers, key=len)
    return Choices(question.prompt, (question.answers[0], by_length[-1], by_length[0]))


def _scored(model: Any, asked: Sequence[Choices], pad_id: int, batch_tokens: int) -> list[tuple[float, ...]]:
    """The scores of some questions with equally many answers."""
    import torch

    prompts = [question.prompt for question in asked]
    ids, mask = left_padded(prompts, pad_id, model.device)
    placed = takes(model, "position_ids")
    positions = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)} if placed else {}
    with torch.no_grad():
        read = model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **positions)
        opening = read.logits[:, -1].float().log_softmax(dim=-1)  # (questions, vocabulary)
        count = len(asked[0].answers)
        first = torch.tensor([[answer[0] for answer in question.answers] for question in asked], device=ids.device)
        total = opening.gather(1, first).double()  # (questions, answers)
        longest = max(len(answer) for question in asked for answer in question.answers) - 1
        if longest:
            room = min(batch_tokens, LOGITS // opening.shape[1])
            at_once = min(max(room // (len(asked) * longest), 1), count)
            for start in range(0, count, at_once):
                end = min(start + at_once, count)
                answers = [answer for question in asked for answer in question.answers[start:end]]
                more = _continued(model, read.past_key_values, mask, answers, end - start, pad_id, placed)
                total[:, start:end] += more.view(len(asked), end - start)
    return [tuple(row) for row in total.tolist()]


def _continued(
    model: Any,
    cache: Any,
    mask: torch.Tensor,
    answers: Sequence[tuple[int, ...]],
    each: int,
    pad_id: int,
    placed: bool,
) -> torch.Tensor:
    """The log-probability of every answer after its first token, float64, shape (answers,)."""
    import torch

    device, width = mask.device, max(map(len, answers)) - 1
    if not width:
        return torch.zeros(len(answers), dtype=torch.float64, device=device)
    ids = torch.tensor([[*answer, *[pad_id] * (width + 1 - len(answer))] for answer in answers], device=device)
    there = torch.tensor([[position < len(answer) - 1 for position in range(width)] for answer in answers])
    there = there.to(device)
    before = mask.repeat_interleave(each, dim=0)
    positions = before.sum(dim=1, keepdim=True) + torch.arange(width, device=device)
    own = copy.deepcopy(cache)  # a cache grows in place
    own.batch_repeat_interleave(each)
    logits = model(
        input_ids=ids[:, :-1],
        attention_mask=torch.cat([before, there.long()], dim=1),
        past_key_values=own,
        use_cache=True,
        **({"position_ids": positions} if placed else {}),
    ).logits
    chosen = logits[there].float()
    likelihood = chosen.gather(1, ids[:, 1:][there].unsqueeze(1)).squeeze(1) - chosen.logsumexp(dim=-1)
    total = torch.zeros(there.shape, dtype=torch.float64, device=device)
    total[there] = likelihood.double()
    return total.sum(dim=1)


def _plainly(
    model: Any,
    asked: Sequence[Choices],
    pad_id: int,
    batch_tokens: int,
    progress: Callable[[int], object] = lambda items: None,
) -> list[tuple[float, ...]]:
    """Every answer behind its own copy of the prompt: what a model without such a cache takes."""
    ids = tuple([*question.prompt, *answer] for question in asked for answer in question.answers)
    labels = tuple([IGNORED] * len(question.prompt) + list(answer) for question in asked for answer in question.answers)
    found = iter(item_losses(model, Encoded(ids, labels, ""), pad_id=pad_id, batch_tokens=batch_tokens))
    scores = [tuple(-next(found).nats for _ in question.answers) for question in asked]
    progress(len(asked))
    return scores


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each (rows, longest row), what is short filled up on the left."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def takes(model: Any, name: str) -> bool:
    """Whether the model's forward has such an argument, below its adapter too."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return name in inspect.signature(inner.forward).parameters
