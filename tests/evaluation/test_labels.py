import math
import random

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope.data.prompts import Choices, choices, questions
from lorascope.data.rows import exchange
from lorascope.evaluation import answers
from lorascope.evaluation.answers import score_choices
from small_models import quiet, small_model

LENGTHS = (1, 3, 2, 5)  # tokens of the answers


@pytest.fixture(scope="module")
def asked() -> list[Choices]:
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(4, 99) for _ in range(length)]

    return [Choices(ids(draw.randrange(3, 20)), tuple(tuple(ids(length)) for length in LENGTHS)) for _ in range(9)]


def by_definition(model, question: Choices) -> list[float]:
    """Each answer behind its prompt, by itself: the sum of log p(token | what stands before it)."""
    found = []
    for answer in question.answers:
        ids = [*question.prompt, *answer]
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
        chances = torch.softmax(logits, dim=-1)
        start = len(question.prompt)
        found.append(sum(math.log(chances[place - 1, ids[place]].item()) for place in range(start, len(ids))))
    return found


# separate and fused projections, learned and rotary positions, ALiBi, windows, experts, a cache that cannot be shared
TYPES = ["llama", "gpt2", "gpt_neox", "bloom", "mpt", "falcon", "gemma3_text", "phi3", "mixtral", "deepseek_v3",
         "qwen3_next", "mamba"]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_a_label_scores_as_its_row_by_itself_would(kind, asked):
    with quiet():
        model = small_model(kind).eval()
        scores = score_choices(model, asked, pad_id=0, batch_tokens=60)
    for question, found in zip(asked, scores, strict=True):
        assert found == pytest.approx(by_definition(model, question), abs=2e-5)


@pytest.mark.parametrize("batch_tokens", [1, 37, 200, 10_000])
def test_a_score_does_not_depend_on_the_batch(asked, batch_tokens):
    model = make_model().eval()
    alone = [score_choices(model, [question], pad_id=0, batch_tokens=1)[0] for question in asked]
    together = score_choices(model, asked, pad_id=0, batch_tokens=batch_tokens)
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def counted(model, monkeypatch) -> list[int]:
    """How many tokens each forward pass of the model reads, from now on."""
    read, forward = [], model.forward

    def counting(*words, **named):
        read.append(int(named["attention_mask"][:, -named["input_ids"].shape[1] :].sum()))
        return forward(*words, **named)

    monkeypatch.setattr(answers, "_shares_prompts", lambda *_: True)
    monkeypatch.setattr(answers, "taken", lambda model, **arguments: arguments)
    monkeypatch.setattr(model, "forward", counting)
    return read


def test_a_prompt_is_read_once_for_all_of_its_answers(asked, monkeypatch):
    model = make_model().eval()
    read = counted(model, monkeypatch)
    score_choices(model, asked, pad_id=0, batch_tokens=10_000)
    prompts = sum(len(question.prompt) for question in asked)
    assert sum(read) == prompts + len(asked) * sum(length - 1 for length in LENGTHS)


def test_a_model_whose_cache_cannot_be_shared_is_noticed(asked):
    for kind, shares in (("llama", True), ("mamba", False), ("qwen3_next", False), ("roformer", False)):
        with quiet():
            assert answers._shares_prompts(small_model(kind).eval(), asked, 0) is shares, kind


def test_out_of_memory_is_not_taken_for_a_missing_cache(asked, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(answers, "_scored", full)
    with pytest.raises(torch.OutOfMemoryError):
        score_choices(make_model(), asked, pad_id=0, batch_tokens=100)


def test_the_choices_are_the_rows_with_these_answers():
    from lorascope.data.tokenization import encode_row

    tokenizer = make_tokenizer()
    rows = [exchange(f"Is {word} a fruit?", "yes", "Answer.") for word in ("a pear", "fog", "this very long thing")]
    names = ("yes", "no", "nobody knows")
    for row, found in zip(rows, choices(questions(rows, tokenizer), names, tokenizer), strict=True):
        for name, answer in zip(names, found.answers, strict=True):
            whole = encode_row(exchange(row.question, name, "Answer."), tokenizer, "")
            assert [*found.prompt, *answer] == whole.ids
            assert whole.learned.index(True) == len(found.prompt)


def test_where_the_template_joins_answer_and_question_every_row_is_rendered():
    """A template that repeats the question behind the answer: no answer's tokens are the same for two questions."""
    template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}/{{ messages[0]['content'] }}"
        "<|end|>{% else %}|{% endif %}{% endfor %}"
    )
    tokenizer = make_tokenizer(template)
    found = choices(questions([exchange("a", "x"), exchange("b", "x")], tokenizer), ("x", "y"), tokenizer)
    assert found[0].answers != found[1].answers
    assert tokenizer.decode([*found[1].prompt, *found[1].answers[1]]) == "b|y/b<|end|>"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("batch_tokens", [20, 10_000])
def test_only_labels_that_may_be_the_likeliest_are_read_on_and_the_likeliest_stays(kind, batch_tokens):
    draw = random.Random(1)
    many = [
        Choices(
            [draw.randrange(4, 99) for _ in range(draw.randrange(3, 20))],
            tuple(tuple(draw.randrange(4, 99) for _ in range(draw.randrange(1, 5))) for _ in range(9)),
        )
        for _ in range(7)
    ]
    with quiet():
        model = small_model(kind).eval()
        found = score_choices(model, many, pad_id=0, batch_tokens=batch_tokens, every=False)
        every = score_choices(model, many, pad_id=0, batch_tokens=batch_tokens)
    for question, some, whole in zip(many, found, every, strict=True):
        truth = by_definition(model, question)
        assert some.index(max(some)) == truth.index(max(truth))
        assert whole == pytest.approx(truth, abs=2e-5)
        for one, other in zip(some, truth, strict=True):
            assert one == -math.inf or one == pytest.approx(other, abs=2e-5)
            assert one > -math.inf or other < max(truth)


def test_a_sharp_model_reads_few_labels_on(asked, monkeypatch):
    model = make_model().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(300)  # one first token is far likelier than all others
    read = counted(model, monkeypatch)
    scores = score_choices(model, asked, pad_id=0, batch_tokens=10_000, every=False)
    every = len(asked) * sum(length - 1 for length in LENGTHS)
    assert sum(read) - sum(len(question.prompt) for question in asked) < every / 2
    assert sum(score == -math.inf for each in scores for score in each) > len(asked)
