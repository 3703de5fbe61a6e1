"""Records that no run has left: list, report and compare name the damaged one, and show the others."""

import copy
import dataclasses
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lorascope.cli.main import main
from lorascope.errors import RunError
from lorascope.records.record import FILE, read_record, write_record
from lorascope.records.store import load_runs
from lorascope.reports.comparison import compare_runs, show_comparison
from lorascope.reports.plots import plot_loss
from lorascope.reports.run_table import RUN_COLUMNS, plain, rows_of, sort_rows, write_csv
from lorascope.reports.seed_groups import groups_of
from lorascope.reports.text_tables import newest_first, show_groups, show_list, show_runs
from malformed.judged import at_most_told, clear, few, json_values, told
from reports.made_records import record

MODULE = {"role": "q", "layer": 0, "rank": 4, "alpha": 8.0, "scale": 2.0, "parameters": 100}
WHOLE = json.loads(
    json.dumps(
        dataclasses.asdict(
            dataclasses.replace(
                record("q_v", 1000, 1.5),
                plan={"trainable_parameters": 1000, "trainable_percent": 0.5, "modules": [MODULE]},
                data={"train_rows": 3},
                environment={"python": "3.11", "packages": {"torch": "2"}},
                sessions=[{"started": "2026-01-01T00:00:00+00:00"}],
            )
        )
    )
)


def changed(place, value):
    """The whole record with another value at a dotted place."""
    raw = copy.deepcopy(WHOLE)
    *way, last = place.split(".")
    inner = raw
    for part in way:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    inner[int(last) if isinstance(inner, list) else last] = value
    return raw


# place, value, what the message holds
VALUES = [
    ("schema_version", None, "is damaged"),
    ("schema_version", [], "is damaged"),
    ("schema_version", 1e999, "is damaged"),
    ("schema_version", 99, "has schema version 99"),
    ("run_id", 7, "run_id must be a string (got 7)"),
    ("name", None, "name must be a string (got None)"),
    ("name", "\ud800", "surrogates not allowed"),
    ("status", "finished", "'finished' is not a valid Status"),
    ("status", [], "is damaged"),
    ("started", 3, "started must be a string (got 3)"),
    ("error", {}, "error must be a string (got {})"),
    ("config", "q_v", "config must be an object (got 'q_v')"),
    ("config.target", "q_v", "config.target must be an object"),
    ("config.target.name", 3, "config.target.name must be a string"),
    ("config.seed", "0", "config.seed must be an integer (got '0')"),
    ("config.seed", 0.5, "config.seed must be an integer (got 0.5)"),
    ("config.train.learning_rate", "high", "config.train.learning_rate must be a number (got 'high')"),
    ("config.train.learning_rate", float("nan"), "config.train.learning_rate must be a finite number (got nan)"),
    ("metrics", [], "metrics must be an object"),
    ("metrics.eval_loss", 1.5, "metrics.eval_loss must be an object (got 1.5)"),
    ("metrics.eval_loss.value", "1.5", "metrics.eval_loss.value must be a number (got '1.5')"),
    ("metrics.eval_loss.value", True, "metrics.eval_loss.value must be a number (got True)"),
    ("metrics.eval_loss.value", 10**400, "a number must have at most 300 digits (got 401)"),
    ("metrics.eval_loss.value", -(10**15), "metrics.eval_loss.value must be below 1e+15 (got -1000000000000000)"),
    ("metrics.eval_loss.better", 1, "metrics.eval_loss.better must be a string"),
    ("plan.modules", {}, "plan.modules must be an array (got {})"),
    ("plan.modules.0", None, "plan.modules.0 must be an object"),
    ("plan.modules.0.rank", "4", "plan.modules.0.rank must be an integer"),
    ("plan.modules.0.layer", 0.5, "plan.modules.0.layer must be an integer"),
    ("plan.trainable_parameters", "many", "plan.trainable_parameters must be a number"),
    ("timing.total_seconds", 1e300, "timing.total_seconds must be less than 1000000000000000"),
    ("timing.tokens_per_second", [], "timing.tokens_per_second must be a number"),
    ("memory.peak_bytes", float("inf"), "memory.peak_bytes must be a finite number"),
    ("fingerprint.hash", ["f"], "fingerprint.hash must be a string"),
    ("environment.packages", ["torch"], "environment.packages must be an object"),
    ("sessions", "one", "sessions must be an array"),
    ("sessions.0", 3, "sessions.0 must be an object"),
    ("config.quantization", "x" * 9000, "config.quantization must be an object (got 'xxx"),
]
BYTES = {
    "a record cut off": json.dumps(WHOLE).encode()[:300],
    "no text": b"\xff\xfe\0",
    "brackets without end": b"[" * 100_000,
    "a number of 5000 digits": b'{"schema_version": ' + b"9" * 5000 + b"}",
    "no run's id": json.dumps({key: value for key, value in WHOLE.items() if key != "run_id"}).encode(),
    "UTF-16": json.dumps(WHOLE).encode("utf-16"),
}


@pytest.fixture
def runs(tmp_path):
    """Two whole runs, and the folder of one whose record the test writes."""
    for seed in (1, 2):
        one = record("qkvo", 2000, 1.4, seed=seed)
        (tmp_path / one.name).mkdir()
        write_record(one, tmp_path / one.name)
    (tmp_path / "damaged").mkdir()
    return tmp_path


@pytest.mark.parametrize(("place", "value", "says"), VALUES, ids=[f"{at}={str(value)[:9]}" for at, value, _ in VALUES])
def test_a_value_of_another_kind_is_told_with_its_place(place, value, says, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(changed(place, value)))
    with told(says, RunError):
        read_record(tmp_path)


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_what_is_no_record_is_told(data, tmp_path):
    (tmp_path / FILE).write_bytes(data)
    with told("is damaged", RunError):
        read_record(tmp_path)


COMMANDS = [
    ["list"],
    ["list", "--json"],
    ["report"],
    ["report", "--group"],
    ["report", "--json"],
    ["report", "--csv", "-"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "data", [BYTES["a record cut off"], json.dumps(changed("config", 3)).encode()], ids=["cut", "3"]
)
def test_a_damaged_record_is_named_and_the_others_are_shown(data, words, runs, capsys):
    (runs / "damaged" / FILE).write_bytes(data)
    main([words[0], str(runs), *words[1:]])
    out, err = capsys.readouterr()
    assert clear(err)
    assert "damaged/run.json is damaged" in err
    assert "qkvo" in out


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_a_comparison_with_a_damaged_record_is_one_message(data, runs, capsys):
    (runs / "damaged" / FILE).write_bytes(data)
    with pytest.raises(SystemExit) as end:
        main(["compare", "damaged", "qkvo-s1", "--runs", str(runs)])
    out, err = capsys.readouterr()
    assert end.value.code == 1
    assert "damaged/run.json is damaged" in err
    assert clear(err)
    assert out == ""


def test_a_folder_that_is_called_as_a_record_hides_nothing(runs, capsys):
    (runs / "damaged" / FILE).mkdir()
    main(["list", str(runs)])
    out, err = capsys.readouterr()
    assert clear(err)
    assert "cannot be read" in err
    assert "qkvo-s1" in out


PLACES = [
    "run_id", "name", "status", "started", "finished", "error", "config", "config.target", "config.target.name",
    "config.seed", "config.train", "config.train.learning_rate", "config.quantization.scheme", "plan", "plan.modules",
    "plan.modules.0", "plan.modules.0.role", "plan.modules.0.rank", "plan.modules.0.parameters", "plan.modules.0.alpha",
    "plan.trainable_parameters", "metrics", "metrics.eval_loss", "metrics.eval_loss.value", "metrics.eval_loss.base",
    "metrics.eval_loss.better", "metrics.eval_loss.unit", "timing", "timing.total_seconds", "memory", "data",
    "memory.peak_bytes", "data.train_rows", "fingerprint", "fingerprint.hash", "environment", "environment.packages",
    "environment.packages.torch", "sessions", "sessions.0", "schema_version",
]  # fmt: skip
NAMES = ("eval_loss", "value", "base", "better", "lower", "target", "name", "modules", "rank", "layer", "hash", "[/]")


def show_everything(folder):
    records, damaged = load_runs(folder)
    assert all(clear(str(error)) for error in damaged)
    assert len(records) + len(damaged) == 2
    out = Console(file=io.StringIO(), width=100)
    rows, groups = rows_of(records), groups_of(records)
    show_list(out, newest_first(records), 2)
    show_runs(out, rows, records)
    show_groups(out, groups, records)
    write_csv(rows, str(folder / "rows.csv"))
    write_csv(groups, str(folder / "groups.csv"))
    json.dumps(plain([rows, groups]), allow_nan=False)
    for column in RUN_COLUMNS:
        sort_rows(rows, column)
    for first in records:
        for second in records:
            found = compare_runs(first, second)
            show_comparison(out, found)
            json.dumps(plain(dataclasses.asdict(found)), allow_nan=False)
    return records


@settings(few, max_examples=100)
@given(place=st.sampled_from(PLACES), value=json_values(*NAMES))
def test_whatever_stands_in_a_record_it_is_shown_or_told(place, value, tmp_path):
    for name, raw in (("a", WHOLE), ("b", changed(place, value))):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / FILE).write_text(json.dumps(raw))
    with at_most_told():
        show_everything(tmp_path)


@settings(few, max_examples=6)
@given(
    place=st.sampled_from(["metrics.eval_loss.value", "plan.trainable_parameters", "config.target.name"]),
    value=st.none() | st.integers() | st.floats() | st.text(max_size=5),
)
def test_whatever_stands_in_a_record_it_is_drawn_or_told(place, value, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(changed(place, value)))
    with at_most_told():
        plot_loss(load_runs(tmp_path)[0], tmp_path / "plot.png")
