import math
from collections import Counter

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope.config.schema import EvaluationConfig
from lorascope.data.rows import Row, Rows, exchange
from lorascope.data.tokenization import encode
from lorascope.evaluation import predictions
from lorascope.evaluation.loss import eval_loss, item_losses
from lorascope.evaluation.metrics import TASK_METRICS
from lorascope.evaluation.tasks import Suite


def rows(labels=("red", "blue", "green")) -> Rows:
    train = tuple(exchange(f"thing {n}", labels[n % 5 % 3], "Colour?") for n in range(20))
    evaluation = tuple(exchange(f"object {n}", labels[n % 3], "Colour?") for n in range(9))
    odd = tuple(exchange(f"odd {n}", "blue", "Colour?") for n in range(4))
    return Rows(train, evaluation, "here", probes={"odd": odd}, labels=labels)


def suite(names, data=None, **settings) -> Suite:
    metrics = [TASK_METRICS[name] for name in names]
    return Suite(data or rows(), metrics, make_tokenizer(), EvaluationConfig(**settings))


def test_every_set_is_measured_apart_and_named():
    found = suite(["macro_f1", "exact_match", "gold_logprob"]).evaluate(make_model())
    assert set(found.scores) == {
        "macro_f1", "exact_match", "gold_logprob", "macro_f1/odd", "exact_match/odd", "gold_logprob/odd",
    }  # fmt: skip
    assert {name: score.items for name, score in found.scores.items() if "macro" in name} == {
        "macro_f1": 9, "macro_f1/odd": 4,
    }  # fmt: skip


def test_the_choice_is_the_label_whose_row_has_the_lowest_loss():
    model, data, tokenizer = make_model(), rows(), make_tokenizer()
    answers = suite(["accuracy"]).evaluate(model).answers["eval"]
    for answer, row in zip(answers, data.eval, strict=True):
        losses = []
        for label in data.labels:
            asked = exchange(row.question, label, "Colour?")
            losses.append(eval_loss(model, encode([asked], tokenizer, 512, "eval"), pad_id=0).nats)
        assert [-score for score in answer.scores] == pytest.approx(losses, abs=1e-4)
        assert answer.choice == data.labels[losses.index(min(losses))]


def test_losses_that_were_measured_before_are_not_measured_again(monkeypatch):
    model, data, tokenizer = make_model(), rows(), make_tokenizer()
    encoded = encode(data.eval, tokenizer, 512, "eval")
    losses = item_losses(model, encoded, pad_id=0)
    made = suite(["gold_logprob"], Rows(data.train, data.eval, ""))
    fresh = made.evaluate(model)
    monkeypatch.setattr("lorascope.evaluation.tasks.item_losses", None)
    assert made.evaluate(model, (encoded, losses)) == fresh


def test_losses_of_other_rows_are_not_taken_for_these():
    model, data, tokenizer = make_model(), rows(), make_tokenizer()
    other = encode(data.train[:9], tokenizer, 512, "eval")
    made = suite(["gold_logprob"])
    assert made.evaluate(model, (other, item_losses(model, other, pad_id=0))) == made.evaluate(model)


def test_what_needs_no_model_is_computed_without_one():
    data = rows()
    usual = Counter(row.completion for row in data.train).most_common(1)[0][0]
    found = suite(["accuracy", "exact_match", "gold_logprob"]).baselines()
    share = sum(row.completion == usual for row in data.eval) / len(data.eval)
    assert found["accuracy"] == found["exact_match"] == {"majority class": pytest.approx(share)}
    assert found["accuracy/odd"] == {"majority class": float(usual == "blue")}
    assert "gold_logprob" not in found
    copied = suite(["chrf_gain", "exact_match"], Rows(data.train, (exchange("x", "x"), exchange("y", "z")), ""))
    assert copied.baselines() == {"chrf_gain": {"copy": 0.0}, "exact_match": {"copy": 0.5}}


def test_without_labels_a_metric_of_choices_does_not_apply():
    data = rows()
    made = suite(["accuracy", "exact_match"], Rows(data.train, data.eval, ""))
    assert set(made.evaluate(make_model()).scores) == {"exact_match"}


def test_a_plain_text_asks_nothing():
    made = suite(["exact_match"], Rows((), (Row(text="once"), exchange("a", "b")), ""))
    assert made.evaluate(make_model()).scores["exact_match"].items == 1


def test_at_most_so_many_items_the_same_ones_every_time():
    names = [question.row.question for question in suite(["exact_match"], max_samples=5).sets["eval"]]
    assert len(names) == 5
    assert names == [question.row.question for question in suite(["exact_match"], max_samples=5).sets["eval"]]


def test_progress_comes_to_the_steps_and_the_model_stays_as_it_was():
    made, model, seen = suite(["macro_f1", "exact_match", "gold_logprob"]), make_model().train(), []
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    made.evaluate(model, progress=seen.append)
    assert sum(seen) == made.steps == 3 * (9 + 4)
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_the_same_model_gives_the_same_numbers():
    made = suite(["macro_f1", "exact_match", "chrf", "gold_logprob"])
    assert made.evaluate(make_model()) == made.evaluate(make_model())


def test_every_items_answer_is_kept_with_its_scores_and_read_back(tmp_path):
    import pyarrow.parquet

    made = suite(["macro_f1", "exact_match", "gold_logprob"])
    before, after = made.evaluate(make_model()), made.evaluate(make_model(rope_theta=5.0))
    file = tmp_path / predictions.FILE
    predictions.write(file, {predictions.BASE: before, predictions.ADAPTED: after}, made)
    assert predictions.read(file) == {predictions.BASE: before, predictions.ADAPTED: after}
    table = pyarrow.parquet.read_table(file).to_pylist()
    assert len(table) == 2 * (9 + 4)
    mine = [row for row in table if row["stage"] == "adapter" and row["set"] == "eval"]
    assert math.fsum(row["gold_logprob"] for row in mine) / 9 == pytest.approx(after.scores["gold_logprob"].value)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_answers_that_cannot_be_read_are_as_if_not_there(tmp_path, damage):
    import pyarrow
    import pyarrow.parquet

    made, file = suite(["exact_match"]), tmp_path / predictions.FILE
    predictions.write(file, {predictions.BASE: made.evaluate(make_model())}, made)
    if damage == "missing":
        file.unlink()
    elif damage == "other":
        pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), file)
    else:
        file.write_bytes(b"" if damage == "empty" else file.read_bytes()[:200])
    assert predictions.read(file) is None
