import pytest

from helpers import make_model, make_tokenizer
from lorascope.data.rows import exchange
from lorascope.data.tokenization import IGNORED, encode
from lorascope.errors import DataError

ROWS = [
    exchange("Which code has Oslo?", "OSL", "Answer with the airport code."),
    exchange("Turn on the lamp", "TurnOn"),
    exchange("Straße und Æther?", "ja, gewiss"),
]


def test_only_the_completion_and_its_end_are_supervised():
    tokenizer = make_tokenizer()
    data = encode(ROWS, tokenizer, 512, "train")
    for row, ids, labels in zip(ROWS, data.input_ids, data.labels, strict=True):
        supervised = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
        assert tokenizer.decode(supervised) == row.completion + "<|end|>"
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))


def test_a_base_model_without_a_template_ends_the_text_itself():
    tokenizer = make_tokenizer(chat_template=None)
    data = encode(ROWS, tokenizer, 512, "train")
    assert tokenizer.decode(data.input_ids[0]) == "Answer with the airport code.\nWhich code has Oslo?\nOSL<|end|>"
    supervised = [token for token, label in zip(data.input_ids[0], data.labels[0], strict=True) if label != IGNORED]
    assert tokenizer.decode(supervised) == "OSL<|end|>"


def test_labels_are_those_that_trl_makes_of_the_same_rows(tmp_path):
    """TRL's own preparation of conversational prompt-completion rows, as an independent reading."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = make_tokenizer()
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(
            str(tmp_path), max_length=512, report_to="none", bf16=False, use_cpu=True, activation_checkpointing=False
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [message._asdict() for message in row.messages[:-1]],
                    "completion": [row.messages[-1]._asdict()],
                }
                for row in ROWS
            ]
        ),
        processing_class=tokenizer,
    )
    ours = encode(ROWS, tokenizer, 512, "train")
    assert trainer.train_dataset["input_ids"] == list(ours.input_ids)
    assert trainer.train_dataset["labels"] == list(ours.labels)


def test_long_rows_are_cut_and_a_row_cut_before_its_completion_is_named():
    tokenizer = make_tokenizer()
    whole = encode(ROWS, tokenizer, 512, "train")
    longest = max(map(len, whole.input_ids))
    assert max(map(len, encode(ROWS, tokenizer, longest - 1, "train").input_ids)) == longest - 1
    with pytest.raises(DataError, match=r"train row 1: its completion begins after \d+ tokens, and .*max_length is 20"):
        encode(ROWS, tokenizer, 20, "train")


def test_the_hash_follows_the_rows():
    tokenizer = make_tokenizer()
    assert encode(ROWS, tokenizer, 512, "train").hash == encode(list(ROWS), tokenizer, 100, "eval").hash
    assert encode(ROWS, tokenizer, 512, "train").hash != encode(ROWS[:2], tokenizer, 512, "train").hash
