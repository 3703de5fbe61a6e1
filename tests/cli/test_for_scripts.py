"""With -q and --json a script gets results and nothing else."""

import json
from pathlib import Path

import pytest

from helpers import run_train
from lorascope.cli import MODULES
from lorascope.cli.main import _without_script_flags, main
from lorascope.console import OUTPUT, console, printing, result, warn

TALKS = {"chat", "generate", "compare", "inspect", "serve"}  # what they print is what they are for


@pytest.fixture
def one_run(tiny_words, monkeypatch, capsys):
    """A run's folder, made without a word."""
    assert run_train(monkeypatch, "-q", *tiny_words) == 0
    told = capsys.readouterr()
    assert told.err == ""
    return Path(told.out.removesuffix("/run.json\n"))


def test_a_quiet_run_prints_its_records_path_alone_and_again_when_it_is_done(one_run, tiny_words, monkeypatch, capsys):
    assert (one_run / "run.json").is_file()
    assert run_train(monkeypatch, *tiny_words, "--quiet") == 0
    assert capsys.readouterr().out == f"{one_run / 'run.json'}\n"


def test_json_of_a_run_is_a_line_with_what_its_record_holds(one_run, tiny_words, monkeypatch, capsys):
    assert run_train(monkeypatch, "--json", *tiny_words) == 0
    (line,) = capsys.readouterr().out.splitlines()
    row, record = json.loads(line), json.loads((one_run / "run.json").read_text())
    assert row["record"] == str(one_run / "run.json")
    assert (row["status"], row["run_id"]) == ("done", record["run_id"])
    assert row["eval_loss"] == record["metrics"]["eval_loss"]["value"]


def test_the_flags_change_no_run(one_run, tiny_words, monkeypatch, capsys):
    assert run_train(monkeypatch, *tiny_words) == 0  # without them it is found done
    assert "This run is done" in capsys.readouterr().out
    assert OUTPUT not in json.loads((one_run / "run.json").read_text()).get("environment", {})


def test_a_dry_run_as_json_is_its_plan(tiny_words, monkeypatch, capsys):
    assert run_train(monkeypatch, "--json", *tiny_words, "dry_run=true") == 0
    plan = json.loads(capsys.readouterr().out)
    # q and v of two layers at rank 8: v is grouped, 32 to 16
    assert plan["trainable_parameters"] == 2 * 8 * ((32 + 32) + (32 + 16))


def test_errors_are_told_all_the_same(tiny_words, monkeypatch, capsys):
    assert run_train(monkeypatch, "-q", *tiny_words, "train.epochs=-3") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "train.epochs" in told.err


def test_flags_may_stand_anywhere_but_in_the_place_of_a_value():
    assert _without_script_flags(["a=1", "-q", "-m"]) == (["a=1", "-m"], {"quiet": True})
    assert _without_script_flags(["--config-dir", "-q"]) == (["--config-dir", "-q"], {})


def test_who_asks_for_the_config_gets_it(monkeypatch, capsys):
    assert run_train(monkeypatch, "-q", "--cfg", "job", "seed=1234") == 0
    assert "seed: 1234" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_of_their_own_are_as_quiet(tiny_words, tmp_path):
    import os
    import subprocess
    import sys

    code = "from lorascope.cli.main import train; train()"
    words = ["-q", "-m", *tiny_words, "seed=1,2", "train.max_steps=1", "execution=processes"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    assert all(Path(line).is_file() for line in done.stdout.splitlines())


def study(tmp_path, tiny_words):
    arms = "{q_v: 'target=q_v', qkvo: 'target=qkvo'}"
    return [
        *tiny_words,
        "-m",
        "train.max_steps=2",
        f"study.arms={arms}",
        "study.seeds=[1,2]",
        "study.pilot.points=0",
        "study.tasks={airports: {metric: eval_loss}}",
        f"runs_dir={tmp_path / 'study'}",
    ]


def test_a_quiet_study_prints_its_folder_and_as_json_what_its_report_says(tmp_path, tiny_words, monkeypatch, capsys):
    words = study(tmp_path, tiny_words)
    assert run_train(monkeypatch, "-q", *words) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{tmp_path / 'study'}\n", "")
    assert run_train(monkeypatch, "--json", *words) == 0
    found = json.loads(capsys.readouterr().out)
    main(["report", "--json", str(tmp_path / "study")])
    assert found == json.loads(capsys.readouterr().out)
    main(["report", "-q", str(tmp_path / "study")])
    assert capsys.readouterr().out == f"{tmp_path / 'study' / 'report.html'}\n"


def test_a_studys_dry_run_as_json_names_its_arms(tmp_path, tiny_words, monkeypatch, capsys):
    assert run_train(monkeypatch, "--json", *study(tmp_path, tiny_words), "dry_run=true") == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert [arm["name"] for arm in arms] == ["q_v", "qkvo"]


def test_a_quiet_list_is_names_and_a_quiet_report_the_plots_path(one_run, capsys):
    main(["list", "-q", str(one_run.parent)])
    assert capsys.readouterr().out == f"{one_run.name}\n"
    main(["report", "-q", str(one_run.parent)])
    out = capsys.readouterr().out
    assert Path(out.removesuffix("\n")).suffix == ".png"
    assert len(out.splitlines()) == 1


def test_a_quiet_export_is_the_folder(one_run, tmp_path, capsys):
    main(["export", "-q", str(one_run), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    main(["sync", "-q", str(one_run)])
    assert capsys.readouterr().out == ""


def test_quiet_plans_and_previews_say_by_their_exit_code_whether_they_can_be(capsys):
    main(["plan", "-q", "target=q_v"])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as end:
        main(["plan", "-q", "target=q_v", "target.ranks.q=-2"])
    assert end.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("command", MODULES)
def test_every_command_that_has_something_to_leave_out_can_be_quiet(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert ("--quiet" in out) == (command not in TALKS)
    assert ("--json" in out) == (command != "chat")


def test_outside_of_the_flags_everything_is_printed_again(capsys):
    with printing(quiet=True):
        console().print("hidden")
        warn("hidden")
        result("place", dict)
        with printing(as_json=True):
            result("place", lambda: {"a": 1})
        result("place")
    console().print("shown")
    warn("shown")
    told = capsys.readouterr()
    assert told.out == 'place\n{"a": 1}\nplace\nshown\n'
    assert "hidden" not in told.err
    assert "shown" in told.err
