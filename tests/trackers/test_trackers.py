"""The choice of trackers, several at once, and that none of them can stop a run."""

import builtins
import importlib.util
import json
import time
from pathlib import Path

import pytest

from helpers import run_train
from lorascope.compose import compose
from lorascope.errors import ConfigError, RunError
from lorascope.records.record import Status
from lorascope.records.store import load_runs, open_run
from lorascope.run import execute
from lorascope.trackers import History, Trackers, check_installed, open_trackers


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
    monkeypatch.setattr("lorascope.session.load_base", lambda _: pytest.fail("the base was loaded"))
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

    def refuse(name, scope=None, *rest, **more):
        if name == "wandb" and str((scope or {}).get("__name__")).startswith("lorascope"):  # TRL imports it too
            raise ImportError("broken installation")
        return real(name, scope, *rest, **more)

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


def steps_of(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


def test_after_a_rewind_the_history_has_each_step_once(tmp_path):
    history = History(tmp_path)
    for step in (0, 1, 2, 2, 3):  # the trainer's loss and the eval loss of step 2
        history.log(step, {"loss": 1.0})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the process was killed here
    goes_on = History(tmp_path)
    goes_on.rewind(2)
    assert steps_of(tmp_path) == [0, 1, 2, 2]
    for step in (0, 3, 4):  # the base's loss is told again
        goes_on.log(step, {"loss": float("nan")})
    assert steps_of(tmp_path) == [0, 1, 2, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_a_rewind_that_fails_leaves_the_history_as_it_was(tmp_path, monkeypatch):
    history = History(tmp_path)
    history.log(1, {})
    history.log(2, {})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        history.rewind(1)
    assert steps_of(tmp_path) == [1, 2]


def test_a_history_that_is_not_there_yet_can_be_rewound(tmp_path):
    History(tmp_path).rewind(3)
    assert steps_of(tmp_path) == []


def test_a_rewind_reaches_those_that_heed_it_and_one_that_fails_stops_nobody():
    class Heeds(Fine):
        def rewind(self, step):
            self.heard.append(step)

    class Fails(Broken):
        def rewind(self, step):
            raise OSError("disk full")

    warned, heeds, fine = [], Heeds(), Fine()
    trackers = Trackers([fine, Fails(), heeds], warned.append)
    trackers.rewind(7)
    trackers.log(8, {})
    assert (heeds.heard, fine.heard) == ([7, {}], [{}])
    assert len(warned) == 1


def test_tensorboard_shows_each_step_once_after_a_rewind(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from lorascope.trackers.local import TensorBoard
    from trackers.wandb_sessions import a_record

    for steps, after in (((0, 1, 2, 3), None), ((2, 3, 4), 1)):
        tracker = TensorBoard(a_record(), tmp_path, {})
        if after is not None:
            tracker.rewind(after)
        for step in steps:
            tracker.log(step, {"loss": float(step)})
        tracker.finish(a_record())
        time.sleep(1.1)  # the event files are named and ordered by the second
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3, 4]
