"""Sorting, grouping over seeds and CSV, checked with the standard library's statistics and csv."""

import csv
import io
import json
import statistics

import pytest

from lorascope.cli.main import main
from lorascope.config.schema import TrainConfig
from lorascope.records.record import RunRecord, write_record
from reports.made_records import record

LOSSES = {"q_v": [1.7, 1.9, 1.75], "qv_ffn": [0.5, 0.62, 0.41]}
SPEEDS = [100.0, 110.0, 90.0]


def keep(folder, one: RunRecord, name: str = "") -> None:
    place = folder / (name or one.name)
    place.mkdir()
    write_record(one, place)


@pytest.fixture
def runs(tmp_path):
    """Two strategies over three seeds, and a failed run of the first on a fourth seed."""
    for target, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            one = record(target, 1000 if target == "q_v" else 3000, loss, seed=seed)
            one.timing["tokens_per_second"] = SPEEDS[seed]
            keep(tmp_path, one)
    failed = record("q_v", 1000, None, seed=3)
    failed.fingerprint = {}
    keep(tmp_path, failed)
    return tmp_path


def as_json(capsys, *words: str) -> list[dict]:
    main(["report", *words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_group_is_a_config_apart_from_its_seed(runs, capsys):
    rows = as_json(capsys, str(runs), "--group")
    assert [row["target"] for row in rows] == ["qv_ffn", "q_v"]
    for row in rows:
        losses = LOSSES[row["target"]]
        assert row["n"] == 3
        assert row["seeds"] == [0, 1, 2]
        assert row["eval_loss"] == pytest.approx(statistics.mean(losses))
        assert row["eval_loss_sd"] == pytest.approx(statistics.stdev(losses))
        assert row["tokens_per_second"] == pytest.approx(statistics.mean(SPEEDS))
        assert row["differs"] == {}
    assert [row["not_done"] for row in rows] == [0, 1]


def test_a_repeated_seed_counts_once(runs, capsys):
    again = record("q_v", 1000, 2.1, seed=0)
    again.timing["tokens_per_second"] = 100.0
    keep(runs, again, "again")
    row = as_json(capsys, str(runs), "--group")[1]
    by_seed = [statistics.mean([1.7, 2.1]), 1.9, 1.75]
    assert row["n"] == 3
    assert row["eval_loss"] == pytest.approx(statistics.mean(by_seed))
    assert row["eval_loss_sd"] == pytest.approx(statistics.stdev(by_seed))


def test_one_seed_has_no_deviation(tmp_path, capsys):
    keep(tmp_path, record("q_v", 1000, 1.7))
    (row,) = as_json(capsys, str(tmp_path), "--group")
    assert (row["n"], row["eval_loss"], row["eval_loss_sd"]) == (1, 1.7, None)


def test_different_fingerprints_are_never_pooled(runs, capsys):
    keep(runs, record("q_v", 1000, 0.1, seed=4, fingerprint="g"))
    rows = [row for row in as_json(capsys, str(runs), "--group") if row["target"] == "q_v"]
    assert sorted((row["n"], row["fingerprint"]) for row in rows) == [(1, "g"), (3, "f")]
    assert {row["differs"]["fingerprint"] for row in rows} == {"f", "g"}


def test_arms_that_look_the_same_are_told_apart_by_what_differs(runs, capsys):
    other = record("q_v", 1000, 1.2)
    other.config["train"]["warmup_ratio"] = 0.5
    keep(runs, other, "other")
    rows = [row for row in as_json(capsys, str(runs), "--group") if row["target"] == "q_v"]
    assert sorted(row["differs"]["train.warmup_ratio"] for row in rows) == [TrainConfig().warmup_ratio, 0.5]


def test_a_setting_that_an_older_record_does_not_name_had_its_default(runs, capsys):
    newer = record("q_v", 1000, 1.8, seed=5)
    newer.config["train"]["scheduler"] = str(TrainConfig().scheduler)
    keep(runs, newer, "newer")
    assert [row["n"] for row in as_json(capsys, str(runs), "--group")] == [3, 4]


def test_where_a_run_was_kept_does_not_make_another_arm(runs, capsys):
    other = record("q_v", 1000, 1.8, seed=5)
    other.config |= {"runs_dir": "elsewhere", "logger": {"group": "night"}}
    keep(runs, other, "other")
    assert [row["n"] for row in as_json(capsys, str(runs), "--group")] == [3, 4]


def test_the_grouped_table_shows_mean_deviation_and_what_is_not_done(runs, capsys):
    main(["report", str(runs), "--group"])
    out = capsys.readouterr().out
    assert out.startswith("2 arms from 7 runs")
    line = next(line for line in out.splitlines() if line.startswith("q_v "))
    for words in ("3", f"{statistics.mean(LOSSES['q_v']):.4f}", f"{statistics.stdev(LOSSES['q_v']):.4f}", "1,000"):
        assert words in line.split()
    assert line.split()[-1] == "1"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("parameters", [1000, 1000, 1000, 1000, 3000, 3000, 3000]),
        ("trainable_parameters", [1000, 1000, 1000, 1000, 3000, 3000, 3000]),
    ],
)
def test_a_column_sorts_by_its_title_or_its_field(runs, capsys, key, expected):
    assert [row["trainable_parameters"] for row in as_json(capsys, str(runs), "--sort", key)] == expected


def test_runs_without_a_value_come_last(runs, capsys):
    rows = as_json(capsys, str(runs), "--sort", "eval loss")
    losses = [row["eval_loss"] for row in rows]
    assert losses == [*sorted(loss for losses in LOSSES.values() for loss in losses), None]


def test_ranks_sort_as_numbers(tmp_path, capsys):
    for rank in (16, 8, 64):
        one = record(f"r{rank}", 1, 1.0)
        one.plan["modules"] = [{"rank": rank}]
        keep(tmp_path, one)
    assert [row["ranks"] for row in as_json(capsys, str(tmp_path), "--sort", "rank")] == ["8", "16", "64"]


@pytest.mark.parametrize("more", [[], ["--group"]])
def test_an_unknown_column_is_one_message_with_those_that_are(runs, capsys, more):
    with pytest.raises(SystemExit) as end:
        main(["report", str(runs), "--sort", "beauty", *more])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "--sort=beauty" in told
    assert "eval loss" in told
    assert ("seeds" in told) is bool(more)


def test_csv_reads_back_as_the_json_rows(runs, capsys, tmp_path):
    file = tmp_path / "out.csv"
    rows = as_json(capsys, str(runs), "--csv", str(file))
    with file.open(newline="") as lines:
        read = list(csv.DictReader(lines))
    assert [set(row) for row in read] == [set(row) for row in rows]
    assert read == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def test_csv_to_stdout_prints_nothing_else(runs, capsys):
    main(["report", str(runs), "--group", "--csv", "-"])
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["n"] for row in read] == ["3", "3"]
    assert read[0]["seeds"] == "0 1 2"
    assert float(read[0]["eval_loss"]) == pytest.approx(statistics.mean(LOSSES["qv_ffn"]))
    assert not (runs / "eval_loss.png").exists()


def test_csv_and_json_cannot_share_stdout(runs, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(runs), "--json", "--csv", "-"])
    assert "--csv=-" in capsys.readouterr().err


def test_a_csv_that_cannot_be_written_is_one_message(runs, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(runs), "--csv", str(runs / "no" / "out.csv")])
    assert "cannot be written" in capsys.readouterr().err


def test_a_loss_that_is_no_number_comes_last_and_is_null_in_json(runs, capsys):
    keep(runs, record("ffn", 5, float("nan")))
    rows = as_json(capsys, str(runs))
    assert [row["eval_loss"] for row in rows[-2:]] == [None, None]
    assert as_json(capsys, str(runs), "--group")[-1]["eval_loss"] is None


def test_versions_that_differ_are_told(runs, capsys):
    one = record("ffn", 5, 0.1)
    one.environment = {"packages": {"torch": "2.11.0", "peft": "0.21.0"}}
    two = record("ffn", 5, 0.2, seed=1)
    two.environment = {"packages": {"torch": "2.13.0", "peft": "0.21.0"}}
    keep(runs, one)
    keep(runs, two)
    main(["report", str(runs)])
    out = capsys.readouterr().out
    assert "versions differ among these runs: torch 2.11.0, 2.13.0\n" in out
