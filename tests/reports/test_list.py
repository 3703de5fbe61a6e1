import json
import re
import subprocess
import sys

import pytest

from lorascope.cli.main import main
from lorascope.records.record import Status, write_record
from reports.made_records import record


@pytest.fixture
def runs(tmp_path):
    """Three runs of three days; the second day's failed."""
    days = {"q_v": 1.7, "qkvo": None, "qv_ffn": 0.5}
    for day, (target, loss) in enumerate(days.items(), start=1):
        one = record(target, 1000, loss)
        one.started = f"2026-01-0{day}T12:00:00+00:00"
        (tmp_path / one.name).mkdir()
        write_record(one, tmp_path / one.name)
    return tmp_path


def shown(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_each_run_is_one_line_and_the_newest_is_first(runs, capsys):
    main(["list", str(runs)])
    head, titles, *lines = shown(capsys)
    assert head == "3 runs"
    assert titles.split() == ["name", "status", "target", "model", "dataset", "seed", "eval", "loss", "started", "took"]
    assert [line.split()[0] for line in lines] == ["qv_ffn-s0-f", "qkvo-s0-f", "q_v-s0-f"]
    assert lines[0].split()[1:7] == ["done", "qv_ffn", "tiny", "airports", "0", "0.5000"]
    assert lines[0].endswith("60 s")
    assert re.search(r"2026-01-03 \d\d:\d\d", lines[0])


def test_a_long_name_is_neither_wrapped_nor_cut(runs, capsys):
    one = record("q_v", 1000, 1.0)
    one.name = "a-strategy-of-ones-own" * 10
    (runs / "long").mkdir()
    write_record(one, runs / "long")
    main(["list", str(runs)])
    lines = shown(capsys)
    assert len(lines) == 2 + 4
    assert sum(one.name in line and "airports" in line for line in lines) == 1


def test_a_status_chooses_runs(runs, capsys):
    main(["list", str(runs), "--status", "failed"])
    head, _, *lines = shown(capsys)
    assert head == "1 of 3 runs"
    assert [line.split()[0] for line in lines] == ["qkvo-s0-f"]
    main(["list", str(runs), "--status", "failed", "--status", "done"])
    assert shown(capsys)[0] == "3 runs"


def test_a_status_that_does_not_exist_is_refused_with_those_that_do(runs, capsys):
    with pytest.raises(SystemExit) as end:
        main(["list", str(runs), "--status", "finished"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert all(str(status) in told for status in Status)


def test_json_holds_the_same_runs(runs, capsys):
    main(["list", str(runs), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["qv_ffn-s0-f", "qkvo-s0-f", "q_v-s0-f"]
    assert rows[1]["error"] == "ValueError: no\nmore"
    assert rows[0]["total_seconds"] == 60


def test_a_damaged_record_is_told_on_stderr_and_hides_nothing(runs, capsys):
    (runs / "bad").mkdir()
    (runs / "bad" / "run.json").write_text("{")
    main(["list", str(runs), "--json"])
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 3
    assert "is damaged" in err


def test_a_record_with_an_unreadable_time_comes_last(runs, capsys):
    one = record("ffn", 1000, 0.1)
    one.started = "yesterday"
    (runs / "odd").mkdir()
    write_record(one, runs / "odd")
    main(["list", str(runs)])
    assert shown(capsys)[-1].startswith("ffn-s0-f")


def test_no_runs_yet_is_said_with_the_command_that_makes_one(tmp_path, capsys):
    main(["list", str(tmp_path)])
    assert shown(capsys) == [f"No run is recorded below {tmp_path}. Make one: python train.py"]
    with pytest.raises(SystemExit):
        main(["list", str(tmp_path / "missing")])
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["list"], ["report", "--group", "--csv=-"], ["compare"]], ids=lambda words: words[0])
def test_reading_records_loads_nothing_heavy(runs, words):
    name, *options = words
    places = [str(runs / "q_v-s0-f"), str(runs / "qv_ffn-s0-f")] if name == "compare" else [str(runs)]
    code = (
        "import sys; from lorascope.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'wandb', 'hydra', 'datasets', 'peft'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, name, *places, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
