import csv
import json
import subprocess
import sys

import pytest

from lorascope.cli.main import main
from lorascope.records.record import write_record
from reports.made_records import record


@pytest.fixture
def runs(tmp_path):
    for one in (record("q_v", 460_800, 1.7), record("qv_ffn", 1_221_120, 0.5), record("qkvo", 921_600, None)):
        (tmp_path / one.name).mkdir()
        write_record(one, tmp_path / one.name)
    return tmp_path


def test_the_table_is_sorted_by_eval_loss_and_the_unfinished_come_last(runs, capsys):
    main(["report", str(runs)])
    out = capsys.readouterr().out
    assert out.index("qv_ffn") < out.index("q_v ") < out.index("qkvo")
    for words in ("1,221,120", "0.5000", "6.0000", "8/4", "failed: ValueError: no", "1.0 GiB"):
        assert words in out
    assert "1 seed, one learning rate for all arms" in out


def test_the_plot_is_a_png(runs, capsys):
    main(["report", str(runs)])
    assert (runs / "eval_loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_json_is_the_same_rows(runs, capsys):
    main(["report", str(runs), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in rows] == ["qv_ffn", "q_v", "qkvo"]
    assert rows[0]["eval_loss"] == 0.5
    assert rows[2]["eval_loss"] is None
    assert not (runs / "eval_loss.png").exists()


def test_runs_that_cannot_be_compared_are_told(runs, capsys):
    other = record("ffn", 5, 0.1, fingerprint="g")
    (runs / other.name).mkdir()
    write_record(other, runs / other.name)
    main(["report", str(runs)])
    assert "2 different fingerprints" in capsys.readouterr().out


def test_seeds_get_a_column_when_they_differ(runs, capsys):
    other = record("q_v", 460_800, 1.9, seed=1)
    (runs / other.name).mkdir()
    write_record(other, runs / other.name)
    main(["report", str(runs)])
    assert "seed" in capsys.readouterr().out.splitlines()[1]


def test_a_damaged_record_is_told_and_the_rest_is_shown(runs, capsys):
    (runs / "bad").mkdir()
    (runs / "bad" / "run.json").write_text("{")
    main(["report", str(runs)])
    out, err = capsys.readouterr()
    assert "3 runs" in out
    assert "is damaged" in err


@pytest.mark.parametrize("place", ["missing", "empty"])
def test_a_folder_without_runs_is_one_message(tmp_path, place, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / place)])
    assert end.value.code == 1
    assert str(tmp_path / place) in capsys.readouterr().err


def test_report_and_plot_never_load_torch(runs):
    code = (
        "import sys; from lorascope.cli.main import main; main(['report', sys.argv[1]]); "
        "assert not {'torch', 'transformers', 'wandb', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_tasks_metrics_are_columns_and_means_over_seeds(tmp_path, capsys):
    from lorascope.cli.main import main
    from lorascope.evaluation.metrics import TASK_METRICS
    from lorascope.records.record import write_record

    for target, seed, value in (("q_v", 1, 0.2), ("q_v", 2, 0.4), ("ffn", 1, 0.9)):
        one = record(target, 100, 1.0, seed=seed)
        one.metrics["exact_match"] = TASK_METRICS["exact_match"].entry(value, 0.0)
        one.metrics["exact_match/control"] = TASK_METRICS["exact_match"].entry(0.01, 0.0)
        (tmp_path / one.name).mkdir()
        write_record(one, tmp_path / one.name)
    main(["report", str(tmp_path), "--sort", "exact_match"])
    lines = capsys.readouterr().out.splitlines()
    assert "exact_match" in lines[1]
    assert "control" not in lines[1]
    assert [line.split()[0] for line in lines[2:5]] == ["q_v", "q_v", "ffn"]
    main(["report", str(tmp_path), "--group", "--csv", "-"])
    heads, *rows = csv.reader(capsys.readouterr().out.splitlines())
    found = {row[heads.index("target")]: row for row in rows}
    assert float(found["q_v"][heads.index("metrics.exact_match")]) == pytest.approx(0.3)
    assert float(found["ffn"][heads.index("metrics.exact_match/control")]) == pytest.approx(0.01)
