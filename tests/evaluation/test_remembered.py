import dataclasses
from pathlib import Path

import pytest

from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.data.rows import Rows, exchange
from lorascope.data.tokenization import encode
from lorascope.evaluation.forgetting import texts_of
from lorascope.evaluation.measure import Measure
from lorascope.evaluation.metrics import TASK_METRICS
from lorascope.evaluation.predictions import keep, place
from lorascope.evaluation.tasks import Suite

WORDS = ["model=hf", "model.path=a/b", "model.dtype=float32", "device=cpu", "evaluation.forgetting.texts=3",
         "evaluation.forgetting.tokens=5", "dataset.metrics=[exact_match]"]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LORASCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(*more: str):
    return resolve(compose([*WORDS, *more]))


def measure(asked: str = "a", **settings) -> Measure:
    rows = Rows((exchange("t", "u"),), (exchange(asked, "b"), exchange("c", "d")), "here")
    tokenizer, chosen = make_tokenizer(), dataclasses.replace(config().evaluation, **settings)
    suite = Suite(rows, [TASK_METRICS["exact_match"]], tokenizer, chosen)
    return Measure(chosen, tokenizer, encode(rows.eval, tokenizer, 64, "eval"), suite, None, True)


def test_a_base_is_asked_once(monkeypatch):
    one = measure()
    file = one.remembered_at(config(), "abc")
    first = one.base(make_model(), lambda items: None, file)
    assert file.is_file()
    monkeypatch.setattr(Measure, "_measured", None)
    assert measure().base(None, lambda items: None, file) == first


def test_texts_are_drawn_once(monkeypatch):
    first = texts_of(config(), make_model(), make_tokenizer(), "abc")
    monkeypatch.setattr("lorascope.evaluation.forgetting.own_texts", None)
    assert texts_of(config(), None, make_tokenizer(), "abc") == first


def test_another_base_question_metric_or_setting_is_another_place():
    known = measure().remembered_at(config(), "abc")
    others = [
        measure().remembered_at(config(), "abd"),
        measure().remembered_at(config("model.path=a/c"), "abc"),
        measure().remembered_at(config("quantization=nf4"), "abc"),
        measure().remembered_at(config("model.dtype=bfloat16"), "abc"),
        measure().remembered_at(config("dataset.metrics=[chrf]"), "abc"),
        measure().remembered_at(config("train.max_length=9"), "abc"),
        measure("other").remembered_at(config(), "abc"),
        measure(max_samples=1).remembered_at(config(), "abc"),
        measure(max_new_tokens=3).remembered_at(config(), "abc"),
    ]
    assert len({known, *others}) == 1 + len(others)
    # what the base does not see
    assert measure().remembered_at(config("target=qkvo", "seed=3", "train.learning_rate=1"), "abc") == known


@pytest.mark.parametrize("damage", [b"", b"[[1, 2]]", b"{}"])
def test_what_is_damaged_is_made_anew(damage, cache):
    first = texts_of(config(), make_model(), make_tokenizer(), "abc")
    (file,) = (cache / "texts").iterdir()
    file.write_bytes(damage)
    assert texts_of(config(), make_model(), make_tokenizer(), "abc") == first
    one = measure()
    place_of = one.remembered_at(config(), "abc")
    found = one.base(make_model(), lambda items: None, place_of)
    place_of.write_bytes(damage)
    assert one.base(make_model(), lambda items: None, place_of) == found


def test_of_weights_and_code_that_may_change_nothing_is_kept(tmp_path, cache):
    assert place("texts", config(), "local") is None
    one = measure()
    assert one.remembered_at(config("dataset.metrics=[os:getcwd]"), "abc") is None
    (tmp_path / "mine.py").write_text("def f(gold): return 0")
    pinned = dataclasses.replace(config().dataset, metrics=[f"{tmp_path / 'mine.py'}:f@12345678"])
    assert one.remembered_at(dataclasses.replace(config(), dataset=pinned), "abc") is not None
    assert measure(forgetting=dataclasses.replace(config().evaluation.forgetting, path="x")).remembered_at(
        config(), "abc"
    ) is None  # fmt: skip
    texts_of(config(), make_model(), make_tokenizer(), "local")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORASCOPE_CACHE", str(tmp_path / "file"))
    assert texts_of(config(), make_model(), make_tokenizer(), "abc") is not None

    def full(aside):
        aside.write_text("half")
        raise OSError(28, "No space left on device")

    keep(tmp_path / "kept", full)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
