"""What an offline W&B run of a study holds, read back from its own file; and that a study needs no W&B."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from lorascope.cli.main import main
from lorascope.records.record import read_record, write_record
from lorascope.reports.study_report import write_report
from reports.made_studies import ordinary
from trackers.test_wandb import read_offline_run
from trackers.wandb_files import sessions, steps
from trackers.wandb_sessions import logged_in


@pytest.fixture
def study(tmp_path):
    made = ordinary(tmp_path)
    for run in made.runs:
        one = read_record(tmp_path / run.name)
        wandb = {"enabled": True, "project": "placements", "entity": None, "mode": "auto"}
        one.config["logger"] = {"group": "a-study", "tags": ["nightly"], "wandb": wandb}
        write_record(one, tmp_path / run.name)
    return tmp_path


def told(folder) -> str:
    out = io.StringIO()
    write_report(folder, Console(file=out, width=118, soft_wrap=True), tell=True)
    import wandb

    wandb.teardown()  # as at the end of a process: by then all is written
    return out.getvalue()


def test_the_table_and_the_page_are_in_a_run_of_their_own_in_the_runs_group(study):
    out = told(study)
    assert "W&B     offline" in out
    assert f"lorascope sync {study}" in out
    found = read_offline_run(study)
    run = found["run"]
    assert (run.job_type, run.run_group, run.display_name) == ("study", "a-study", "placement")
    assert (run.project, list(run.tags)) == ("placements", ["nightly"])
    assert found["config"]["study"]["reference"] == "q_v"
    assert found["exit_code"] == 0
    assert any({"results", "report"} <= set(row) for row in found["history"])
    (file,) = (study / "wandb").glob("offline-run-*/files/media/table/results_*.table.json")
    table = json.loads(file.read_text())
    arms = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    verdicts = {(one["task"], one["arm"]): one["verdict"] for one in arms}
    assert verdicts["airports", "ffn"] == "better"
    assert verdicts["arithmetic", "ffn"] == "worse"
    (page,) = (study / "wandb").glob("offline-run-*/files/media/html/report_*.html")
    assert page.read_text() == (study / "report.html").read_text()


def test_a_study_that_is_reported_again_stays_the_same_wandb_run(study):
    told(study)
    told(study)
    first, second = sessions(study)
    assert first.name == second.name
    assert not set(steps(first)) & set(steps(second))  # else W&B would take the second for the first


def test_sync_sends_a_study_that_was_offline_once(study, monkeypatch, capsys):
    with logged_in(monkeypatch) as server:
        monkeypatch.setenv("WANDB_MODE", "offline")
        told(study)
        main(["sync", str(study), "--dry-run"])
        main(["sync", str(study)])
        main(["sync", str(study)])
        lines = [line.split()[0:2] for line in capsys.readouterr().out.splitlines()]
        assert lines == [["to", "send"], ["sent", study.name], ["nothing", "to"]]
    (run,) = server.runs.values()
    assert run["displayName"] == "placement"
    assert {"results", "report"} <= set(run["lines"][-1])
    assert any("report" in file for file in run["files"])
    assert run["exit_code"] == 0


def test_a_wandb_that_fails_never_fails_the_report(study, monkeypatch, capsys):
    import wandb

    def refuse(*words: object, **more: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(wandb, "init", refuse)
    told(study)
    assert (study / "report.html").exists()
    assert "W&B was not told of the study (the disk is full)" in " ".join(capsys.readouterr().err.split())


def test_a_study_whose_runs_told_nobody_tells_nobody(tmp_path):
    ordinary(tmp_path)
    told(tmp_path)
    assert not (tmp_path / "wandb").exists()


def test_a_report_that_is_only_looked_at_tells_nobody(study):
    write_report(study, Console(quiet=True))
    assert not (study / "wandb").exists()
