"""How long the rest of a study may take."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from rich.console import Console

from lorascope.records.study_record import FINAL, PILOT
from lorascope.study.schedule import State
from lorascope.study.watch import StudyProgress


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to."""
    clock = SimpleNamespace(now=1_700_000_000.0)
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


def run(steps, stage=FINAL):
    return SimpleNamespace(title=stage, entry=SimpleNamespace(steps=steps, stage=stage))


def done(at=None):
    finished = at and datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return State("done", SimpleNamespace(finished=finished, metric=lambda name: 1.0))


def study(finals, pilot=0):
    progress = StudyProgress(Console(quiet=True))
    progress.left |= {FINAL: finals, PILOT: pilot}
    return progress


def test_the_rest_takes_as_long_for_each_training_as_the_first_did(clock):
    progress = study(4)
    progress.begin(run(0.5))
    clock.now += 30
    progress.end([(run(0.5), done())], 30)
    assert progress.eta() == pytest.approx(3.5 * 60)


def test_what_another_process_made_meanwhile_makes_the_rest_shorter_and_what_was_there_before_does_not(clock):
    began = clock.now
    progress = study(10)
    progress.end([(run(1), done(began - 3600))], None)
    progress.end([(run(1), done(began - 1800))], None)
    assert progress.eta() is None
    progress.begin(run(1))
    clock.now += 60
    progress.end([(run(1), done())], 60)
    alone = progress.eta()
    progress.end([(run(1), done(began + 50))], None)
    assert alone == pytest.approx(7 * 60)
    assert progress.eta() == pytest.approx(6 * 30)


def test_a_pilot_that_needs_more_than_was_expected_takes_nothing_of_the_rest(clock):
    progress = study(6, pilot=1)
    progress.begin(run(1, PILOT))
    for _ in range(4):
        clock.now += 10
        progress.end([(run(1, PILOT), done())], 10)
    assert progress.eta() == pytest.approx(6 * 10)


def test_runs_of_one_batch_share_its_time(clock):
    progress = study(8)
    progress.begin(run(1))
    clock.now += 40
    progress.end([(run(1), done()) for _ in range(4)], 10)
    assert progress.eta() == pytest.approx(4 * 10)
