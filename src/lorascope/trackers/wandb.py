"""Weights & Biases: a run's record, plan and values become a W&B run in the run's folder, online or offline."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from lorascope.records.environment import redact
from lorascope.records.record import MODULE_COLUMNS, RunRecord, Status
from lorascope.records.store import WANDB
from lorascope.trackers.local import read_history
from lorascope.trackers.wandb_account import (
    REACHED,
    SENT,
    bound_table,
    config_of,
    remember,
    remembered,
    run_identity,
    summary_of,
    tags_of,
    wandb_mode,
)

# how long a run may wait for W&B's server, seconds: W&B itself waits 90 for the start, and for the end for ever
INIT_SECONDS = 10
FINISH_SECONDS = 15
RETRY_SECONDS = 8  # at most between two attempts, so that one falls into the end; W&B's own are 60
FLUSH_SECONDS = 1  # what a process that is killed may leave unwritten; W&B's own are 15
NOTHING = -1  # the last step, where there is none
STEP = "step"  # the x-axis of every chart
ENDED = ("finished", "failed")  # the states of a run whose exit code the server has
SUMMARIES = {"lower": "min", "higher": "max"}  # how W&B is told a metric's direction


class Wandb:
    """A W&B run in the run's folder: online when a key is configured and the server takes it, else offline.

    A run that goes on stays the same W&B run. W&B takes no row of a step that it has passed: what the server holds is
    not told again, and what it lacks is told out of the local history; an offline session holds every row.

    Args:
        record: the run's.
        folder: the run's own.
        metrics: what the run is judged by: a name, and whether "lower" or "higher" is better.
        replay: where W&B keeps what it is told when a run is sent later: then it is online or an error.
        seconds: how long W&B may take for the start and for the end; by default little, since a run waits.
    """

    def __init__(
        self,
        record: RunRecord,
        folder: Path,
        metrics: Mapping[str, str],
        replay: Path | None = None,
        seconds: float | None = None,
    ) -> None:
        settings = record.config["logger"]["wandb"]
        self.folder, self.place, self.seconds = folder, replay or folder, seconds
        self.mode, self.why = ("online", "") if replay else wandb_mode(settings["mode"])
        self.identity = run_identity(folder, settings["project"], settings["entity"])
        told = [row[STEP] for row in read_history(folder)]
        self.reached = max([remembered(folder).get(REACHED, NOTHING), *told])
        self.earlier = self._sessions()
        self.lacking = ""
        self.run = self._start(record)
        remember(folder, **{SENT: None})
        self._define(metrics)
        with self._data_here():
            self._begin(record)

    def _data_here(self) -> AbstractContextManager[None]:
        """W&B keeps a table's bytes in the home folder until they are sent; a run's belong into the run's folder."""
        return _environment("WANDB_DATA_DIR", os.environ.get("WANDB_DATA_DIR") or str((self.place / WANDB).absolute()))

    def _begin(self, record: RunRecord) -> None:
        """What is told first."""
        modules = {"modules": bound_table(self.run, record.plan["modules"], MODULE_COLUMNS, "modules", 0)}
        if self.held == NOTHING:
            self.run.log(modules, step=0)
        else:
            self.run.summary.update(modules)

    def _words(self, record: RunRecord) -> dict[str, Any]:
        """What the run is called and belongs to, and its config."""
        group = record.config["logger"]["group"]
        return {"name": record.name, "group": group, "tags": tags_of(record.config), "config": config_of(record)}

    def _start(self, record: RunRecord) -> Any:
        """The W&B run, offline when it cannot be online."""
        try:
            return self._init(record)
        except Exception as error:
            if self.mode != "online":
                raise
            self._let_go()
            if self.place != self.folder:
                raise
            said = next(iter(redact(str(error)).splitlines()), type(error).__name__)
            self.why = f"it did not answer: {said}" if "imed out" in said else f"it refused: {said}"
        self.mode = "offline"
        try:
            return self._init(record)
        except Exception:  # the id is in use: by a W&B process that is not ours to end. Sent is it under its own id.
            self.identity["id"] += "-offline"
            self._clear()
            return self._init(record)

    def _init(self, record: RunRecord) -> Any:
        wandb = _silent_wandb()
        resume = {} if self.mode == "online" else {"resume": None}  # else the steps of a file are moved when it is sent
        run = wandb.init(
            **self.identity | resume,
            **self._words(record),
            dir=str(self.place),
            mode=self.mode,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", x_transaction_log_flush_interval=FLUSH_SECONDS,
                init_timeout=self.seconds or float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
                finish_timeout=self.seconds or float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)),
                finish_timeout_raises=True, login_timeout=INIT_SECONDS,
                x_file_stream_retry_wait_max_seconds=RETRY_SECONDS,
                disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
                # W&B's own metadata hold the command line as it was typed, and the names of host and folders
                x_disable_meta=True, x_disable_machine_info=True, host="",
            ),
        )  # fmt: skip
        self.held = self._held(run)
        return run

    def _held(self, run: Any) -> int:
        """The last step that the server holds.

        Raises:
            ValueError: when the server has passed more steps than were ever logged: it would take none of the next.
        """
        if self.mode != "online":
            return NOTHING
        held = int(run.starting_step) - 1
        if held > self.reached:
            with suppress(TimeoutError):
                run.finish(exit_code=1)
            raise ValueError(f"it would begin at step {held + 1}, which this run has not reached")
        return held

    def _sessions(self) -> set[Path]:
        """What W&B keeps in the run's folder: a folder for each time that it was told."""
        return {path for path in (self.folder / WANDB).glob("*run-*") if not path.is_symlink()}

    def _let_go(self) -> None:
        """Make W&B's process forget a start that failed: it would say that the id is in use."""
        import wandb

        if wandb.setup().most_recent_active_run is None:  # else it is somebody's, whose run would be ended
            with suppress(Exception, SystemExit):
                wandb.teardown()
        self._clear()

    def _clear(self) -> None:
        """Remove what a start that failed has left, which holds nothing to send."""
        for path in self._sessions() - self.earlier:
            shutil.rmtree(path, ignore_errors=True)

    def _define(self, metrics: Mapping[str, str]) -> None:
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric("*", step_metric=STEP)
        for name, better in metrics.items():
            self.run.define_metric(name, step_metric=STEP, summary=SUMMARIES[better])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the history, unless W&B has it.

        Raises:
            ConnectionError: when W&B's process is gone.
        """
        if step <= self.held:
            return
        try:
            self.run.log({STEP: step, **values}, step=step)
        except ConnectionError as error:
            with suppress(Exception, SystemExit):
                _silent_wandb().teardown()  # left to the end of our process, it would show a traceback
            raise ConnectionError(f"its process is gone; what it holds is sent with: {self._remedy}") from error

    def rewind(self, step: int) -> None:
        """Tell what W&B lacks up to this step, after which the run goes on."""
        remember(self.folder, **{REACHED: self.reached})
        for row in read_history(self.folder):
            if row[STEP] <= step:
                self.log(row.pop(STEP), row)
        self.held = max(self.held, step)

    def finish(self, record: RunRecord) -> None:
        """The summary and the exit code; then `note` says whether W&B has all of it."""
        with suppress(TimeoutError, ConnectionError):
            self.run.summary.update(summary_of(record))
        self.end(well=record.status is Status.done)

    def end(self, *, well: bool) -> None:
        """The exit code; then what W&B did not take is known."""
        ended = False
        with suppress(TimeoutError, ConnectionError):
            self.run.finish(exit_code=0 if well else 1)
            ended = self.mode == "online" and self._has_ended()
        if ended:
            remember(self.folder, **{SENT: len(list(read_history(self.folder)))})
        elif self.mode == "online":
            self.lacking = f" did not take all of it; send the rest with: {self._remedy}"

    def _has_ended(self) -> bool:
        """Whether the server knows the run's end, which W&B sends last; of a refusal W&B tells its caller nothing."""
        import wandb

        run = self.run
        with suppress(Exception), tempfile.TemporaryDirectory() as place, _environment("WANDB_DIR", place):
            asked = wandb.Api({"entity": run.entity, "project": run.project}, timeout=FINISH_SECONDS)
            return asked.run(f"{run.entity}/{run.project}/{run.id}").state in ENDED
        return False

    @property
    def note(self) -> str:
        """A line for the user: where the run can be seen, or how it is sent."""
        if self.mode == "offline":
            return f"W&B     offline ({self.why}); send it later with: {self._remedy}"
        return f"W&B     {self.run.url}{self.lacking}" if self.mode == "online" else ""

    @property
    def _remedy(self) -> str:
        return f"lorascope sync {shlex.quote(str(self.folder))}"


def _silent_wandb() -> Any:
    """The package, which would write lines of its own among ours."""
    # W&B's reports on itself go to its server too, and hold up the end of our process by 20 s when that hangs
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    return wandb


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
