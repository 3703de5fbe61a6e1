"""What a chat template makes of the rows is looked at once a run, and said where it is not what one would expect."""

import datetime
import json

import pytest

from helpers import CHAT_TEMPLATE, MARKED, make_tokenizer
from lorascope.compose import compose
from lorascope.data.chat_template import closing_tokens, template_of
from lorascope.data.rows import Message, Row, Rows, exchange
from lorascope.data.sources import load_rows
from lorascope.data.statistics import template_notes
from lorascope.data.tokenization import encode, encode_splits
from lorascope.errors import DataError
from lorascope.evaluation.answers import ends_of, unwrapped

TALK = Row((Message("user", "hi"), Message("assistant", "yes")), every_answer=True, place="a.jsonl, line 1")
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHANNEL = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}<|system|>final<|system|>{% endif %}"
    "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def notes(template, *rows, bos=None):
    tokenizer = make_tokenizer(template)
    if bos:
        tokenizer.bos_token = bos
    return " / ".join(template_notes(Rows(rows or (TALK,), (), "here"), tokenizer))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, STRICT])
def test_a_template_as_it_should_be_is_not_spoken_of(template):
    assert notes(template) == ""


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (CHAT_TEMPLATE.replace("<|end|>", ""), "puts no token behind an answer that ends it"),
        (CHAT_TEMPLATE.replace("<|end|>", "\n"), "puts no token behind an answer that ends it"),
        (MARKED.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>"), "generation marks leave it out"),
        (MARKED.replace("<|assistant|>{% generation %}", "{% generation %}<|assistant|>"), "cover more than the"),
        (MARKED.replace("<|assistant|>{% gen", "{% gen").replace("{% generation %}", "{% generation %}<|assistant|>"),
         "'<|assistant|>' before it is learned too"),
        (CHAT_TEMPLATE.replace("<|end|>", "<|end|><|end|>"), "teaches its end twice: <|end|><|end|>"),
        ("{{ strftime_now('%d %b') }}" + CHAT_TEMPLATE, "writes today's date"),
        ("{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}" + CHAT_TEMPLATE, "writes today's date"),
    ],
)  # fmt: skip
def test_what_a_template_does_otherwise_is_said(template, says):
    assert says in notes(template)


def test_a_beginning_that_stands_twice_is_said():
    assert "begins with <|system|> twice" in notes("<|system|><|system|>" + CHAT_TEMPLATE, bos="<|system|>")


@pytest.mark.parametrize(
    ("row", "token"),
    [
        (exchange("hi", "he wrote <|end|> and left", place="a.jsonl, line 7"), "<|end|>"),
        (exchange("what is <|user|>?", "a token", place="a.jsonl, line 7"), "<|user|>"),
        (Row(text="one<|end|>two", place="a.jsonl, line 7"), "<|end|>"),
    ],
)
def test_a_control_token_in_the_data_is_named_with_its_row(row, token):
    found = notes(CHAT_TEMPLATE, TALK, row)
    assert "1 row holds a control token of the tokenizer in the text, which the model reads as such" in found
    assert f"a.jsonl, line 7 ({token})" in found


def test_of_several_named_templates_the_default_is_taken():
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = {"default": MARKED, "tool_use": "{{ tools }}"}
    assert template_of(tokenizer) == MARKED
    plain = encode([TALK], make_tokenizer(MARKED), 64, "train")
    assert encode([TALK], tokenizer, 64, "train").input_ids == plain.input_ids
    assert encode([TALK], tokenizer, 64, "train").labels == plain.labels


BAD = [
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}],
    [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}],
]


@pytest.mark.parametrize(
    ("bad", "what"), [(BAD[0], "two messages of the user in a row"), (BAD[1], "its first message")]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_the_template_refuses_are_skipped_by_line(tmp_path, bad, what, streaming):
    good = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}] for n in range(30)]
    talks = [*good[:10], bad, *good[10:]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    words = ["dataset=file", f"dataset.path={tmp_path}/a.jsonl", f"dataset.streaming={streaming}"]
    rows = load_rows(compose([*words, "dataset.on_bad_row=skip"]).dataset)
    kept, train, evaluation = encode_splits(rows, make_tokenizer(STRICT), 64, skip=True)
    assert len(train) + len(evaluation) == len(kept.train) + len(kept.eval) == 30
    (line,) = (*train.skipped, *evaluation.skipped)
    assert line.startswith("a.jsonl, line 11")
    assert what in line
    with pytest.raises(DataError, match=r"a.jsonl, line 11.*refuses this row"):
        encode_splits(rows, make_tokenizer(STRICT), 64)


def test_an_answer_in_a_channel_is_compared_without_it():
    tokenizer = make_tokenizer(CHANNEL)
    encoded = encode([exchange("q", "blue")], tokenizer, 64, "train")
    answer = [token for token in encoded.labels[0] if token >= 0]
    ends = ends_of(None, tokenizer, [answer])
    assert tokenizer.convert_ids_to_tokens(list(ends)) == ["<|end|>"]  # not the channel's own tokens
    assert unwrapped("finalblue", "blue", answer, tokenizer) == "blue"
    assert unwrapped("finalred", "blue", answer, tokenizer) == "red"
    plain = encode([exchange("q", "blue")], make_tokenizer(), 64, "train")
    answer = [token for token in plain.labels[0] if token >= 0]
    assert unwrapped("finalblue ", "blue", answer, tokenizer) == "finalblue "


def test_the_closing_tokens_are_those_behind_the_text():
    tokenizer = make_tokenizer()
    ids = tokenizer("<|user|>a<|end|>\n<|end|>")["input_ids"]
    assert [tokenizer.decode([token]) for token, _ in closing_tokens(ids, tokenizer)] == ["<|end|>", "<|end|>"]
    assert [place for _, place in closing_tokens(ids, tokenizer)] == [2, 4]


def test_the_same_rows_on_another_day_have_another_hash_of_tokens(monkeypatch):
    import transformers.utils.chat_template_utils as utils

    tokenizer = make_tokenizer("{{ strftime_now('%d %B %Y') }}" + CHAT_TEMPLATE)
    found = []
    for day in (1, 2):

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return cls(2026, 1, day)

        monkeypatch.setattr(utils, "datetime", Clock)
        utils._compile_jinja_template.cache_clear()
        found.append(encode([TALK], tokenizer, 64, "train"))
    utils._compile_jinja_template.cache_clear()
    assert found[0].hash == found[1].hash
    assert found[0].ids_hash != found[1].ids_hash
