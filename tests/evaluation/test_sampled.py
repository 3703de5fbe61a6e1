"""Metrics while a run trains: on a fixed sample, without a trace in the adapter; the best step is kept."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.data.rows import some
from lorascope.errors import ConfigError
from lorascope.evaluation.sampled import EvalRules, SampledMetrics
from lorascope.records.identity import run_id
from lorascope.records.record import RunRecord
from lorascope.run import execute

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = [
    "model=hf", "model.name=tiny", "model.dtype=float32", "device=cpu", "dataset=home_intents",
    "dataset.metrics=[macro_f1,accuracy,exact_match]", "dataset.max_train_samples=48",
    "dataset.max_eval_samples=12", "train.batch_size=4", "train.learning_rate=1e-2", "logger=none",
    "evaluation.forgetting.texts=4", "evaluation.forgetting.tokens=8", "train.epochs=3", "train.save_minutes=null",
]  # fmt: skip
WATCHED = [
    "train.eval_steps=6", "train.eval_metrics=[macro_f1,exact_match,forgetting_kl,forgetting_loss]",
    "train.eval_samples=8", "train.eval_share=1",
]  # fmt: skip


def run(*words: str) -> tuple[RunRecord, Path]:
    config = compose(words)
    record = execute(config)
    assert record is not None
    return record, Path(config.runs_dir) / record.name


def history(folder: Path, key: str) -> dict[int, float]:
    rows = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return {row["step"]: row[key] for row in rows if key in row}


@pytest.fixture(scope="module")
def home(tiny, tmp_path_factory):
    """One run with metrics while it trained, and the same run without."""
    place = tmp_path_factory.mktemp("sampled")
    words = [*WORDS, f"model.path={tiny}"]
    return (
        run(*words, *WATCHED, "train.keep_best=macro_f1", f"runs_dir={place / 'watched'}"),
        run(*words, f"runs_dir={place / 'plain'}"),
    )


def test_metrics_while_training_leave_no_trace_in_the_adapter(home):
    (watched, one), (plain, other) = home
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert watched.metrics["train_loss"] == plain.metrics["train_loss"]
    assert watched.metrics["macro_f1"] == plain.metrics["macro_f1"]


def test_the_last_value_is_the_final_one_on_the_same_items(home):
    (record, folder), _ = home
    rows = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    final = [row for row in rows if (row["stage"], row["set"]) == ("adapter", "eval")]
    items = some(range(12), 8)
    gold, chosen = ([final[item][key] for item in items] for key in ("gold", "choice"))
    wanted = f1_score(gold, chosen, labels=sorted(set(gold)), average="macro", zero_division=0.0)
    last = record.timing["steps"]
    assert history(folder, "sample/macro_f1")[last] == pytest.approx(wanted)
    right = [final[item]["exact_match"] for item in items]
    assert history(folder, "sample/exact_match")[last] == pytest.approx(sum(right) / len(right))
    # four texts are all of them
    assert history(folder, "sample/forgetting_kl")[last] == pytest.approx(record.metrics["forgetting_kl"]["value"])
    assert history(folder, "sample/forgetting_loss")[last] == pytest.approx(record.metrics["forgetting_loss"]["value"])
    assert sorted(history(folder, "sample/macro_f1")) == [6, 12, 18, 24, 30, 36]


def test_keep_best_keeps_the_step_that_history_says_was_the_best(home):
    (record, folder), _ = home
    values = history(folder, "sample/macro_f1")
    best = max(values, key=lambda step: (values[step], -step))  # the first of equals
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"checkpoint-{best}"]
    assert record.metrics["best_macro_f1"]["step"] == best
    assert record.metrics["best_macro_f1"]["value"] == values[best]
    assert record.metrics["best_macro_f1"]["better"] == "higher"


RISING = ["train.learning_rate=0.3", "train.scheduler=constant", "train.epochs=6", "train.eval_steps=2"]


def expected_end(values: dict[int, float], patience: int) -> int:
    """The step at which so many values in a row have not gone below the lowest."""
    lowest, waited = float("inf"), 0
    for step, value in sorted(values.items()):
        lowest, waited = (value, 0) if value < lowest else (lowest, waited + 1)
        if waited == patience:
            return step
    raise AssertionError("it went on falling")


def test_a_training_ends_when_its_metric_no_longer_improves_and_resumes_to_the_same_end(tiny, tmp_path, monkeypatch):
    words = [*WORDS, f"model.path={tiny}", *RISING, "train.save_steps=2", "evaluation=none"]
    whole, _ = run(*words, f"runs_dir={tmp_path / 'whole'}")
    stop = "train.stop_early={metric: eval_loss, patience: 3}"
    record, folder = run(*words, stop, f"runs_dir={tmp_path / 'stopped'}")
    losses = {step: loss for step, loss in history(folder, "eval_loss").items() if 0 < step <= record.timing["steps"]}
    assert record.timing["steps"] == expected_end(losses, 3) < whole.timing["steps"]
    note = f"stopped at step {record.timing['steps']} of {whole.timing['steps']}"
    assert any(note in one for one in record.notes)

    from lorascope.training.sft_trainer import RunTrainer

    real, seen = RunTrainer.evaluate, []

    def cut(self, *args, **options):
        seen.append(self.state.global_step)
        if len(seen) == len(losses) - 1:
            raise RuntimeError("cut")
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "evaluate", cut)
        with pytest.raises(RuntimeError, match="cut"):
            run(*words, stop, f"runs_dir={tmp_path / 'cut'}")
    again, other = run(*words, stop, f"runs_dir={tmp_path / 'cut'}")
    assert again.sessions[-1]["from_step"] > 0
    assert again.timing["steps"] == record.timing["steps"]
    first, second = (load_file(one / "adapter" / "adapter_model.safetensors") for one in (folder, other))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_metric_of_the_sample_ends_a_training_too(tiny, tmp_path):
    words = [*WORDS, f"model.path={tiny}", "train.eval_steps=2", "train.eval_samples=4", "train.eval_share=1e-9"]
    stop = "train.stop_early={metric: exact_match, patience: 2}"  # which a tiny model never reaches
    record, folder = run(*words, stop, f"runs_dir={tmp_path}")
    values = history(folder, "sample/exact_match")
    assert list(values.values()) == [0.0, 0.0, 0.0]  # none was left out, whatever it cost
    assert record.timing["steps"] == 6
    assert not any("left out" in note for note in record.notes)


def test_metrics_that_decide_nothing_are_left_out_beyond_their_share(tiny, tmp_path):
    words = [*WORDS, f"model.path={tiny}", *WATCHED[:-1], "train.eval_share=1e-6"]
    record, folder = run(*words, f"runs_dir={tmp_path}")
    assert list(history(folder, "sample/macro_f1")) == [6]  # the first tells what they cost
    assert len(history(folder, "eval_loss")) == 8  # before, six times, after
    assert any("left out 5 times" in note for note in record.notes)


def named(*words: str) -> str:
    return run_id(resolve(compose(["device=cpu", *words])))


def test_a_run_is_called_by_what_decides_its_result():
    watched = ["train.eval_steps=6", "train.eval_metrics=[macro_f1]", "train.eval_samples=8", "train.eval_share=0.5"]
    assert named("train.eval_steps=6") == named(*watched) == named(*watched, "train.keep_best=macro_f1")
    stop = "train.stop_early={metric: macro_f1, patience: 2}"
    assert named("train.eval_steps=6") != named(*watched, stop)
    assert named(*watched, stop) != named(*watched, stop, "train.eval_samples=9")
    assert named(*watched, stop) == named("train.eval_steps=6", "train.eval_samples=8", stop)


def test_runs_with_another_rule_have_another_fingerprint(tiny, tmp_path):
    words = [*WORDS, f"model.path={tiny}", "train.eval_steps=6", "evaluation=none", f"runs_dir={tmp_path}"]
    plain, _ = run(*words)
    ruled, _ = run(*words, "train.stop_early={metric: eval_loss, patience: 9}")
    assert ruled.fingerprint["stop_early"] == "eval_loss, patience 9"
    assert "stop_early" not in plain.fingerprint
    assert plain.fingerprint["hash"] != ruled.fingerprint["hash"]


def test_a_metric_that_these_data_cannot_have_is_refused(tiny, tmp_path):
    words = [*WORDS, f"model.path={tiny}", "train.eval_steps=6", f"runs_dir={tmp_path}", "target.init=pissa"]
    with pytest.raises(ConfigError, match="init=pissa or trained biases have changed the base"):
        run(*words, "train.eval_metrics=[forgetting_kl]")


@pytest.mark.parametrize(("values", "better", "patience", "end"), [
    ([1, 2, 3, 4], "higher", 2, None),
    ([4, 3, 2, 1], "higher", 2, 2),
    ([4, 3, 2, 1], "lower", 2, None),
    ([1, 1, 1, 1], "lower", 3, 3),  # the same is no better
    ([1, 2, 0, 2, 3], "lower", 2, 4),
    ([1, float("nan"), float("nan")], "lower", 2, 2),
    ([float("nan"), 3, 2, 4], "lower", 2, None),
])  # fmt: skip
def test_patience_counts_evaluations_without_a_better_value(values, better, patience, end):
    rules = EvalRules(stop="m", patience=patience, better={"m": better})
    ends = []
    for place, value in enumerate(values):
        rules.see({"sample/m": float(value)}, place)
        ends += [place] if rules.stops else []
        state = json.loads(json.dumps(rules.state()))
        rules = EvalRules(stop="m", patience=patience, better={"m": better})
        rules.restore(state)
    assert (ends or [None])[0] == end


def test_a_checkpoint_of_an_earlier_version_is_read():
    rules = EvalRules(keep="eval_loss")
    rules.restore({"best": {"eval_loss": 1.0, "step": 3}})
    assert not rules.see({"eval_loss": 1.5}, 4)
    assert rules.see({"eval_loss": 0.5}, 5)
    assert rules.best == {"eval_loss": 0.5, "step": 5}
    assert SampledMetrics.__doc__
