"""The data card: figures that can be counted by hand, and with numpy."""

import json

import numpy
import pytest

from helpers import make_tokenizer
from lorascope.compose import compose
from lorascope.data.rows import Message, Row, Rows, exchange
from lorascope.data.sources import load_rows
from lorascope.data.statistics import QUANTILES, data_card, quantiles, task_of
from lorascope.data.tokenization import encode


def card_of(rows: Rows):
    tokenizer = make_tokenizer()
    train, evaluation = encode(rows.train, tokenizer, 512, "train"), encode(rows.eval, tokenizer, 512, "eval")
    return data_card(rows, train, evaluation), train


def test_a_card_counts_rows_tokens_classes_and_doubled_prompts():
    train = [exchange("Good?", "yes"), exchange("  good? ", "no"), exchange("Bad?", "no"), exchange("So?", "no")]
    rows = Rows(
        tuple(train), (exchange("New?", "yes"),), "by hand", labels=("no", "yes", "maybe"), license="MIT",
        split="by hand", probes={"again": (exchange("Good?", "yes"),) * 2},
    )  # fmt: skip
    card, encoded = card_of(rows)
    assert card["train"]["labels"] == {"no": 3, "yes": 1, "maybe": 0}
    assert card["train"]["duplicated_prompts"] == 0.25
    assert (card["train"]["rows"], card["train"]["tokens"]) == (4, sum(map(len, encoded.input_ids)))
    assert card["train"]["supervised_tokens"] == sum(
        len(row.completion) + 1 for row in train
    )  # a byte each, and the end
    assert card["sets"] == {"again": {"rows": 2, "duplicated_prompts": 0.5, "labels": {"no": 0, "yes": 2, "maybe": 0}}}
    assert (card["task"], card["license"], card["split"]) == ("classification", "MIT", "by hand")
    assert json.loads(json.dumps(card)) == card


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_quantiles_are_numpys_nearest_ranks(count):
    lengths = numpy.random.default_rng(0).integers(1, 500, count).tolist()
    expected = numpy.quantile(lengths, list(QUANTILES.values()), method="inverted_cdf")
    assert list(quantiles(lengths).values()) == expected.tolist()


def test_the_task_is_told_by_what_the_rows_are():
    talk = Row(messages=tuple(Message(role, "x") for role in ("user", "assistant") * 2), every_answer=True)
    one = (exchange("p", "c"),)
    assert task_of(Rows((talk,), one, "")) == "conversations"
    assert task_of(Rows((Row(text="x"),), one, "")) == "texts"
    assert task_of(Rows(one, one, "")) == "answers"
    assert task_of(Rows(one, one, "", labels_of={"part": ("c",)})) == "answers and classification"


def test_a_mixture_tells_each_parts_set():
    rows = load_rows(compose(["dataset=mixture", "dataset.parts={airports: {options: {facts: 9}}}"]).dataset)
    card, _ = card_of(rows)
    assert card["sets"]["airports"]["rows"] == 9
    assert card["origin"].startswith("airports: airportsdata")
