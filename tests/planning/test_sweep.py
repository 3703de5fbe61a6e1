"""Runs of one `-m`: planned before the first, sharing a base, each the same as alone."""

import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from helpers import run_train
from lorascope.compose import compose
from lorascope.records.store import load_runs
from lorascope.run import execute

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def loads(monkeypatch):
    """How often a base was loaded."""
    import lorascope.session as sessions

    load, seen = sessions.load_base, []

    def counting(config):
        seen.append(str(config.quantization.scheme))
        return load(config)

    monkeypatch.setattr(sessions, "load_base", counting)
    return seen


def test_a_sweep_loads_its_base_once_and_its_runs_are_those_of_single_commands(
    tiny_words, tmp_path, monkeypatch, loads
):
    words = [*tiny_words, "train.max_steps=3"]
    assert run_train(monkeypatch, "-m", *words, "target=q_v,qv_ffn", "seed=1,2") == 0
    assert loads == ["none"]
    records, _ = load_runs(tmp_path / "runs")
    for record in records:
        own = [f"target={record.config['target']['name']}", f"seed={record.config['seed']}"]
        again = execute(compose([*words, *own, f"runs_dir={tmp_path / 'alone'}"]))
        assert again.metrics == record.metrics
        files = [
            load_file(tmp_path / folder / record.name / "adapter" / "adapter_model.safetensors")
            for folder in ("runs", "alone")
        ]
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def test_all_runs_are_planned_before_the_first_and_done_ones_said(tiny_words, monkeypatch, capsys):
    words = [*tiny_words, "train.max_steps=1"]
    assert run_train(monkeypatch, *words, "target=q_v") == 0
    capsys.readouterr()
    assert run_train(monkeypatch, "-m", *words, "target=q_v,qkvo") == 0
    out = capsys.readouterr().out
    head, first, second = (next(line for line in out.splitlines() if word in line)
                           for word in ("2 runs", "target=q_v ", "target=qkvo "))  # fmt: skip
    assert "1 done" in head
    assert first.split()[1] == "1,792"
    assert first.rstrip().endswith("done")
    assert second.split()[1] == "3,584"
    assert out.index(second) < out.index("This run is done")


def test_a_run_that_cannot_be_is_said_before_the_first_and_the_others_are_made(tiny_words, monkeypatch, capsys):
    words = [*tiny_words, "train.max_steps=1"]
    assert run_train(monkeypatch, "-m", *words, "target=q_v", "target.layers=all,0-9") != 0
    out = capsys.readouterr().out
    assert "1 cannot be run" in out
    told = next(line for line in out.splitlines() if line.startswith("target.layers=0-9"))
    assert "out of range" in told
    assert out.index(told) < out.index("base eval loss")
    assert [str(record.status) for record in load_runs(compose(tiny_words).runs_dir)[0]] == ["done"]


def test_a_sweep_over_bases_loads_each_once(tiny_words, monkeypatch, loads):
    words = [*tiny_words, "train.max_steps=1"]
    assert run_train(monkeypatch, "-m", *words, "quantization=none,nf4", "target=q_v,qkvo") == 0
    assert loads == ["none", "nf4"]


def test_a_sweep_in_processes_of_their_own_ends_as_in_one(tiny_words, tmp_path, monkeypatch, capfd):
    words = [*tiny_words, "train.max_steps=2", "target=q_v", "+train.sft.optim=adamw_torch,nonsense"]
    assert run_train(monkeypatch, "-m", *words, "execution=processes") != 0
    err = capfd.readouterr().err
    assert "1 of 2 runs did not end well" in err
    assert err.count("SFTConfig refuses it") == 1
    apart = {record.name: record.metrics for record in load_runs(tmp_path / "runs")[0] if record.metrics}
    assert run_train(monkeypatch, "-m", *words, f"runs_dir={tmp_path / 'shared'}") != 0
    shared = {record.name: record.metrics for record in load_runs(tmp_path / "shared")[0] if record.metrics}
    assert len(apart) == 1
    assert apart == shared


def test_a_sweep_that_was_killed_loses_the_running_run_alone(tiny_words, tmp_path, monkeypatch):
    words = ["-m", *tiny_words, "train.max_steps=40", "train.save_steps=5", "target=q_v,qv_ffn"]
    entry = [sys.executable, "-c", "from lorascope.cli.main import train; train()", *words]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(entry, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while process.poll() is None and not list(tmp_path.glob("runs/qv_ffn*/checkpoints/*10")):
            time.sleep(0.02)
        process.kill()
        process.wait()
    before = {record.name: record for record in load_runs(tmp_path / "runs")[0]}
    assert sorted(str(record.status) for record in before.values()) == ["done", "running"], (
        tmp_path / "log"
    ).read_text()
    assert run_train(monkeypatch, *words) == 0
    after = {record.name: record for record in load_runs(tmp_path / "runs")[0]}
    assert [str(record.status) for record in after.values()] == ["done", "done"]
    for name, record in before.items():
        if str(record.status) == "done":
            assert after[name] == record
        else:
            assert after[name].sessions[-1]["from_step"] >= 5
    assert run_train(monkeypatch, *words, f"runs_dir={tmp_path / 'uncut'}") == 0
    uncut = {record.name: record.metrics for record in load_runs(tmp_path / "uncut")[0]}
    assert {name: record.metrics for name, record in after.items()} == uncut


def test_a_plans_memory_is_of_the_rows_that_there_are_not_of_the_longest_that_may_be(tiny_words, capsys):
    words = [*tiny_words, "target=q_v"]
    record = execute(compose([*words, "train.max_steps=1"]))
    length = record.memory["predicted"]["length"]
    assert length < 512
    capsys.readouterr()
    execute(compose([*words, "dry_run=true", "overwrite=true"]))
    assert f"(batch 4 x {length})" in capsys.readouterr().out


def test_a_bound_of_the_memory_is_told_as_one(tiny_words, monkeypatch, capsys):
    def memory(*words):
        capsys.readouterr()
        run_train(monkeypatch, "-m", *tiny_words, "train.max_steps=1", "target=q_v,qkvo", *words)
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("target=q_v "))

    assert "  ~ " in memory()
    assert "up to" in memory("model=mistral7b", "model.path=mistralai/Mistral-7B-v0.3")
