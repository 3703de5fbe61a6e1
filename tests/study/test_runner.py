"""A study from its command to its file: what is run, what is not run again, what is refused."""

import math

import pytest

from helpers import run_train
from lorascope.records.record import read_record
from lorascope.records.store import load_runs
from lorascope.records.study_record import read_study, records_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
PILOT = ["study.pilot.points=2", "study.pilot.shares=[0.5,1]", "study.pilot.extend=1", "train.learning_rate=1e-3"]


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that were trained."""
    import lorascope.run as story

    train, names = story.train_adapter, []

    def counting(*arguments, **named):
        names.append(arguments[5].folder.parent.name)
        return train(*arguments, **named)

    monkeypatch.setattr(story, "train_adapter", counting)
    return names


def test_a_study_runs_every_arm_on_every_seed(study_words, runs, monkeypatch):
    assert run_train(monkeypatch, *study_words) == 0
    study = read_study(runs)
    assert [(run.arm, run.seed) for run in study.runs] == [("q_v", 1), ("qv_ffn", 1), ("q_v", 2), ("qv_ffn", 2)]
    for name, record in records_of(study, runs).items():
        run = next(run for run in study.runs if run.name == name)
        assert (record.config["target"]["name"], record.config["seed"]) == (run.arm, run.seed)
        assert record.config["train"]["learning_rate"] == run.rate
    assert study.reference == "q_v"
    assert study.finished
    # figures of README's table, by r x (d_in + d_out) on the tiny model
    assert [(arm.ranks, arm.parameters) for arm in study.arms] == [("8", 1792), ("8/4", 4096)]


def test_each_arm_runs_at_the_rate_with_its_lowest_validation_loss(study_words, runs, monkeypatch):
    assert run_train(monkeypatch, *study_words, *PILOT) == 0
    study = read_study(runs)
    for arm in ("q_v", "qv_ffn"):
        whole = [run for run in study.runs if run.arm == arm and run.stage == "pilot" and run.steps == 1]
        losses = {run.rate: read_record(runs / run.name).metric("eval_loss") for run in whole}
        best = min(losses, key=losses.get)
        assert {run.rate for run in study.runs if run.arm == arm and run.stage == "final"} == {best}
        assert study.rates["airports"][arm] == best
        edge = best in (min(losses), max(losses))
        assert edge == any(arm in note for note in study.notes)


def test_a_pilot_is_judged_on_train_rows_that_it_does_not_learn_and_never_on_the_eval_half(
    study_words, runs, monkeypatch
):
    assert run_train(monkeypatch, *study_words, *PILOT) == 0
    study = read_study(runs)
    halves = {"pilot": set(), "final": set()}
    sizes = {"pilot": set(), "final": set()}
    for run in study.runs:
        data = read_record(runs / run.name).data
        halves[run.stage].add(data["eval"]["hash"])
        sizes[run.stage].add((data["train"]["rows"], data["eval"]["rows"]))
    assert len(halves["pilot"]) == len(halves["final"]) == 1
    assert halves["pilot"] != halves["final"]
    (train, held), (whole, _) = *sizes["pilot"], *sizes["final"]
    assert train + held == whole
    assert {run.seed for run in study.runs if run.stage == "pilot"} == {1000}


def test_the_same_command_again_trains_nothing_and_a_further_seed_trains_only_its_runs(
    study_words, runs, monkeypatch, trained
):
    assert run_train(monkeypatch, *study_words, *PILOT) == 0
    first = read_study(runs)
    trained.clear()
    assert run_train(monkeypatch, *study_words, *PILOT) == 0
    assert trained == []
    assert read_study(runs).runs == first.runs
    assert run_train(monkeypatch, *study_words, *PILOT, "study.seeds=[1,2,3]") == 0
    assert sorted(trained) == sorted(run.name for run in read_study(runs).runs if run.seed == 3)
    assert len(trained) == 2


def test_an_arm_that_fails_stops_no_other_and_is_tried_again_on_request(
    study_words, runs, monkeypatch, trained, capsys
):
    words = [*study_words, "study.arms={q_v: 'target=q_v', wild: 'target=qkvo target.alpha=1e12'}"]
    words.remove("study.arms={q_v: 'target=q_v', qv_ffn: 'target=qv_ffn'}")
    assert run_train(monkeypatch, *words) != 0
    told = capsys.readouterr()
    assert "2 of its runs failed" in told.err
    assert told.err.count("final  airports  wild") == 2
    states = {record.config["target"]["name"]: str(record.status) for record in load_runs(runs)[0]}
    assert states == {"q_v": "done", "qkvo": "failed"}
    trained.clear()
    assert run_train(monkeypatch, *words) != 0
    assert trained == []
    assert "2 of its runs failed" in capsys.readouterr().err
    assert run_train(monkeypatch, *words, "study.retry=true") != 0
    assert len(trained) == 2


def test_a_dry_run_shows_every_run_and_writes_nothing(study_words, runs, monkeypatch, capsys):
    assert run_train(monkeypatch, *study_words, *PILOT, "dry_run=true") == 0
    out = capsys.readouterr().out
    assert not runs.exists()
    lines = [line for line in out.splitlines() if line.startswith(("pilot", "final"))]
    assert len(lines) == 2 * (2 + 2)
    assert all("1,792" in line or "4,096" in line for line in lines)
    assert "Nothing was run" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["study.arms={a: 'target=q_v', b: 'target=q_v train.batch_size=2'}"], "batch_size is 2 there and 4 for a"),
        (["study.arms={a: 'target=q_v', b: 'target=q_v'}"], "is the same strategy as a"),
        (["target=qkvo"], "is set by the study"),
        (["train.epochs=1,2"], "is swept"),
        (["study.reference=nobody"], "is none of the arms"),
        (["study.seeds=[1,1]"], "are not seeds, each once"),
        (["study.pilot.points=2", "study.pilot.seed=1"], "which must be fresh"),
        (["study.pilot.shares=[0.5]"], "are not shares"),
        (["study.tasks={airports: {metric: exact_match}}"], "is not judged by it"),
        (["study.tasks={airports: {words: 'nonsense=1'}}"], "nonsense"),
        (["study.level=2"], "is no share of false verdicts"),
        (["study.same_rank=true"], "without a budget"),
        (["study.budget=qv_ffn", "study.same_rank=true"], "does not stand in the comparison"),
    ],
)
def test_what_makes_no_study_is_refused_before_anything_is_run(words, told, study_words, runs, monkeypatch, capsys):
    kept = [word for word in study_words if not any(word.split("=")[0] == new.split("=")[0] for new in words)]
    assert run_train(monkeypatch, *kept, *words) != 0
    assert told in " ".join(capsys.readouterr().err.split())
    assert not list(runs.glob("*/run.json"))


def test_arms_may_differ_in_what_the_study_names(study_words, runs, monkeypatch):
    arms = "study.arms={a: 'target=q_v', b: 'target=q_v train.batch_size=2'}"
    words = [word for word in study_words if not word.startswith("study.arms")]
    assert run_train(monkeypatch, *words, arms, "study.axes=[train.batch_size]", "study.seeds=[1]") == 0
    assert sorted(record.config["train"]["batch_size"] for record in load_runs(runs)[0]) == [2, 4]


def test_matched_arms_have_the_budget_and_stand_beside_their_own_ranks(study_words, runs, monkeypatch):
    words = [*study_words, "study.budget=qv_ffn", "study.same_rank=true", "study.reference=qv_ffn", "study.seeds=[1]"]
    assert run_train(monkeypatch, *words) == 0
    study = read_study(runs)
    views = {arm.name: arm.views for arm in study.arms}
    matched, same = study.views
    assert views == {"q_v": [matched], "q_v own ranks": [same], "qv_ffn": [matched, same]}
    sizes = {arm.name: arm.parameters for arm in study.arms}
    assert sizes["q_v own ranks"] == 1792
    # 224 parameters a rank on the tiny model: the nearest whole rank
    assert abs(sizes["q_v"] - sizes["qv_ffn"]) <= 224 / 2
    for run in study.runs:
        assert read_record(runs / run.name).plan["trainable_parameters"] == sizes[run.arm]


def test_runs_of_a_study_end_as_runs_of_their_own_commands(study_words, tiny_words, runs, tmp_path, monkeypatch):
    assert run_train(monkeypatch, *study_words) == 0
    study = read_study(runs)
    run = study.runs[-1]
    own = [*tiny_words, "train.max_steps=3", f"target={run.arm}", f"seed={run.seed}", f"runs_dir={tmp_path / 'alone'}"]
    assert run_train(monkeypatch, *own) == 0
    again = read_record(tmp_path / "alone" / run.name)
    assert again.metrics == read_record(runs / run.name).metrics
    assert math.isfinite(again.metric("eval_loss"))


def test_another_study_in_the_same_folder_is_told_with_the_command_that_brings_the_first_back(
    study_words, runs, monkeypatch, capsys
):
    assert run_train(monkeypatch, *study_words) == 0
    first = read_study(runs)
    assert run_train(monkeypatch, *study_words, "study.seeds=[1,2,3]") == 0
    assert "another study" not in "".join(capsys.readouterr())
    assert run_train(monkeypatch, *study_words, "train.max_steps=2") == 0
    told = "".join(capsys.readouterr())
    assert "held another study" in told
    assert "study.seeds=[1,2,3]" in " ".join(told.split())
    assert {run.name for run in first.runs}.isdisjoint(run.name for run in read_study(runs).runs)
    assert run_train(monkeypatch, *study_words) == 0
    assert {run.name for run in first.runs} == {run.name for run in read_study(runs).runs}


def test_any_launcher_of_hydras_gets_the_runs_in_batches_and_ends_with_the_same_study(
    study_words, runs, tmp_path, monkeypatch, capsys
):
    words = [*study_words, "study.arms={q_v: 'target=q_v', wild: 'target=qkvo target.alpha=1e12'}"]
    words.remove("study.arms={q_v: 'target=q_v', qv_ffn: 'target=qv_ffn'}")
    elsewhere = tmp_path / "elsewhere"
    assert run_train(monkeypatch, *words) != 0
    assert run_train(monkeypatch, *words, f"runs_dir={elsewhere}", "hydra/launcher=basic") != 0
    assert "2 of its runs failed" in capsys.readouterr().err
    one, other = read_study(runs), read_study(elsewhere)
    assert [run.name for run in one.runs] == [run.name for run in other.runs]
    found = [
        {name: (str(record.status), record.metric("eval_loss")) for name, record in records_of(study, folder).items()}
        for study, folder in ((one, runs), (other, elsewhere))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 4
