"""lorascope sync: what is sent, what is not and why, and that nothing is sent twice or forgotten."""

import fcntl
import json
import shutil
import time

import pytest

from lorascope.cli.main import main
from trackers.wandb_sessions import begin, finish, left_processes, log, logged_in


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    """The folder of a run whose W&B run was offline."""
    folder = tmp_path_factory.mktemp("offline") / "a-run"
    with pytest.MonkeyPatch.context() as patch, logged_in(patch):
        patch.setenv("WANDB_MODE", "offline")
        trackers = begin(folder)
        log(trackers, 0, 1, 2)
        finish(trackers)
    return folder


@pytest.fixture
def runs(offline_run, tmp_path):
    shutil.copytree(offline_run, tmp_path / "runs" / "a-run")
    return tmp_path / "runs"


@pytest.fixture
def server(monkeypatch):
    with logged_in(monkeypatch) as fake:
        yield fake


@pytest.fixture
def sync(capsys):
    def run(*words) -> tuple[int, list[str]]:
        """The exit code and the lines of `lorascope sync`."""
        code = 0
        try:
            main(["sync", *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, (told.out + told.err).splitlines()

    return run


def test_it_sends_once_and_says_what_it_would_send(runs, server, sync):
    assert sync(runs, "--dry-run") == (0, ["to send          a-run  3 rows"])
    assert server.requests == []
    code, lines = sync(runs)
    (name,) = server.runs
    assert (code, lines) == (0, [f"sent             a-run  http://127.0.0.1:{server.port}/me/lorascope/runs/{name}"])
    assert list(server.steps(name)) == [0, 1, 2]
    asked = len(server.requests)
    assert sync(runs / "a-run") == (0, ["nothing to send  a-run"])
    assert len(server.requests) == asked


def test_what_the_environment_says_of_a_training_does_not_keep_it_from_being_sent(runs, server, sync, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    monkeypatch.chdir(runs)
    assert sync(".")[0] == 0
    (name,) = server.runs
    assert name == json.loads((runs / "a-run" / "wandb.json").read_text())["id"]
    assert [path.name for path in runs.iterdir()] == ["a-run"]


def test_without_a_key_it_says_where_one_comes_from(runs, server, sync, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    code, lines = sync(runs)
    assert code == 2
    assert lines == [
        "WANDB_API_KEY: no key is configured, so nothing can be sent to W&B.",
        "  Run: wandb login, or set WANDB_API_KEY. Then repeat this command.",
    ]
    assert sync(runs, "--dry-run")[0] == 0


@pytest.mark.parametrize("spare", ["", "UpsertBucket|RunResumeStatus"])
def test_a_refusal_is_told_and_what_was_refused_is_still_to_be_sent(spare, runs, server, sync):
    server.spare = spare
    server.turn("401")
    code, (line,) = sync(runs)
    assert code == 1
    assert line.startswith("failed           a-run  ")
    assert ("W&B did not take all of it" if spare else "said the fake: 401") in line
    assert sync(runs, "--dry-run")[1][0].startswith("to send")


def test_it_has_an_end_and_leaves_no_process(runs, server, sync):
    server.turn("hang")
    began = time.monotonic()
    assert sync(runs, "--timeout", 2) == (1, ["failed           a-run  took longer than 2 s"])
    assert time.monotonic() - began < 8
    assert "python" not in " ".join(left_processes(str(runs)))


def test_of_many_runs_it_does_not_try_all_when_the_server_takes_none(runs, server, sync):
    for name in ("b-run", "c-run", "d-run"):
        shutil.copytree(runs / "a-run", runs / name)
    server.turn("401")
    code, lines = sync(runs)
    assert code == 1
    assert [line.split()[0] for line in lines] == ["failed", "failed", "The"]
    assert lines[-1] == "The rest is not tried: two runs failed alike."


def test_a_run_that_is_at_work_is_left_alone(runs, server, sync):
    with (runs / "a-run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sync(runs) == (0, ["still running    a-run"])
        assert sync(runs, "--dry-run") == (0, ["still running    a-run"])
    assert server.runs == {}


def test_a_history_that_ends_within_a_row_is_sent_up_to_there_and_an_empty_one_is_nothing(runs, server, sync):
    shutil.copytree(runs / "a-run", runs / "b-run")
    history = runs / "a-run" / "history.jsonl"
    history.write_bytes(history.read_bytes()[:-9])
    (runs / "b-run" / "history.jsonl").write_bytes(b"")
    code, lines = sync(runs)
    assert code == 0
    assert [line[:15] for line in lines] == ["sent           ", "nothing to send"]
    (name,) = server.runs
    assert list(server.steps(name)) == [0, 1]
    assert sync(runs)[1][0].startswith("nothing to send")


def test_it_sends_the_config_the_summary_the_table_and_the_end(runs, server, sync):
    assert sync(runs)[0] == 0
    (run,) = server.runs.values()
    assert run["displayName"] == "a-run"
    assert run["config"]["target"]["value"]["name"] == "q_v"
    assert {"eval_loss": 0.5, "base_eval_loss": 1.5, "status": "done"}.items() <= run["summary"].items()
    assert any("modules" in file for file in run["files"])
    assert run["exit_code"] == 0


def test_it_leaves_in_the_folder_but_a_mark_of_what_was_sent(runs, server, sync):
    before = {path for path in runs.rglob("*") if path.name != ".lock"}
    assert sync(runs)[0] == 0
    assert {path for path in runs.rglob("*") if path.name != ".lock"} == before
    assert json.loads((runs / "a-run" / "wandb.json").read_text())["sent"] == 3


def test_a_run_whose_record_is_damaged_is_told_and_the_others_are_sent(runs, server, sync):
    shutil.copytree(runs / "a-run", runs / "b-run")
    (runs / "a-run" / "run.json").write_text("{")
    code, lines = sync(runs)
    assert code == 1
    assert lines[0].startswith("failed           a-run  is damaged")
    assert lines[1].startswith("sent             b-run")


def test_a_run_that_wanted_no_wandb_is_not_sent(server, sync, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trackers = begin(tmp_path / "a-run")
    log(trackers, 0, 1)
    finish(trackers)
    monkeypatch.delenv("WANDB_MODE")
    assert sync(tmp_path) == (0, [f"No W&B run is kept below {tmp_path}."])


def test_places_without_runs(tmp_path, sync):
    assert sync(tmp_path) == (0, [f"No W&B run is kept below {tmp_path}."])
    code, lines = sync(tmp_path / "none")
    assert code == 1
    assert "is not a folder" in lines[0]
