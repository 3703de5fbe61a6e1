"""Weights & Biases: log a run as a W&B run in the run's folder, online or offline."""

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
from lorascope.trackers import wandb_account as account
from lorascope.trackers.local import read_history

# how long a run may wait for W&B's server, seconds: W&B itself waits 90 for the start, and for the end for ever
INIT_SECONDS = 10
FINISH_SECONDS = 15
FLUSH_SECONDS = 1  # what a process that is killed may leave unwritten; W&B's default is 15
NO_STEP = -1  # the last step, where there is none
STEP = "step"  # the x-axis of every chart


class Wandb:
    """A W&B run in the run's folder: online when a key is configured and the server accepts it, else offline.

    A run that is resumed stays the same W&B run. W&B ignores rows of a step that it has passed: only what the server
    lacks is logged again, from the local history; an offline session has every row.

    Args:
        metrics: what the run is judged by: a name, and whether "lower" or "higher" is better.
        replay: where W&B keeps its own files when a run is sent later; then it is online, or an error is raised.
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
        self.mode, self.why = ("online", "") if replay else account.wandb_mode(settings["mode"])
        self.identity = account.run_identity(folder, settings["project"], settings["entity"])
        logged = [row[STEP] for row in read_history(folder)]
        self.reached = max([account.read_state(folder).get("reached", NO_STEP), *logged])
        self.earlier = self._sessions()
        self.lacking = ""
        self.run = self._start(record)
        account.update_state(folder, sent=None)
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric("*", step_metric=STEP)
        for name, better in metrics.items():
            self.run.define_metric(name, step_metric=STEP, summary={"lower": "min", "higher": "max"}[better])
        with self._data_in_folder():
            self._begin(record)

    def _data_in_folder(self) -> AbstractContextManager[None]:
        """Let W&B keep a table's bytes, until they are sent, in the run's folder instead of the home folder."""
        return _environment("WANDB_DATA_DIR", os.environ.get("WANDB_DATA_DIR") or str((self.place / WANDB).absolute()))

    def _begin(self, record: RunRecord) -> None:
        """Log the table of modules."""
        modules = {"modules": account.bound_table(self.run, record.plan["modules"], MODULE_COLUMNS, "modules", 0)}
        if self.logged == NO_STEP:
            self.run.log(modules, step=0)
        else:
            self.run.summary.update(modules)

    def _description(self, record: RunRecord) -> dict[str, Any]:
        """The arguments of `wandb.init` that describe the run."""
        config = record.config
        group, tags = account.group_and_tags(config)
        more = {"run_id": record.run_id, "plan": record.plan_totals(), "environment": record.environment}
        tags = [*tags, config["target"]["name"], config["model"]["name"]]
        return {"name": record.name, "group": group, "tags": tags, "config": config | more}

    def _start(self, record: RunRecord) -> Any:
        """Start the W&B run, offline when it cannot be online."""
        try:
            return self._init(record)
        except Exception as error:
            if self.mode != "online":
                raise
            self._forget_start()
            if self.place != self.folder:
                raise
            reason = next(iter(redact(str(error)).splitlines()), type(error).__name__)
            self.why = f"it did not answer: {reason}" if "imed out" in reason else f"it refused: {reason}"
        self.mode = "offline"
        try:
            return self._init(record)
        except Exception:  # the id is in use by a W&B process that is not ours to end: send it under another
            self.identity["id"] += "-offline"
            self._clear()
            return self._init(record)

    def _init(self, record: RunRecord) -> Any:
        wandb = _silent_wandb()
        resume = {} if self.mode == "online" else {"resume": None}  # else W&B moves the steps of a file that it sends
        run = wandb.init(
            **self.identity | resume,
            **self._description(record),
            dir=str(self.place),
            mode=self.mode,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", x_transaction_log_flush_interval=FLUSH_SECONDS,
                init_timeout=self.seconds or float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
                finish_timeout=self.seconds or float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)),
                finish_timeout_raises=True, login_timeout=INIT_SECONDS,
                x_file_stream_retry_wait_max_seconds=8,  # so that one attempt falls into the end; W&B's default is 60
                disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
                # W&B's own metadata have the command line as typed, and the names of host and folders
                x_disable_meta=True, x_disable_machine_info=True, host="",
            ),
        )  # fmt: skip
        self.logged = self._last_step(run)
        return run

    def _last_step(self, run: Any) -> int:
        """The last step that the server has; an error where it is past all logged steps, and would ignore the next."""
        if self.mode != "online":
            return NO_STEP
        held = int(run.starting_step) - 1
        if held > self.reached:
            with suppress(TimeoutError):
                run.finish(exit_code=1)
            raise ValueError(f"it would begin at step {held + 1}, which this run has not reached")
        return held

    def _sessions(self) -> set[Path]:
        """W&B's folders in the run's folder: one for each start."""
        return {path for path in (self.folder / WANDB).glob("*run-*") if not path.is_symlink()}

    def _forget_start(self) -> None:
        """Make W&B's process forget a start that failed; it would report the id as in use."""
        import wandb

        if wandb.setup().most_recent_active_run is None:  # else this would end a run of the user's
            with suppress(Exception, SystemExit):
                wandb.teardown()
        self._clear()

    def _clear(self) -> None:
        """Remove what a start that failed has left: it has nothing to send."""
        for path in self._sessions() - self.earlier:
            shutil.rmtree(path, ignore_errors=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a row of the history, unless the server has it.

        Raises:
            ConnectionError: when W&B's process is gone.
        """
        if step <= self.logged:
            return
        try:
            self.run.log({STEP: step, **values}, step=step)
        except ConnectionError as error:
            with suppress(Exception, SystemExit):
                _silent_wandb().teardown()  # left to the end of our process, it would show a traceback
            raise ConnectionError(f"its process is gone; what it holds is sent with: {self._remedy}") from error

    def rewind(self, step: int) -> None:
        """Log what the server lacks up to this step, after which the run is resumed."""
        account.update_state(self.folder, reached=self.reached)
        for row in read_history(self.folder):
            if row[STEP] <= step:
                self.log(row.pop(STEP), row)
        self.logged = max(self.logged, step)

    def finish(self, record: RunRecord) -> None:
        """Send the summary and the exit code; then `note` says whether the server has all of it."""
        with suppress(TimeoutError, ConnectionError):
            self.run.summary.update(account.summary_of(record))
        self.end(well=record.status is Status.done)

    def end(self, *, well: bool) -> None:
        """Send the exit code, and find out whether the server has all of the run."""
        ended = False
        with suppress(TimeoutError, ConnectionError):
            self.run.finish(exit_code=0 if well else 1)
            ended = self.mode == "online" and self._has_ended()
        if ended:
            account.update_state(self.folder, sent=len(list(read_history(self.folder))))
        elif self.mode == "online":
            self.lacking = f" did not take all of it; send the rest with: {self._remedy}"

    def _has_ended(self) -> bool:
        """Whether the server has the run's end, which W&B sends last; a refusal is not reported to its caller."""
        import wandb

        run = self.run
        with suppress(Exception), tempfile.TemporaryDirectory() as place, _environment("WANDB_DIR", place):
            api = wandb.Api({"entity": run.entity, "project": run.project}, timeout=FINISH_SECONDS)
            return api.run(f"{run.entity}/{run.project}/{run.id}").state in ("finished", "failed")
        return False

    @property
    def note(self) -> str:
        """Where the run can be seen, or how to send it."""
        if self.mode == "offline":
            return f"W&B     offline ({self.why}); send it later with: {self._remedy}"
        return f"W&B     {self.run.url}{self.lacking}" if self.mode == "online" else ""

    @property
    def _remedy(self) -> str:
        return f"lorascope sync {shlex.quote(str(self.folder))}"


def _silent_wandb() -> Any:
    """The package, set not to print."""
    # W&B sends error reports to its server too, which delays the end of our process by 20 s when that hangs
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
