"""Following a study: its files change between two looks, and the lines tell of it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from lorascope.formats import duration
from lorascope.records.record import RunRecord, Status, write_record
from lorascope.records.study_record import Study, write_study
from lorascope.study.progress import Reader, Seen, look
from lorascope.study.watch import fitting, watch, words
from reports.made_studies import a_record, around, keep, make

START = 1_767_225_600.0  # 2026-01-01T00:00:00 UTC, when made records started


def at_work(seed: int, started: str = "2026-01-01T00:00:00+00:00") -> RunRecord:
    one = a_record("ffn", "airports", seed, None)
    one.status, one.error, one.started = Status.running, None, started
    one.config["train"] |= {"epochs": 2.0, "max_steps": None}
    one.sessions = [{"started": started}]
    return one


@pytest.fixture
def study(tmp_path) -> tuple[Path, Study]:
    """Five runs of q_v are done, of 60 s each; of ffn one is at work, one failed, and three are queued."""
    values = {"q_v": around(0.3), "ffn": dict.fromkeys(range(1, 6))}
    made = make(tmp_path, {"airports": values}, finished=None, missing=["7-s3", "8-s4", "9-s5"])
    rows = [{"step": 0, "eval_loss": 6.0}, {"step": 10, "loss": 2.5, "epoch": 0.5}]
    keep(tmp_path, at_work(1), "5-s1", rows)
    for path in tmp_path.glob("5-s1/*"):
        os.utime(path, (START, START + 100))
    return tmp_path, made


def test_each_run_is_seen_with_its_state_step_loss_and_time(study):
    folder, _ = study
    now = look(Reader(folder), START + 100)
    seen = {one.name: one for one in now.runs}
    assert [one.state for one in now.runs] == ["done"] * 5 + ["running", "failed"] + ["queued"] * 3
    assert (seen["0-s1"].loss, seen["0-s1"].seconds) == (1 - around(0.3)[1], 60.0)
    one = seen["5-s1"]
    assert (one.step, one.steps, one.loss) == (10, 40, 2.5)  # half an epoch of two
    assert one.left == pytest.approx(300)  # ten steps took 100 s, thirty are left
    assert words(one) == "step 10 of 40, loss 2.5, about 5 min left"
    assert words(seen["6-s2"]) == "ValueError: no"
    assert words(seen["0-s1"]) == "eval loss 0.7, 60 s"
    # the one at work, and three queued ones that will take what those of the task took
    assert now.left == pytest.approx(300 + 3 * 60)


def test_what_is_queued_is_shared_by_the_runs_that_are_at_work_and_short_runs_count_less(study):
    folder, made = study
    keep(folder, at_work(3), "7-s3", [{"step": 10, "loss": 2.5, "epoch": 0.5}])
    short = [dataclasses.replace(run, steps=0.25) if run.name == "9-s5" else run for run in made.runs]
    write_study(dataclasses.replace(made, runs=short), folder)
    now = look(Reader(folder), START + 100)
    assert now.left == pytest.approx((300 + 300 + 60 + 0.25 * 60) / 2)


def test_a_run_that_went_on_from_a_checkpoint_is_timed_from_there(study):
    folder, _ = study
    one = at_work(1, "2026-01-01T00:01:00+00:00")
    one.sessions = [{"started": "2025-12-01T00:00:00+00:00"}, {"started": one.started, "from_step": 6}]
    keep(folder, one, "5-s1", [{"step": 10, "loss": 2.5, "epoch": 0.5}])
    now = look(Reader(folder), START + 100)
    assert now.runs[5].left == pytest.approx(30 * 40 / 4)  # four steps took 40 s


def test_a_run_that_wrote_nothing_for_long_is_told(study):
    folder, _ = study
    assert "nothing heard for 15 min" in words(look(Reader(folder), START + 1000).runs[5])
    assert "nothing heard" not in words(look(Reader(folder), START + 200).runs[5])


def test_a_record_is_read_again_only_when_its_file_changed(study, monkeypatch):
    from lorascope.study import progress

    folder, _ = study
    read = []
    real = progress.read_record
    monkeypatch.setattr(progress, "read_record", lambda place: read.append(place.name) or real(place))
    reader = Reader(folder)
    look(reader, START)
    assert len(read) == 7
    read.clear()
    look(reader, START)
    assert not read
    write_record(a_record("ffn", "airports", 1, 0.123), folder / "5-s1")
    assert look(reader, START).runs[5].state == "done"
    assert read == ["5-s1"]


def test_lines_tell_what_changed_and_the_watching_ends_with_the_study(study):
    folder, made = study
    out = io.StringIO()

    def sleep(seconds: float) -> None:
        assert seconds == 3
        if "9-s5" not in {path.parent.name for path in folder.glob("*/run.json")}:
            for run in made.runs[5:]:
                keep(folder, a_record("ffn", "airports", run.seed, 0.5), run.name)
        else:
            write_study(dataclasses.replace(made, finished="2026-01-02T00:00:00+00:00"), folder)

    assert watch(folder, Console(file=out, width=200), 3, sleep=sleep, clock=lambda: START + 100)
    lines = out.getvalue().splitlines()
    assert lines[5] == "running    5-s1  step 10 of 40, loss 2.5, about 5 min left"
    assert lines[6] == "failed     6-s2  ValueError: no"
    assert lines[7] == "study      5 of 10 runs done, 1 running, 1 failed, 3 queued, about 8 min left"
    assert [line.split()[:2] for line in lines[8:13]] == [["done", run.name] for run in made.runs[5:]]
    assert lines[-1] == "study      10 of 10 runs done, finished"
    assert len(lines) == 5 + 2 + 1 + 5 + 1 + 1


def test_a_terminal_is_drawn_anew_and_never_over_its_edge(study):
    folder, made = study
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=60, height=8, legacy_windows=False)
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            write_study(dataclasses.replace(made, finished="2026-01-02T00:00:00+00:00"), folder)

    assert watch(folder, screen, 0, sleep=sleep, clock=lambda: START + 100)
    text = out.getvalue()
    assert "5-s1" in text
    assert "and 6 more" in text  # ten runs, and a line for the study and one for these words, on eight lines
    assert len(looks) == 3


def test_what_is_at_work_and_what_failed_is_seen_first():
    states = ["done"] * 4 + ["running", "failed"] + ["queued"] * 4
    runs = [Seen(name=str(index), state=state) for index, state in enumerate(states)]
    assert [one.name for one in fitting(runs, 2)] == ["4", "5"]
    assert [one.name for one in fitting(runs, 4)] == ["2", "3", "4", "5"]
    assert [one.name for one in fitting(runs, 7)] == ["0", "1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(12.3, "12 s"), (89, "89 s"), (600, "10 min"), (5340, "89 min"), (12000, "3 h 20 min")]
)
def test_times_are_read_at_a_glance(seconds, told):
    assert duration(seconds) == told


def test_ctrl_c_ends_the_watching_quietly(study):
    folder, _ = study
    code = "import sys; from lorascope.cli.main import main; main(['report', sys.argv[1], '--watch', '0.2'])"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("study"):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert (out, err) == ("", "")


def test_a_finished_study_is_shown_at_the_end(study, capsys):
    from lorascope.cli.main import main

    folder, made = study
    write_study(dataclasses.replace(made, finished="2026-01-02T00:00:00+00:00"), folder)
    main(["report", str(folder), "--watch"])
    out = capsys.readouterr().out
    assert "5 of 10 runs done" in out
    assert "to q_v (95 %)" in out
    assert not (folder / "report.json").exists()  # whoever makes the study writes its report
    assert json.loads((folder / "study.json").read_text())["finished"]
