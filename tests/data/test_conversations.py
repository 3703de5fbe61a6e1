"""What of a conversation is learned: each answer and its end, with and without generation marks in the template."""

import pytest

from helpers import CHAT_TEMPLATE, MARKED, make_model, make_tokenizer
from lorascope.data.rows import Message, Row
from lorascope.data.tokenization import IGNORED, encode
from lorascope.errors import DataError

# as Qwen3's does: what was thought before the last turn is dropped
FORGETFUL = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('!')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TALK = Row(
    messages=(
        Message("system", "Be brief."), Message("user", "One?"), Message("assistant", "hm! First."),
        Message("user", "Two?"), Message("assistant", "Second."),
    ),
    every_answer=True,
)  # fmt: skip


def learned(row, tokenizer, **options) -> str:
    data = encode([row], tokenizer, 512, "train", **options)
    return tokenizer.decode([token for token in data.labels[0] if token != IGNORED])


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, None], ids=["plain", "marked", "none"])
def test_each_answer_and_its_end_is_learned(template):
    assert learned(TALK, make_tokenizer(template)) == "hm! First.<|end|>Second.<|end|>"


def test_a_template_that_rewrites_earlier_answers_leaves_the_last_to_be_learned():
    tokenizer = make_tokenizer(FORGETFUL)
    assert learned(TALK, tokenizer) == "Second.<|end|>"
    assert encode([TALK], tokenizer, 512, "train").last_answer_only == 1


def test_a_plain_text_is_learned_whole():
    assert learned(Row(text="Once upon a time"), make_tokenizer(None)) == "Once upon a time<|end|>"


def test_a_template_that_refuses_a_row_is_told_with_its_place():
    refusing = "{{ raise_exception('roles must alternate') }}"
    row = Row(messages=TALK.messages, place="my.jsonl, line 3")
    with pytest.raises(DataError, match=r"my.jsonl, line 3: the chat template refuses this row: roles must alternate"):
        encode([row], make_tokenizer(refusing), 512, "train")


def test_marked_answers_are_those_that_trl_learns(tmp_path):
    """TRL's own preparation of the same conversation with assistant_only_loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = make_tokenizer(MARKED)
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(
            str(tmp_path), max_length=512, report_to="none", bf16=False, use_cpu=True, activation_checkpointing=False,
            assistant_only_loss=True,
        ),
        train_dataset=Dataset.from_list([{"messages": [message._asdict() for message in TALK.messages]}]),
        processing_class=tokenizer,
    )  # fmt: skip
    ours = encode([TALK], tokenizer, 512, "train")
    assert trainer.train_dataset["input_ids"] == list(ours.input_ids)
    assert trainer.train_dataset["labels"] == list(ours.labels)


def test_a_text_is_what_trl_learns_of_it(tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = make_tokenizer(None)
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(
            str(tmp_path), max_length=512, report_to="none", bf16=False, use_cpu=True, activation_checkpointing=False
        ),
        train_dataset=Dataset.from_list([{"text": "Once upon a time"}]),
        processing_class=tokenizer,
    )
    ours = encode([Row(text="Once upon a time")], tokenizer, 512, "train")
    assert trainer.train_dataset["labels"] == list(ours.labels)
