"""A run that was cut and goes on is one W&B run with every step once, whether its sessions were online or offline."""

import json

import pytest

from lorascope.records.trackers.sync import send
from lorascope.records.trackers.wandb_files import sessions
from records.wandb_sessions import arrive, begin, cut, finish, log, logged_in

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
    assert [session.sent for session in sessions(tmp_path)] == [True, True]
    assert send(tmp_path).state == "nothing"


def test_offline_each_session_holds_other_steps_and_sync_sends_them_in_order(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(begin(tmp_path), *range(8))
    cut()
    go_on(tmp_path)
    first, second = sessions(tmp_path)
    assert first.file.name == second.file.name
    assert first.steps() == list(range(7))
    assert second.steps() == [7, 8, 9]
    assert send(tmp_path).state == "sent"
    name = only(server)
    assert [row["_step"] for row in server.runs[name]["lines"]] == list(range(10))
    assert "modules" in server.runs[name]["summary"]  # of the second session too
    assert send(tmp_path).state == "nothing"


def test_what_a_kill_left_unwritten_is_told_out_of_the_local_history(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(begin(tmp_path), *range(8))
    cut(flushed=False)
    assert len(sessions(tmp_path)[0].steps()) < 7
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


def test_a_session_that_comes_after_another_that_was_sent_twice_loses_no_step(server, tmp_path):
    """The server then counts more rows than there are steps, and W&B would take none below that number."""
    log(begin(tmp_path), *range(8))
    arrive(server, 7)
    cut()
    assert send(tmp_path).state == "sent"
    note = go_on(tmp_path)
    assert "it would begin at step 14, which this run has not reached" in note
    assert send(tmp_path).state == "sent"
    assert only(server) == json.loads((tmp_path / "wandb.json").read_text())["id"]
