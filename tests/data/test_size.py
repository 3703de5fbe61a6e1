"""How large rows are, from few of them: against all of them tokenized."""

import json
import random
import shutil

import pytest

from lorascope.base.loading import load_tokenizer, tokenizer_at_hand
from lorascope.compose import compose
from lorascope.data import statistics
from lorascope.data.tokenization import IGNORED
from lorascope.session import load_data

WORDS = ("to", "go", "up", "the", "long", "way", "home", "and", "see", "by", "day", "or", "at", "night")


@pytest.fixture
def measured(tiny_words):
    """A data set as measured, and as a run finds it: rows, tokens, tokens of the longest row, most with a loss."""

    def both(*words):
        config = compose([*tiny_words, "dataset.max_train_samples=null", "dataset.max_eval_samples=null", *words])
        data = load_data(config, load_tokenizer(config.model))
        halves = (data.train, data.evaluation)
        exact = (
            len(data.train),
            data.train.tokens,
            max(len(ids) for half in halves for ids in half.input_ids),
            max(sum(label != IGNORED for label in labels[1:]) for half in halves for labels in half.labels),
        )
        return statistics.size_of(config.dataset, tokenizer_at_hand(config.model)), exact

    return both


@pytest.mark.parametrize("dataset", ["airports", "arithmetic", "fictional_world"])
def test_a_few_rows_tell_how_large_all_are(measured, dataset):
    found, (rows, tokens, longest, supervised) = measured(f"dataset={dataset}")
    assert found.rows == rows
    assert found.tokens == pytest.approx(tokens, rel=0.05)
    assert found.longest == pytest.approx(longest, rel=0.08)
    assert found.supervised == pytest.approx(supervised, rel=0.15)


def test_the_longest_row_of_a_users_file_is_found_wherever_it_stands(measured, tmp_path):
    chance = random.Random(3)
    rows = [
        {"prompt": " ".join(chance.choices(WORDS, k=6)) + f" {number}", "completion": "yes"} for number in range(300)
    ]
    rows[211]["completion"] = "as it was said " * 20
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found, (_, _, longest, supervised) = measured("dataset=file", f"dataset.path={path}")
    assert (found.longest, found.supervised) == (longest, supervised)


def test_a_large_file_is_not_read_twice_and_what_is_elsewhere_not_at_all(tiny_words, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"word {number}"}) for number in range(40)))
    words = [*tiny_words, "dataset=file"]
    config = compose([*words, f"dataset.path={path}"])
    tokenizer = load_tokenizer(config.model)
    assert statistics.size_of(config.dataset, tokenizer).rows == 24
    monkeypatch.setattr(statistics, "LARGEST", 100)
    assert statistics.size_of(config.dataset, tokenizer) is None
    assert statistics.size_of(compose([*words, "dataset.path=gone.jsonl"]).dataset, tokenizer) is None
    assert statistics.size_of(compose([*tiny_words, "dataset=hub", "dataset.path=org/name"]).dataset, tokenizer) is None


def test_without_a_tokenizer_rows_are_counted_and_their_length_is_not_guessed(tiny_words):
    config = compose([*tiny_words, "model=mistral7b", "model.path=mistralai/Mistral-7B-v0.3"])
    assert tokenizer_at_hand(config.model) is None
    found = statistics.size_of(config.dataset, None)
    assert (found.rows, found.longest, found.supervised) == (24, None, None)


def test_a_tokenizer_in_the_hubs_cache_is_read_without_asking_the_network(tiny, tmp_path, monkeypatch):
    import huggingface_hub.constants

    snapshot = tmp_path / "models--org--small" / "snapshots" / "abc"
    shutil.copytree(tiny, snapshot)
    (tmp_path / "models--org--small" / "refs").mkdir()
    (tmp_path / "models--org--small" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def asked(*arguments, **named):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", asked)
    model = compose(["model=hf", "model.path=org/small"]).model
    assert len(tokenizer_at_hand(model)) == len(load_tokenizer(compose(["model=hf", f"model.path={tiny}"]).model))
    assert tokenizer_at_hand(compose(["model=hf", "model.path=org/other"]).model) is None
