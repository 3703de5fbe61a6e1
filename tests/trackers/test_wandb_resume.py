"""A run that was cut and goes on is one W&B run with every step once, whether its sessions were online or offline."""

import pytest

from lorascope.trackers.wandb_sync import send
from trackers.wandb_files import sessions, steps
from trackers.wandb_sessions import arrive, begin, cut, finish, log, logged_in

LATER = 1000.0  # added to what the second session logs


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")  # the least; W&B's own is 15
    with logged_in(monkeypatch) as fake:
        yield fake


def go_on(folder, after: int = 4, last: int = 9) -> str:
    """The second session: from the checkpoint of a step."""
    trackers = begin(folder)
    trackers.rewind(after)
    log(trackers, *range(after + 1, last + 1), loss=LATER)
    return finish(trackers)


def only(server) -> str:
    (name,) = server.runs
    assert server.runs[name]["exit_code"] == 0
    assert list(server.steps(name)) == list(range(10))
    assert all(row["step"] == step for step, row in server.steps(name).items())
    return name


@pytest.mark.parametrize("arrived", [True, False])
def test_online_the_server_gets_what_it_lacks_and_nothing_twice(arrived, server, tmp_path):
    trackers = begin(tmp_path)
    server.spare = "" if arrived else "UpsertBucket"
    server.turn("up" if arrived else "500")
    log(trackers, *range(8))
    if arrived:
        arrive(server, 7)
    cut()
    server.turn("up")
    note = go_on(tmp_path)
    name = only(server)
    assert name in note
    assert [row["_step"] for row in server.runs[name]["lines"]] == list(range(10))
    held = [step for step, row in server.steps(name).items() if row["loss"] < LATER]
    assert held == list(range(7 if arrived else 5))  # the last step before the kill was not complete
    assert "RunResumeStatus" in server.requests
    assert send(tmp_path).state == "nothing"


def test_offline_the_last_session_holds_every_step_and_sync_sends_each_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(begin(tmp_path), *range(8))
    cut()
    go_on(tmp_path)
    first, second = sessions(tmp_path)
    assert first.name == second.name
    assert steps(first) == list(range(7))
    assert steps(second) == list(range(10))
    assert send(tmp_path).state == "sent"
    name = only(server)
    assert [row["_step"] for row in server.runs[name]["lines"]] == list(range(10))
    assert "modules" in server.runs[name]["summary"]
    assert send(tmp_path).state == "nothing"


def test_what_a_kill_left_unwritten_is_told_out_of_the_local_history(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(begin(tmp_path), *range(8))
    cut(flushed=False)
    assert len(steps(sessions(tmp_path)[0])) < 7
    go_on(tmp_path, after=6)
    assert send(tmp_path).state == "sent"
    assert {step for step, row in server.steps(only(server)).items() if row["loss"] < LATER} == set(range(7))


def test_offline_first_and_online_then(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(begin(tmp_path), *range(8))
    cut()
    monkeypatch.delenv("WANDB_MODE")
    go_on(tmp_path)
    only(server)
    assert send(tmp_path).state == "nothing"


def test_online_first_and_offline_then(server, tmp_path):
    log(begin(tmp_path), *range(8))
    cut()
    server.turn("401")
    assert "offline" in go_on(tmp_path)
    server.turn("up")
    assert send(tmp_path).state == "sent"
    only(server)


def test_a_cut_run_that_was_sent_and_goes_on_is_told_from_there(server, tmp_path):
    log(begin(tmp_path), *range(8))
    arrive(server, 7)
    cut()
    assert send(tmp_path).state == "sent"
    (name,) = server.runs
    assert (list(server.steps(name)), server.runs[name]["exit_code"]) == (list(range(8)), 1)
    assert name in go_on(tmp_path)
    assert [row["_step"] for row in server.runs[only(server)]["lines"]] == list(range(10))
    assert send(tmp_path).state == "nothing"


def test_a_run_that_went_back_and_was_cut_again_is_still_the_same_run(server, tmp_path):
    """The server holds later steps than the local history then."""
    log(begin(tmp_path), *range(8))
    arrive(server, 7)
    cut()
    trackers = begin(tmp_path)
    trackers.rewind(4)
    cut()
    note = go_on(tmp_path)
    assert only(server) in note


def test_a_server_that_has_passed_more_steps_than_were_logged_is_told_offline(server, tmp_path):
    log(begin(tmp_path), *range(8))
    arrive(server, 7)
    cut()
    (run,) = server.runs.values()
    run["lines"] += [{"_step": step} for step in range(7, 14)]
    assert "it would begin at step 14, which this run has not reached" in go_on(tmp_path)
    outcome = send(tmp_path)
    assert (outcome.state, outcome.detail) == ("failed", "it would begin at step 14, which this run has not reached")
