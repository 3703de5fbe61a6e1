"""A study that is cut, or that several processes work at, comes to what one uninterrupted study comes to."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from lorascope.records.store import load_runs
from lorascope.studies.study import read_study

ENTRY = [sys.executable, "-c", "from lorascope.cli import train; train()"]
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


def start(words):
    return subprocess.Popen([*ENTRY, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def records(folder):
    return len(list(folder.glob("*/run.json")))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_study_that_was_cut_at_any_point_ends_as_one_that_was_not(number, words, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(at(words, whole)).wait(timeout=300) == 0
    seed = random.Random(int(number))
    for runs in (1, 3, 5):  # let so many more begin, and then a moment
        process = start(at(words, cut))
        while process.poll() is None and records(cut) < runs:
            time.sleep(0.02)
        time.sleep(seed.random())
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 75, 130, 0), told
    trained = {record.name: record.finished for record in load_runs(cut)[0] if str(record.status) == "done"}
    last = start(at(words, cut))
    told, _ = last.communicate(timeout=300)
    assert last.returncode == 0, told
    assert results(cut) == results(whole)
    again = {record.name: record.finished for record in load_runs(cut)[0]}
    assert {name: again[name] for name in trained} == trained, "a finished run was repeated"


def test_several_processes_at_one_study_make_each_run_once(words, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert start(at(words, alone)).wait(timeout=300) == 0
    processes = [start(at(words, shared)) for _ in range(2)]
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert results(shared) == results(alone)
    assert all(len(record.sessions) == 1 for record in load_runs(shared)[0])


def test_a_study_in_processes_of_their_own_ends_as_in_one(words, tmp_path):
    shared, apart = tmp_path / "shared", tmp_path / "apart"
    words = [word for word in words if not word.startswith("study.pilot")] + ["study.pilot.points=0"]
    assert start(at(words, shared)).wait(timeout=300) == 0
    process = start([*at(words, apart), "execution=processes"])
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert results(apart) == results(shared)
    shutil.rmtree(shared)
