import random

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope.evaluation.answers import ends_of, generate

END = 0  # <|end|>


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = random.Random(1)
    return [[draw.randrange(4, 250) for _ in range(draw.randrange(2, 30))] for _ in range(11)]


@pytest.fixture(scope="module")
def model():
    """One that writes different things: a random model repeats itself."""
    made = make_model().eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" not in name:
                weight.mul_(6)
    return made


def step_by_step(model, prompt: list[int], steps: int, ends=(END,)) -> list[int]:
    """The definition: the most likely token, without batch, padding or cache."""
    ids, written = list(prompt), []
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
        written.append(token)
    return written


def answers(model, prompts, **changes):
    settings = {"max_new_tokens": 8, "ends": (END,), "batch_tokens": 128}
    return generate(model, make_tokenizer(), prompts, **settings | changes)


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_the_answer_is_the_most_likely_token_again_and_again_whatever_the_batch(model, prompts, batch_tokens):
    tokenizer = make_tokenizer()
    expected = [tokenizer.decode(step_by_step(model, prompt, 8), skip_special_tokens=True) for prompt in prompts]
    assert len(set(expected)) > 5
    assert answers(model, prompts, batch_tokens=batch_tokens) == expected


def test_an_answer_ends_where_an_end_is_written(model, prompts):
    written = step_by_step(model, prompts[0], 8)
    stop = written[3]
    expected = make_tokenizer().decode(step_by_step(model, prompts[0], 8, ends=(END, stop)), skip_special_tokens=True)
    assert answers(model, prompts[:1], ends=(END, stop)) == [expected]


def test_the_models_own_generation_settings_do_not_count(model, prompts):
    plain = answers(model, prompts)
    own = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "num_beams": 3, "top_p": 0.1,
           "no_repeat_ngram_size": 2}  # fmt: skip
    before = {name: getattr(model.generation_config, name) for name in own}
    try:
        for name, value in own.items():
            setattr(model.generation_config, name, value)
        assert answers(model, prompts) == plain
    finally:
        for name, value in before.items():
            setattr(model.generation_config, name, value)


def test_a_thought_before_the_answer_is_left_out(monkeypatch):
    from lorascope.evaluation.answers import answer_text

    tokenizer = make_tokenizer()
    for text, answer in (("<think>\nhm\n</think>\n\nyes", "yes"), ("I <think>so</think>", "I <think>so</think>")):
        assert answer_text([*tokenizer(text)["input_ids"], END, 7], tokenizer, (END,)) == answer


def test_what_ends_an_answer_is_what_templates_and_models_end_it_with():
    tokenizer, model = make_tokenizer(), make_model()
    model.generation_config.eos_token_id = [5, 6]
    turn = tokenizer.convert_tokens_to_ids("<|user|>")  # as if a template ended every answer with it
    assert ends_of(model, tokenizer, [[10, turn], [11, 12, turn]]) == (END, turn, 5, 6)
    assert ends_of(model, tokenizer, [[10, turn], [11, 12]]) == (END, 5, 6)
