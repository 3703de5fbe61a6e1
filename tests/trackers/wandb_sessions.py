"""Sessions of a run that tell a W&B server of steps, without a model: begun, cut or finished, and none of them left."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trackers.fake_wandb import FakeWandb

KEY = "0123456789abcdef" * 2 + "DISTINCT"


@contextmanager
def logged_in(monkeypatch: Any) -> Iterator[FakeWandb]:
    """A server that this process is logged in to; at its end, none of the processes that know it is left."""
    import wandb

    from lorascope.trackers import wandb as tracker

    wandb.teardown()  # it remembers the server that an earlier test named
    fake = FakeWandb()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{fake.port}")
    monkeypatch.setattr(tracker, "FLUSH_SECONDS", 0.2)
    try:
        yield fake
    finally:
        fake.turn("up")
        wandb.teardown()
        fake.down()
    deadline = time.monotonic() + 3
    while left := left_processes(f"http://127.0.0.1:{fake.port}"):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def left_processes(word: str) -> list[str]:
    """The names of the processes that were started with the word in their environment, and live."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (process / "environ").read_bytes():
                found.append((process / "comm").read_text().strip())
    return found


@functools.cache
def config() -> Any:
    from lorascope.compose import compose

    return compose(["logger=wandb"])


def a_record(status: str = "running") -> Any:
    from lorascope.config.schema import as_dict
    from lorascope.records.record import RunRecord, Status

    numbers = dict.fromkeys(("layer", "rank", "alpha", "scale", "parameters"), 1)
    plan = {"modules": [{"name": "layers.1.q", "role": "q", **numbers}]}
    metrics = {"eval_loss": {"value": 0.5, "base": 1.5}} if status == "done" else {}
    return RunRecord(
        run_id="1", run_hash="1", name="a-run", status=Status(status), config=as_dict(config()), started="", plan=plan,
        metrics=metrics,
    )  # fmt: skip


def begin(folder: Path, warned: list[str] | None = None) -> Any:
    """The trackers of a session in the run's folder; one that could not start fails the test, unless it is listened."""
    from lorascope.records.record import write_record
    from lorascope.trackers import open_trackers

    folder.mkdir(parents=True, exist_ok=True)
    write_record(a_record(), folder)
    told: list[str] = [] if warned is None else warned
    trackers = open_trackers(config().logger, a_record(), folder, {"eval_loss": "lower"}, told.append)
    assert len(trackers.trackers) == 2 or warned is not None, told
    return trackers


def log(trackers: Any, *steps: int, loss: float = 1.0) -> None:
    for step in steps:
        trackers.log(step, {"loss": loss + step})


def arrive(server: FakeWandb, rows: int) -> None:
    """Waits until the server has so many rows."""
    deadline = time.monotonic() + 20
    while sum(len(run["lines"]) for run in server.runs.values()) < rows:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finish(trackers: Any) -> str:
    """Ends the session and its process well; the line that the user reads."""
    import wandb

    from lorascope.records.record import write_record

    write_record(a_record("done"), trackers.trackers[0].path.parent)
    trackers.finish(a_record("done"))
    told = "\n".join(trackers.notes)
    wandb.teardown()  # as at the end of a process: by then all is written
    return told


def kill_core(flushed: bool = True) -> None:
    """W&B's own process is killed, by default after it has written what it was told."""
    import wandb

    time.sleep(0.5 if flushed else 0)
    core = wandb.setup()._connection._proc._process
    core.kill()
    core.wait()
    time.sleep(0.2)


def cut(flushed: bool = True) -> None:
    """The session's process is killed: W&B's own then ends at once too, and neither writes nor sends any more."""
    import wandb

    kill_core(flushed)
    with suppress(Exception, SystemExit):
        wandb.teardown()
