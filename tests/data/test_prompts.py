"""Batches of prompts: rows from all over the data, padded on the right, each batch a sample of all."""

import pytest
import torch

from lorascope.data.prompts import prompt_batches
from lorascope.data.tokenization import IGNORED, TokenizedSplit


def encoded(rows=50):
    """Row n holds the token n, and is as long as n says; its first token has no label."""
    ids = tuple([row] * (2 + row % 7) for row in range(rows))
    return TokenizedSplit(ids, tuple([IGNORED, *one[1:]] for one in ids), "hash")


def test_rows_come_from_all_over_the_data_and_every_batch_is_a_sample_of_them():
    batches = prompt_batches(encoded(), 10, 99, "cpu", batch_tokens=40)
    assert [batch["input_ids"][:, 0].tolist() for batch in batches] == [[0, 10, 20, 30, 40], [5, 15, 25, 35, 45]]


@pytest.mark.parametrize("count", [50, 1000])
def test_fewer_rows_than_asked_for_are_all_taken_once(count):
    batches = prompt_batches(encoded(), count, 99, "cpu")
    assert sorted(int(row[0]) for batch in batches for row in batch["input_ids"]) == list(range(50))


@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_what_is_not_padding_is_the_rows(batch_tokens):
    data = encoded()
    batches = prompt_batches(data, 20, 99, "cpu", batch_tokens=batch_tokens)
    for batch in batches:
        ids, mask, labels = batch["input_ids"], batch["attention_mask"].bool(), batch["labels"]
        assert ids.numel() <= batch_tokens or len(ids) == 1
        for row, kept, label in zip(ids, mask, labels, strict=True):
            number = int(row[0])
            assert row[kept].tolist() == data.input_ids[number]
            assert label[kept].tolist() == data.labels[number]
            assert torch.equal(kept, kept.sort(descending=True)[0])
            assert set(row[~kept].tolist()) <= {99}
            assert set(label[~kept].tolist()) <= {IGNORED}
