"""A study that is cut, or that several processes work at, comes to what one uninterrupted study comes to."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from helpers import run_train
from lorascope.records.store import load_runs
from lorascope.records.study_record import read_study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
ENTRY = [sys.executable, "-c", "from lorascope.cli.main import train; train()"]
PILOT = ["study.pilot.points=2", "study.pilot.shares=[1]", "study.pilot.extend=0"]


@pytest.fixture
def words(study_words):
    return [*study_words, *PILOT, "study.seeds=[1]"]


def at(words, folder):
    return [*(word for word in words if not word.startswith("runs_dir=")), f"runs_dir={folder}"]


def results(folder):
    """All that a study came to, without times and memory: metrics and steps of each run, and the study's own file."""
    found = {
        record.name: (str(record.status), record.metrics, record.plan, record.timing.get("steps"), record.fingerprint)
        for record in load_runs(folder)[0]
    }
    study = read_study(folder)
    return found, study.runs, study.rates, study.notes


def start(words, log):
    with log.open("a") as out:
        # sums of floats depend on how many threads make them
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*ENTRY, *words], stdout=out, stderr=subprocess.STDOUT, env=one_thread)


def records(folder):
    return len(list(folder.glob("*/run.json")))


@pytest.fixture
def uncut(tmp_path, monkeypatch):
    """What a study comes to in one go."""

    def results_of(words):
        assert run_train(monkeypatch, *at(words, tmp_path / "uncut")) == 0
        return results(tmp_path / "uncut")

    return results_of


def test_a_study_that_was_cut_at_any_point_ends_as_one_that_was_not(words, tmp_path, uncut):
    cut, log = tmp_path / "cut", tmp_path / "log"
    moments = random.Random(8)
    # let so many runs begin, and then a moment
    for number, runs in ((signal.SIGKILL, 1), (signal.SIGINT, 3), (signal.SIGKILL, 5)):
        process = start(at(words, cut), log)
        while process.poll() is None and records(cut) < runs:
            time.sleep(0.02)
        time.sleep(moments.random())
        process.send_signal(number)
        assert process.wait(timeout=120) in (-signal.SIGKILL, 75, 130, 0), log.read_text()
    done = {record.name: record.finished for record in load_runs(cut)[0] if str(record.status) == "done"}
    assert start(at(words, cut), log).wait(timeout=300) == 0, log.read_text()
    assert results(cut) == uncut(words)
    again = {record.name: record.finished for record in load_runs(cut)[0]}
    assert {name: again[name] for name in done} == done, "a finished run was repeated"


def test_several_processes_at_one_study_make_each_run_once(study_words, tmp_path, uncut):
    shared, log = tmp_path / "shared", tmp_path / "log"
    processes = [start(at(study_words, shared), log) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0], log.read_text()
    assert results(shared) == uncut(study_words)
    assert all(len(record.sessions) == 1 for record in load_runs(shared)[0])


def test_a_study_in_processes_of_their_own_ends_as_in_one(study_words, tmp_path, uncut):
    apart, log = tmp_path / "apart", tmp_path / "log"
    words = [*study_words, "study.seeds=[1]"]
    assert start([*at(words, apart), "execution=processes"], log).wait(timeout=300) == 0, log.read_text()
    assert results(apart) == uncut(words)
