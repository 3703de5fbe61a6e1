"""The choice of trackers, several at once, and that none of them can stop a run."""

import builtins
import importlib.util
from pathlib import Path

import pytest

from helpers import run_train
from lorascope.compose import compose
from lorascope.errors import ConfigError, RunError
from lorascope.records.record import Status
from lorascope.records.store import load_runs, open_run
from lorascope.records.trackers import Trackers, check_installed, open_trackers
from lorascope.run import execute


def enabled(*words: str) -> set[str]:
    logger = compose(words).logger
    return {name for name in ("wandb", "tensorboard", "trackio") if getattr(logger, name).enabled}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], {"wandb"}),
        (["logger=none"], set()),
        (["logger=tensorboard"], {"tensorboard"}),
        (["logger=[wandb,tensorboard]"], {"wandb", "tensorboard"}),
        (["logger=[trackio,tensorboard,wandb]"], {"wandb", "tensorboard", "trackio"}),
        (["logger=[wandb,tensorboard]", "logger.wandb.enabled=false"], {"tensorboard"}),
        (["logger.tensorboard.enabled=true"], {"wandb", "tensorboard"}),
    ],
)
def test_one_tracker_or_several_are_chosen(words, names):
    assert enabled(*words) == names


@pytest.fixture
def without(monkeypatch):
    """Takes packages away from `importlib.util.find_spec`."""
    find = importlib.util.find_spec

    def take(*names: str) -> None:
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
        )

    return take


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_one_message_before_anything_is_loaded(name, tiny_words, without, monkeypatch, capsys):
    without(name)
    monkeypatch.setattr("lorascope.run.load_base", lambda _: pytest.fail("the base was loaded"))
    words = [word for word in tiny_words if word != "logger=none"]
    assert run_train(monkeypatch, *words, f"logger=[wandb,{name}]") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"logger={name}: the package {name} is not installed.\n")
    assert "pip install 'lorascope[trackers]'" in err
    assert not Path(compose(words).runs_dir).exists()


def test_a_package_that_is_not_wanted_may_be_missing(without):
    without("tensorboard", "trackio")
    check_installed(compose([]).logger)
    with pytest.raises(ConfigError):
        check_installed(compose(["logger=tensorboard"]).logger)


class Broken:
    note = "never to be read"

    def log(self, step, values):
        raise OSError("disk full")

    def finish(self, record):
        raise AssertionError("it was dropped")


class Fine:
    note = "look here"

    def __init__(self):
        self.heard = []

    def log(self, step, values):
        self.heard.append(values)

    def finish(self, record):
        self.heard.append(record)


def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on():
    warned, fine = [], Fine()
    trackers = Trackers([Broken(), fine], warned.append)
    trackers.log(1, {})
    trackers.log(2, {})
    trackers.finish(None)
    assert len(fine.heard) == 3
    assert len(warned) == 1
    assert "disk full" in warned[0]
    assert list(trackers.notes) == ["look here"]


def test_a_warning_holds_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_distinctive")

    class Leaky(Broken):
        def log(self, step, values):
            raise OSError("401 for hf_distinctive")

    warned: list[str] = []
    Trackers([Leaky()], warned.append).log(1, {})
    assert "401 for [redacted]" in warned[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), Status.preempted), (ValueError("no"), Status.failed), (MemoryError(), Status.oom)],
)
def test_a_tracker_hears_how_a_run_ended_that_did_not_end_well(error, status, tiny_words):
    fine = Fine()

    def run() -> None:
        with open_run(compose(tiny_words)) as (record, _):
            try:
                raise error
            finally:
                Trackers([fine], pytest.fail).finish(record)

    with pytest.raises((type(error), RunError)):
        run()
    ((record,), _) = load_runs(compose(tiny_words).runs_dir)
    assert fine.heard[0].status is record.status is status


def test_a_tracker_that_cannot_start_is_left_out_and_the_run_goes_on(tiny_words, monkeypatch, capsys):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "wandb":
            raise ImportError("broken installation")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    record = execute(compose([*(word for word in tiny_words if word != "logger=none"), "train.max_steps=1"]))
    assert record.status is Status.done
    assert "Wandb could not start (broken installation)" in capsys.readouterr().err


def test_the_history_is_always_there(tiny_words):
    config = compose(tiny_words)
    with open_run(config) as (record, folder):
        trackers = open_trackers(config.logger, record, folder, {}, pytest.fail)
        trackers.log(3, {"loss": 1.5})
    assert (folder / "history.jsonl").read_text() == '{"step": 3, "loss": 1.5}\n'
