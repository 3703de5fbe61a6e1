"""A chat template of one's own, and variables for the model's."""

import json

import pytest

from chat_templates import QWEN, SMOLLM2
from helpers import make_tokenizer
from lorascope.compose import compose
from lorascope.data.chat_template import with_template
from lorascope.data.sources import load_rows, pin
from lorascope.data.tokenization import encode_splits, prompt_ids
from lorascope.errors import ConfigError, DataError
from lorascope.records.identity import run_hash

ROW = {"messages": [{"role": "user", "content": "Is tin a metal?"}, {"role": "assistant", "content": "Yes."}]}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return ["dataset=file", f"dataset.path={path}", f"dataset.eval_path={path}"]


def rendered(words, *more, template=SMOLLM2):
    config = compose([*words, *more]).dataset
    tokenizer = with_template(make_tokenizer(template), config)
    _, train, _ = encode_splits(load_rows(config), tokenizer, 512)
    return tokenizer.decode(train.input_ids[0])


def test_a_template_of_ones_own_renders_the_rows(tmp_path, words):
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}<|end|>")
    text = rendered(words, f"dataset.chat_template={tmp_path}/mine.jinja")
    assert text == "[user] Is tin a metal?[assistant] Yes.<|end|>"


def test_variables_reach_the_template_in_training_and_in_questions(words):
    config = compose([*words, "dataset.template_kwargs={enable_thinking: false}"]).dataset
    before = make_tokenizer(QWEN)
    tokenizer, row = with_template(before, config), load_rows(config).train[0]
    asked = before.apply_chat_template(
        ROW["messages"][:1], add_generation_prompt=True, enable_thinking=False, tokenize=False
    )
    assert tokenizer.decode(prompt_ids(row, tokenizer)) == asked
    assert asked != before.decode(prompt_ids(row, before))
    assert before.chat_template == QWEN  # the model's own is as it was


@pytest.mark.parametrize("value", [True, 3, 1.5, 'it\'s "so" {{ x }} %}\n', None, [1, "a"], {"a": [True, None]}])
def test_values_arrive_as_they_are_written(words, value):
    template = "{{ extra | tojson }}" + SMOLLM2
    config = compose(words).dataset
    config.template_kwargs = {"extra": value}
    tokenizer = with_template(make_tokenizer(template), config)
    text = tokenizer.apply_chat_template(ROW["messages"], tokenize=False)
    assert json.JSONDecoder().raw_decode(text)[0] == value


def test_an_edited_template_and_a_variable_make_another_run(tmp_path, words):
    def found(*more):
        config = compose([*words, *more])
        config.dataset = pin(config.dataset)
        return run_hash(config)

    file = tmp_path / "mine.jinja"
    file.write_text(SMOLLM2)
    runs = [found(), found(f"dataset.chat_template={file}"), found("dataset.template_kwargs={enable_thinking: false}")]
    file.write_text(QWEN)
    runs.append(found(f"dataset.chat_template={file}"))
    assert len(set(runs)) == 4


@pytest.mark.parametrize(("text", "message"), [
    (None, "cannot be read: No such file"), ("  \n", "is empty"), 
    ("{% for m in messages %}", r"line 1 is not a Jinja template"),
    ("{{ messages | nosuch }}", r"is not a Jinja template: No filter named 'nosuch'"),
])  # fmt: skip
def test_a_template_that_cannot_be_used_is_one_message(tmp_path, words, text, message):
    file = tmp_path / "mine.jinja"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=message):
        rendered(words, f"dataset.chat_template={file}")


def test_a_variable_that_the_template_does_not_read_is_refused(words):
    with pytest.raises(DataError, match=r"enable_thinkng: the chat template reads no such variable") as error:
        rendered(words, "dataset.template_kwargs={enable_thinkng: false}", template=QWEN)
    assert "enable_thinking" in error.value.remedy


@pytest.mark.parametrize("name", ["messages", "tools", "a-b"])
def test_a_name_that_is_no_variable_is_refused(words, name):
    config = compose(words)
    config.dataset.template_kwargs = {name: 1}
    with pytest.raises(ConfigError, match="is not the name of a variable"):
        load_rows_checked(config.dataset)


def load_rows_checked(dataset):
    from lorascope.data.sources import check_options

    check_options(dataset)
    return load_rows(dataset)
