"""W&B's server fails, hangs or refuses: the run goes on, in time, nothing is lost, and all can be sent later."""

import json
import time

import pytest

from lorascope.trackers import wandb
from lorascope.trackers.wandb_sync import look, send
from trackers.wandb_files import read_wandb, sessions, steps
from trackers.wandb_sessions import KEY, a_record, arrive, begin, finish, kill_core, log, logged_in

TROUBLES = ("down", "hang", "500", "401")
SHORT = 1  # second: what a run waits where the server is in trouble
BOUND = 20  # seconds, on a machine that may be busy; W&B waits 90 for the start, and for the end for ever


@pytest.fixture
def server(monkeypatch):
    with logged_in(monkeypatch) as fake:
        yield fake


def exit_codes(session) -> list[int]:
    return [record.exit.exit_code for record in read_wandb(session) if record.HasField("exit")]


def test_an_online_run_arrives_and_is_known_to_be_sent(server, tmp_path):
    trackers = begin(tmp_path)
    log(trackers, 0, 1, 2)
    note = finish(trackers)
    (name,) = server.runs
    run = server.runs[name]
    assert run["config"]["target"]["value"]["name"] == "q_v"
    assert run["displayName"] == "a-run"
    assert [(row["_step"], row["loss"]) for row in run["lines"]] == [(0, 1), (1, 2), (2, 3)]
    assert {"eval_loss": 0.5, "base_eval_loss": 1.5, "status": "done"}.items() <= run["summary"].items()
    assert any("modules" in file for file in run["files"])
    assert run["exit_code"] == 0
    assert note == f"W&B     http://127.0.0.1:{server.port}/me/lorascope/runs/{name}"
    assert send(tmp_path).state == "nothing"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_at_the_start_makes_the_run_offline_under_the_same_id(trouble, server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(wandb, "INIT_SECONDS", SHORT)
    server.turn(trouble)
    began = time.monotonic()
    trackers = begin(tmp_path)
    log(trackers, 0, 1, 2)
    note = finish(trackers)
    assert time.monotonic() - began < BOUND
    assert note.startswith(
        "W&B     offline (it refused: " if trouble == "401" else "W&B     offline (it did not answer"
    )
    assert note.endswith(f"); send it later with: lorascope sync {tmp_path}")
    assert "\n" not in note
    assert KEY not in note
    assert capfd.readouterr().err == ""  # of W&B's own lines
    (session,) = sessions(tmp_path)
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] in session.name
    assert session.parent.name.startswith("offline-")
    assert set(steps(session)) == {0, 1, 2}
    assert exit_codes(session) == [0]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_in_the_middle_is_told_in_one_line_and_all_is_kept(trouble, server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(wandb, "FINISH_SECONDS", SHORT)
    trackers = begin(tmp_path)
    log(trackers, 0, 1, 2)
    server.turn(trouble)
    log(trackers, *range(3, 50))
    began = time.monotonic()
    note = finish(trackers)
    assert time.monotonic() - began < BOUND
    assert note.endswith(f" did not take all of it; send the rest with: lorascope sync {tmp_path}")
    assert "\n" not in note
    assert capfd.readouterr().err == ""
    (session,) = sessions(tmp_path)
    assert set(steps(session)) == set(range(50))
    assert exit_codes(session) == [0]
    assert look(tmp_path).state == "unsent"


def test_what_an_outage_kept_from_being_sent_is_sent_later_and_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "FINISH_SECONDS", SHORT)
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
    trackers = begin(tmp_path)
    log(trackers, 0, 1, 2)
    arrive(server, 2)
    server.turn("down")
    log(trackers, *range(3, 50))
    finish(trackers)
    server.turn("up")
    outcome = send(tmp_path)
    (name,) = server.runs
    assert (outcome.state, outcome.detail) == ("sent", f"http://127.0.0.1:{server.port}/me/lorascope/runs/{name}")
    assert list(server.steps(name)) == list(range(50))
    assert server.runs[name]["exit_code"] == 0
    assert server.runs[name]["summary"]["eval_loss"] == 0.5
    asked = len(server.requests)
    assert send(tmp_path).state == "nothing"
    assert len(server.requests) == asked


def test_an_outage_that_passes_is_nothing_to_tell(server, tmp_path):
    trackers = begin(tmp_path)
    log(trackers, 0, 1)
    server.turn("down")
    log(trackers, 2, 3)
    server.turn("up")
    log(trackers, 4)
    assert "send" not in finish(trackers)
    (name,) = server.runs
    assert list(server.steps(name)) == [0, 1, 2, 3, 4]


def test_a_server_that_hangs_right_after_it_took_the_run_does_not_hold_it_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "FINISH_SECONDS", SHORT)
    server.spare = "UpsertBucket"
    server.turn("hang")
    began = time.monotonic()
    trackers = begin(tmp_path)
    log(trackers, 0, 1, 2)
    assert "send the rest with" in finish(trackers)
    assert time.monotonic() - began < BOUND


def test_the_end_of_w_and_bs_own_process_is_not_the_runs(server, tmp_path, capfd):
    warned: list[str] = []
    trackers = begin(tmp_path, warned)
    log(trackers, 0, 1)
    kill_core()
    log(trackers, 2, 3)
    finish(trackers)
    (told,) = warned
    assert f"what it holds is sent with: lorascope sync {tmp_path}" in told
    assert send(tmp_path).state == "sent"
    (name,) = server.runs
    assert list(server.steps(name)) == [0, 1, 2, 3]
    assert [json.loads(line)["step"] for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [0, 1, 2, 3]
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_of_somebody_else_is_not_ended(server, tmp_path, monkeypatch):
    import wandb as package

    monkeypatch.setattr(wandb, "INIT_SECONDS", SHORT)
    quiet = package.Settings(silent=True, disable_git=True)
    theirs = package.init(mode="offline", dir=tmp_path, settings=quiet)
    server.turn("down")
    trackers = begin(tmp_path / "ours")
    log(trackers, 0, 1)
    trackers.finish(a_record("done"))
    theirs.log({"still": "there"})
    theirs.finish()
    package.teardown()
    server.turn("up")
    assert send(tmp_path / "ours").state == "sent"
    assert list(server.runs) == [json.loads((tmp_path / "ours" / "wandb.json").read_text())["id"]]
