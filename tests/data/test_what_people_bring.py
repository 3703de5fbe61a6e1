"""Columns and keys beside the text: listed where they are not used, obeyed where they say what is to be learned."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from chat_templates import QWEN, SMOLLM2
from helpers import make_tokenizer
from lorascope.compose import compose
from lorascope.data.sources import load_rows
from lorascope.data.statistics import data_card, data_notes
from lorascope.data.tokenization import IGNORED, encode_splits
from lorascope.errors import DataError

ASKED = {"role": "user", "content": "Is tin a metal?"}
SAID = {"role": "assistant", "content": "Yes."}
PLAIN = {"messages": [ASKED, SAID]}


def read(tmp_path, rows, *words):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (rows if isinstance(rows, list) else [rows])))
    return load_rows(compose(["dataset=file", f"dataset.path={path}", f"dataset.eval_path={path}", *words]).dataset)


def learned(rows, template=SMOLLM2):
    tokenizer = make_tokenizer(template)
    _, train, _ = encode_splits(rows, tokenizer, 4096)
    return [tokenizer.decode([one for one in labels if one != IGNORED]) for labels in train.labels]


def test_what_never_reaches_the_model_is_listed_in_notes_and_card(tmp_path):
    row = {"id": 7, "source": "forum", "messages": [ASKED, SAID | {"name": "helper", "date": None}], "empty": None}
    rows = read(tmp_path, row)
    assert rows.unused == ("id", "messages[].name", "source")
    tokenizer = make_tokenizer()
    rows, train, evaluation = encode_splits(rows, tokenizer, 512)
    assert "not used: id, messages[].name, source" in data_notes(rows, train, evaluation, tokenizer)
    assert data_card(rows, train, evaluation)["unused"] == ["id", "messages[].name", "source"]


def test_a_column_that_is_read_is_not_listed(tmp_path):
    row = {"instruction": "Name it.", "context": "tin", "response": "Tin.", "system": "Be brief.", "topic": "metals"}
    assert read(tmp_path, row, "dataset.group=topic").unused == ()
    assert read(tmp_path, row, "dataset.prompt={topic}: {instruction}").unused == ("context",)


@pytest.mark.parametrize("column", ["image", "images", "videos", "audio", "image_url", "Image-Paths", "speech"])
def test_what_a_text_model_cannot_see_is_refused(tmp_path, column):
    row = {"prompt": "What is on the table?", "completion": "Bread.", column: ["table.jpg"]}
    with pytest.raises(DataError, match=rf"line 1: it has {column}, and only text is learned") as error:
        read(tmp_path, row)
    assert f"dataset.drop=[{column}]" in str(error.value)
    assert read(tmp_path, row, f"dataset.drop=[{column}]").unused == ()
    assert read(tmp_path, row | {column: []}).unused == ()
    with pytest.raises(DataError, match=rf"messages\[\].{column}"):
        read(tmp_path, {"messages": [ASKED | {column: ["a.jpg"]}, SAID]})


@pytest.mark.parametrize("parts", [
    [{"type": "text", "text": "Is tin "}, {"type": "text", "text": "a metal?"}],
    ["Is tin a ", "metal?"], [{"text": "Is tin a metal?"}], [{"type": "input_text", "text": "Is tin a metal?"}],
])  # fmt: skip
def test_parts_of_text_are_the_same_text(tmp_path, parts):
    assert read(tmp_path, {"messages": [{"role": "user", "content": parts}, SAID]}).train == read(tmp_path, PLAIN).train


@pytest.mark.parametrize("part", [
    {"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "thinking", "thinking": "hm"}, 7, None,
])  # fmt: skip
def test_other_parts_are_refused_by_name(tmp_path, part):
    content = [{"type": "text", "text": "Look: "}, part]
    name = part["type"] if isinstance(part, dict) else {7: "a number", None: "null"}[part]
    with pytest.raises(DataError, match=rf"part 2 of the content of message 1 .user. is of the type {name}"):
        read(tmp_path, {"messages": [{"role": "user", "content": content}, SAID]})


WRONG = [ASKED, SAID | {"content": "No."}, {"role": "user", "content": "Sure?"}, SAID | {"content": "It is one."}]


@pytest.mark.parametrize("key", ["weight", "loss", "train", "trainable"])
@pytest.mark.parametrize("off", [0, False, 0.0])
@pytest.mark.parametrize("template", [SMOLLM2, QWEN], ids=["smollm2", "qwen"])
def test_an_answer_of_weight_0_is_context(tmp_path, key, off, template):
    rows = read(tmp_path, {"messages": [WRONG[0], WRONG[1] | {key: off}, WRONG[2], WRONG[3] | {key: 1}]})
    assert learned(rows, template) == ["It is one.<|im_end|>\n"]


def test_weights_count_where_the_template_marks_answers(tmp_path):
    marked = SMOLLM2.replace("{{ m['content'] }}", "{% generation %}{{ m['content'] }}{% endgeneration %}")
    rows = read(tmp_path, {"messages": [WRONG[0], WRONG[1] | {"weight": 0}, *WRONG[2:]]})
    assert "No." not in learned(rows, marked)[0]
    assert "It is one." in learned(rows, marked)[0]


def test_turns_behind_the_last_learned_answer_are_not_read(tmp_path):
    rows = read(tmp_path, {"messages": [*WRONG[:3], WRONG[3] | {"weight": 0}]})
    assert rows.train[0].completion == "No."


@pytest.mark.parametrize(("messages", "what"), [
    ([ASKED, SAID | {"weight": 0.5}], "has the weight 0.5, which must be 0 or 1"),
    ([ASKED | {"train": True}, SAID], "has the train True, and only answers are learned"),
    ([ASKED, SAID | {"weight": 0}], "every answer has the weight 0"),
    ([ASKED, SAID | {"loss_mask": [0, 1]}], "has a loss_mask, and answers are learned as a whole"),
])  # fmt: skip
def test_weights_that_cannot_be_obeyed_are_refused(tmp_path, messages, what):
    with pytest.raises(DataError, match=what):
        read(tmp_path, {"messages": messages})


def test_a_rows_own_weight_is_refused_unless_it_is_1(tmp_path):
    row = {"prompt": "p", "completion": "c"}
    with pytest.raises(DataError, match=r"it has the weight 0.5, and every row counts once"):
        read(tmp_path, row | {"weight": 0.5})
    assert read(tmp_path, row | {"weight": 1}).unused == ("weight",)


@pytest.mark.parametrize("column", ["label", "kto_tag"])
@pytest.mark.parametrize("off", [False, "false"])
def test_answers_that_are_marked_as_bad_are_left_out_and_counted(tmp_path, column, off):
    good, bad = PLAIN | {column: True}, {"messages": [ASKED, SAID | {"content": "No."}], column: off}
    rows = read(tmp_path, [good, bad, bad])
    assert learned(rows) == ["Yes.<|im_end|>\n"]
    assert rows.notes[0].startswith(f"2 rows are left out: {column} is false")
    assert len(read(tmp_path, [good, bad], f"dataset.drop=[{column}]").train) == 2


def test_a_judgement_in_numbers_is_asked_for(tmp_path):
    with pytest.raises(DataError, match="'label' is 0: is it a judgement of the answer"):
        read(tmp_path, PLAIN | {"label": 0})


def test_only_bad_answers_are_said_so(tmp_path):
    with pytest.raises(DataError, match="all its 1 answers are bad ones, by label"):
        read(tmp_path, PLAIN | {"label": False})


CHOSEN = {
    "text": ({"prompt": "Spell it.", "chosen": "rhythm", "rejected": "rythm"}, "completion"),
    "a message": (
        {"conversations": [{"from": "human", "value": "Spell it."}], "chosen": {"from": "gpt", "value": "rhythm"},
         "rejected": {"from": "gpt", "value": "rythm"}}, "completion",
    ),
    "messages": (
        {"prompt": [{"role": "user", "content": "Spell it."}], "chosen": [{"role": "assistant", "content": "rhythm"}],
         "rejected": [{"role": "assistant", "content": "rythm"}]}, "completion",
    ),
    "whole conversations": (
        {"chosen": [{"role": "user", "content": "Spell it."}, {"role": "assistant", "content": "rhythm"}],
         "rejected": [{"role": "user", "content": "Spell it."}, {"role": "assistant", "content": "rythm"}]}, "messages",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("row", "field"), CHOSEN.values(), ids=CHOSEN)
def test_preference_data_is_named_with_the_override_that_trains_on_the_good_answers(tmp_path, row, field):
    with pytest.raises(DataError, match=r"preference data \(chosen, rejected\)") as error:
        read(tmp_path, row)
    override = f"dataset.columns.{field}=chosen"
    assert override in str(error.value)
    rows = read(tmp_path, row, override)
    assert learned(rows) == ["rhythm<|im_end|>\n"]
    assert (rows.train[0].prompt, rows.unused) == ("Spell it.", ("rejected",))


def test_conversational_prompts_and_completions_are_trls(tmp_path):
    """Earlier answers stand in the prompt and are not learned; TRL's own preparation is the reference."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from helpers import make_model

    row = {"prompt": WRONG[:3], "completion": WRONG[3:]}
    tokenizer = make_tokenizer()
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(str(tmp_path), max_length=512, report_to="none", bf16=False, use_cpu=True,
                       activation_checkpointing=False),
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )  # fmt: skip
    _, train, _ = encode_splits(read(tmp_path, row), tokenizer, 512)
    assert trainer.train_dataset["input_ids"] == list(train.input_ids)
    assert trainer.train_dataset["labels"] == list(train.labels)


@pytest.mark.parametrize("history", [
    [["Is tin a metal?", "Yes."]], json.dumps([["Is tin a metal?", "Yes."]]), [ASKED, SAID],
], ids=["pairs", "text", "messages"])  # fmt: skip
def test_history_is_earlier_turns(tmp_path, history):
    row = {"instruction": "And glass?", "input": "", "output": "No.", "system": "Be brief.", "history": history}
    rows = read(tmp_path, row)
    turns = [(one.role, one.content) for one in rows.train[0].messages]
    assert turns == [
        ("system", "Be brief."), ("user", "Is tin a metal?"), ("assistant", "Yes."), ("user", "And glass?"),
        ("assistant", "No."),
    ]  # fmt: skip
    assert learned(rows) == ["Yes.<|im_end|>\nNo.<|im_end|>\n"]
    assert rows.unused == ()


@pytest.mark.parametrize("history", ["It began in 1848.", [["only a question"]], [[1, 2]]])
def test_a_history_of_something_else_is_refused(tmp_path, history):
    with pytest.raises(DataError, match=r"turn 1 of 'history'"):
        read(tmp_path, {"prompt": "p", "completion": "c", "history": history})


def test_two_different_system_messages_are_refused(tmp_path):
    row = {"messages": [{"role": "system", "content": "Be brief."}, ASKED, SAID], "system": "Be long."}
    with pytest.raises(DataError, match="'system' and the first message are different system messages"):
        read(tmp_path, row)
    assert len(read(tmp_path, row | {"system": "Be brief."}).train[0].messages) == 3


def test_a_column_setting_that_the_format_does_not_read_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dataset.columns.text=note is not read"):
        read(tmp_path, {"prompt": "p", "completion": "c", "note": "n"},
             "dataset.columns={prompt: prompt, completion: completion, text: note}")  # fmt: skip


def test_a_column_to_drop_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"dataset.drop=imges: .* has no such column"):
        read(tmp_path, PLAIN, "dataset.drop=[imges]")


def test_messages_in_parquet_are_nested(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": str(n), "weight": 1}]}
            for n in range(3)]  # fmt: skip
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = load_rows(compose(["dataset=file", f"dataset.path={path}", f"dataset.eval_path={path}"]).dataset)
    assert [row.completion for row in found.train] == ["0", "1", "2"]


def test_a_split_by_one_group_says_why_no_eval_row_came_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{n}", "completion": "c", "book": "one"}) + "\n" for n in range(9)))
    with pytest.raises(DataError, match="comes out of rows that are all of the group 'one'") as error:
        load_rows(compose(["dataset=file", f"dataset.path={path}", "dataset.group=book"]).dataset)
    assert "share" not in error.value.remedy
