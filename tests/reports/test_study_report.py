"""What `lorascope report STUDY` prints and writes, held against numbers made by hand and by other programs."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from lorascope.cli.main import main
from lorascope.errors import RunError
from lorascope.formats import Quantity, quantity
from lorascope.records.record import Status, read_record, write_record
from lorascope.records.study_record import FINAL, read_study, write_study
from lorascope.reports.findings import find, result_rows
from lorascope.reports.plots import front
from lorascope.reports.standings import Line
from lorascope.reports.study_report import write_report
from reports.made_studies import METRIC, around, keep, make, ordinary

T_4 = 2.7764451051977987  # 0.975 quantile of Student's t with 4 degrees of freedom, from a printed table
PASSING = ("time_", "memory_")


def shown(folder: Path, **options: object) -> str:
    """What the terminal gets."""
    out = io.StringIO()
    write_report(folder, Console(file=out, width=118, highlight=False, soft_wrap=True), **options)  # type: ignore[arg-type]
    return out.getvalue()


def table(folder: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def study(tmp_path):
    ordinary(tmp_path)
    return tmp_path


def test_every_arm_has_a_line_also_one_whose_runs_failed_or_are_missing(study):
    out = shown(study)
    lines = out.split("arithmetic   ")[0].splitlines()
    found = {line.split()[0]: line for line in lines if line.split()[1:2] == ["8"]}
    assert list(found) == ["q_v", "ffn", "qkvo", "broken", "late"]
    assert found["q_v"].split()[-1] == "reference"
    assert found["ffn"].split()[-1] == "better"
    assert found["qkvo"].split()[-1] == "equivalent"
    assert "too few seeds" in found["broken"]
    assert "too few seeds" in found["late"]
    assert "broken: 0 of 5 seeds: 5 failed (ValueError: no)" in out
    assert "placement on airports, arithmetic, tiny, 5 seeds each, rate tuned per arm" in out


def test_means_and_intervals_are_those_of_the_textbook(study):
    shown(study)
    rows = {(row["task"], row["arm"]): row for row in table(study)}
    values = list(around(0.3).values())
    half = T_4 * statistics.stdev(values) / math.sqrt(5)
    row = rows["airports", "q_v"]
    assert float(row["mean"]) == pytest.approx(statistics.fmean(values))
    assert float(row["low"]) == pytest.approx(statistics.fmean(values) - half)
    assert float(row["high"]) == pytest.approx(statistics.fmean(values) + half)
    assert float(row["eval_loss"]) == pytest.approx(1 - statistics.fmean(values))
    shift = [0.305, 0.295, 0.3, 0.305, 0.295]  # of ordinary(): the paired differences
    half = T_4 * statistics.stdev(shift) / math.sqrt(5)
    row = rows["airports", "ffn"]
    assert float(row["difference"]) == pytest.approx(0.3)
    assert float(row["difference_low"]) == pytest.approx(0.3 - half)
    assert float(row["difference_high"]) == pytest.approx(0.3 + half)
    assert rows["arithmetic", "ffn"]["verdict"] == "worse"


def test_the_files_hold_every_arm_task_and_view_and_every_run(tmp_path):
    views = {"q_v": ["matched budget", "same rank"], "ffn": ["same rank"], "qkvo": ["matched budget", "same rank"]}
    arms = {arm: around(0.1 * number) for number, arm in enumerate(views, 2)}
    made = make(tmp_path, {"airports": arms, "arithmetic": arms}, views=views, missing=["0-s1"])
    out = shown(tmp_path)
    found = [(row["view"], row["task"], row["arm"]) for row in table(tmp_path)]
    assert len(found) == len(set(found)) == 2 * (2 + 3)
    assert ("matched budget", "airports", "ffn") not in found
    runs = table(tmp_path, "runs.csv")
    assert [row["name"] for row in runs] == [run.name for run in made.runs]
    assert runs[0]["status"] == ""
    for row, run in zip(runs[1:], made.runs[1:], strict=True):
        assert float(row["metrics.exact_match"]) == arms[run.arm][run.seed]
    assert "airports, matched budget" in out
    assert "arithmetic, same rank" in out
    assert "q_v: 4 of 5 seeds: 1 not run yet" in out


def test_an_arm_is_compared_with_the_reference_of_its_view_or_with_nothing(tmp_path):
    views = {"q_v": ["one"], "ffn": ["one", "other"], "qkvo": ["other"]}
    make(tmp_path, {"airports": {arm: around(0.5) for arm in views}}, views=views)
    out = shown(tmp_path)
    assert "The reference q_v is not in this view" in out
    assert {row["verdict"] for row in table(tmp_path) if row["view"] == "other"} == {"no verdict"}


def test_runs_of_differing_fingerprints_have_no_verdict_unless_they_are_mixed_on_purpose(study, capsys):
    folder = next(study / run.name for run in find(study).study.runs if run.arm == "ffn" and run.task == "airports")
    other = read_record(folder)
    other.fingerprint = {"hash": "g", "eval_data": "1"}
    write_record(other, folder)
    main(["report", str(study)])
    out = capsys.readouterr().out
    assert "fingerprints differ in eval_data, so there is no verdict" in out
    verdicts = {(row["task"], row["arm"]): row["verdict"] for row in table(study)}
    assert verdicts["airports", "ffn"] == "no verdict"
    assert verdicts["arithmetic", "ffn"] == "worse"
    main(["report", str(study), "--mixed"])
    assert "fingerprints differ in eval_data: compared all the same (--mixed)" in capsys.readouterr().out
    assert {row["arm"]: row["verdict"] for row in table(study) if row["task"] == "airports"}["ffn"] == "better"


def test_a_study_that_was_cut_and_continued_gives_the_same_tables(tmp_path):
    for name in ("whole", "cut"):
        ordinary(tmp_path / name)
    for path in (tmp_path / "cut").glob("*/run.json"):
        one = read_record(path.parent)
        one.timing = {"tokens_per_second": 7.0, "total_seconds": 1e4}
        one.memory = {"peak_bytes": 5, "predicted_bytes": 6}
        one.started, one.finished = "2027-01-01T00:00:00+00:00", "2027-01-02T00:00:00+00:00"
        one.sessions = [{"started": one.started, "status": "killed"}, {"started": one.started, "ended": one.finished}]
        write_record(one, path.parent)
    whole, cut = (shown(tmp_path / name).replace(str(tmp_path / name), "") for name in ("whole", "cut"))
    assert whole == cut
    for name in ("results.csv", "runs.csv"):
        one, other = (table(tmp_path / folder, name) for folder in ("whole", "cut"))
        same = [{key: value for key, value in row.items() if not key.startswith(PASSING)} for row in one]
        assert same == [{key: value for key, value in row.items() if not key.startswith(PASSING)} for row in other]
        assert one != other
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "cut")]
    assert reports[0]["results"] == reports[1]["results"]


def test_too_few_seeds_are_said_and_have_no_verdict(tmp_path, capsys):
    make(tmp_path, {"airports": {"q_v": around(0.1, 3), "ffn": around(0.9, 3)}})
    main(["report", str(tmp_path)])
    out = capsys.readouterr().out
    assert "3 seeds: a first look; a verdict needs 5" in out
    assert "better" not in out.replace("higher is better", "")


def test_json_is_the_report_and_csv_may_go_to_stdout(study, capsys):
    main(["report", str(study), "--json"])
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert not (study / "report.html").exists()
    assert [arm["arm"] for arm in told["results"][0]["arms"]] == ["q_v", "ffn", "qkvo", "broken", "late"]
    assert len(told["runs"]) == len(find(study).study.runs)
    main(["report", str(study), "--csv", "-"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    main(["report", str(study)])
    assert rows == table(study)
    assert json.loads((study / "report.json").read_text()) == told


def test_group_and_sort_show_the_final_runs_as_other_runs_are_shown(study, capsys):
    main(["report", str(study), "--sort", "eval_loss", "--csv", str(study / "old.csv")])
    names = {row["name"] for row in table(study, "old.csv")}
    assert names == {run.name for run in find(study).study.runs if run.stage == FINAL}
    capsys.readouterr()
    main(["report", str(study), "--group", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["target"] for row in rows} == {"q_v", "ffn", "qkvo", "broken", "late"}
    assert not (study / "results.csv").exists()


def test_files_go_where_they_are_sent_and_none_is_left_half(study, tmp_path_factory, capsys):
    place = tmp_path_factory.mktemp("elsewhere")
    words = ["--html", str(place / "a.html"), "--csv", str(place / "b.csv"), "--plot", str(place / "c.png")]
    main(["report", str(study), *words])
    assert sorted(path.name for path in place.iterdir()) == ["a.html", "b.csv", "c.png"]
    assert (place / "c.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert str(place / "a.html") in capsys.readouterr().out
    assert not list(study.glob(".*"))
    with pytest.raises(RunError, match="cannot be written"):
        write_report(study, Console(quiet=True), html=place / "no" / "where.html")


@pytest.mark.parametrize("flag", ["--html=x.html", "--mixed", "--watch"])
def test_what_is_for_studies_is_refused_elsewhere(tmp_path, flag, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), flag])
    assert "holds no study" in capsys.readouterr().err


def test_a_study_without_any_run_is_shown(tmp_path, capsys):
    made = make(tmp_path, {"airports": {"q_v": around(0.1), "ffn": around(0.2)}})
    for run in made.runs:
        (tmp_path / run.name / "run.json").unlink()
    main(["report", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.count("0 of 5 seeds: 5 not run yet") == 2
    assert not (tmp_path / "pareto.png").exists()
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_value_that_is_no_number_and_a_done_run_without_the_metric_are_told(tmp_path):
    made = make(tmp_path, {"airports": {"q_v": around(0.1), "ffn": around(0.2)}})
    for run, value in zip(made.runs[5:7], (math.nan, None), strict=True):
        one = read_record(tmp_path / run.name)
        one.metrics["exact_match"]["value"] = value
        write_record(one, tmp_path / run.name)
    assert "ffn: 3 of 5 seeds: 1 whose exact_match is no number, 1 without exact_match" in shown(tmp_path)


def line(size: int, mean: float) -> Line:
    named = {"view": "", "task": "", "arm": "", "ranks": "", "learning_rate": None, "metric": "", "n": 5}
    return Line(parameters=size, mean=mean, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_front_is_what_nobody_beats(better):
    draw = random.Random(0)
    for _ in range(200):
        lines = [line(draw.randint(1, 5), float(draw.randint(1, 5))) for _ in range(draw.randint(1, 7))]

        def good(one: Line) -> float:
            return (one.mean or 0.0) if better == "higher" else -(one.mean or 0.0)

        beaten = {
            index
            for index, one in enumerate(lines)
            for other in lines
            if (other.parameters < one.parameters and good(other) >= good(one))
            or (other.parameters <= one.parameters and good(other) > good(one))
        }
        found = front(lines, better)
        assert {id(one) for one in found} == {id(one) for index, one in enumerate(lines) if index not in beaten}
        assert [one.parameters for one in found] == sorted(one.parameters for one in found)


def test_shares_read_as_percent_and_their_differences_as_points():
    share = Quantity("share of items", 1)
    assert share.value(0.31, 0.041) == "31.0 % ± 4.1"
    assert share.difference(-0.1234, -0.2, -0.05) == "-12.3 [-20.0, -5.0]"
    assert share.difference(0.00004) == "0.0"
    assert share.of_differences == "points"
    loss = quantity("nats/token", [0.05, None, 0.06])
    assert loss.value(0.4444, 0.05) == "0.44 ± 0.05"
    assert loss.difference(0.25, 0.2, 0.3) == "+0.25 [0.20, 0.30]"
    assert loss.value(None) == loss.value(math.inf) == "-"


def test_two_hundred_runs_take_seconds_and_never_load_torch(tmp_path):
    arms = {f"arm{number}": around(0.1 + 0.05 * number) for number in range(10)}
    made = make(tmp_path, {f"task{number}": arms for number in range(4)}, steps=300)
    assert len(made.runs) == 200
    code = (
        "import sys; from lorascope.cli.main import main; main(['report', sys.argv[1]]); "
        "assert not {'torch', 'transformers', 'wandb', 'hydra', 'pandas'} & set(sys.modules)"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - begin < 60  # some 5 s on an idle machine
    assert (tmp_path / "report.html").stat().st_size < 2 * 2**20


def test_the_same_study_gives_the_same_bytes(study):
    shown(study)
    files = ("results.csv", "runs.csv", "report.json", "report.html", "pareto.png")
    before = {name: (study / name).read_bytes() for name in files}
    shown(study)
    assert {name: (study / name).read_bytes() for name in files} == before


def test_an_arms_own_rank_and_size_stand_in_for_runs_that_have_no_plan(tmp_path):
    made = make(tmp_path, {"airports": {"q_v": around(0.1), "ffn": around(0.2)}})
    for arm in made.arms:
        arm.ranks, arm.parameters = "16", 77
    write_study(made, tmp_path)
    for run in made.runs:
        one = read_record(tmp_path / run.name)
        one.plan, one.status, one.metrics = {}, Status.failed, {}
        keep(tmp_path, one, run.name)
    rows = result_rows(find(tmp_path))
    assert {(row["ranks"], row["parameters"], row["metric"]) for row in rows} == {("16", 77, METRIC.name)}


@pytest.mark.parametrize("field", ["reference", "arms", "tasks"])
def test_a_study_that_names_what_it_does_not_have_is_one_message(study, field, capsys):
    path = study / "study.json"
    raw = json.loads(path.read_text())
    raw[field] = "nobody" if field == "reference" else raw[field][1:]
    path.write_text(json.dumps(raw))
    with pytest.raises(SystemExit):
        main(["report", str(study)])
    assert "is damaged: it has no" in capsys.readouterr().err


def test_a_study_that_is_read_and_written_keeps_its_bytes(study):
    path = study / "study.json"
    before = path.read_bytes()
    write_study(read_study(study), study)
    assert path.read_bytes() == before


def test_a_study_that_lacks_a_field_is_shown_or_one_message(study):
    path = study / "study.json"
    whole = json.loads(path.read_text())
    refused = []
    for field in whole:
        path.write_text(json.dumps({key: value for key, value in whole.items() if key != field}))
        try:
            find(study)
        except RunError as error:
            refused.append(error.place)
    assert len(refused) > 5
    assert set(refused) == {str(path)}


def places(value, path=()):
    """Every place of a JSON value, of a list's items the first."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in inside:
        yield from places(one, (*path, key))


def test_a_study_with_a_value_of_another_kind_is_shown_or_one_message(study):
    path = study / "study.json"
    whole = path.read_text()
    refused = 0
    for place in list(places(json.loads(whole)))[1:]:
        for other in (None, "x", -1.5, [], {}):
            raw = json.loads(whole)
            inner = raw
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = other
            path.write_text(json.dumps(raw))
            try:
                find(study)
            except RunError as error:
                refused += error.place == str(path)
    assert refused > 100
