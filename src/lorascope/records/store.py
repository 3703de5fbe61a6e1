"""The runs' folders: one for each run, claimed by one process at a time, its record kept whatever happens."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from lorascope.config import Resume, RunConfig, as_dict
from lorascope.errors import LorascopeError, RunError, out_of_memory
from lorascope.interrupts import held
from lorascope.records.identity import run_hash, run_id, run_name
from lorascope.records.moments import now
from lorascope.records.record import FILE, RunRecord, Status, read_record, write_record
from lorascope.records.redact import redact

ADAPTER, CHECKPOINTS, HISTORY, CONFIG = "adapter", "checkpoints", "history.jsonl", "config.yaml"
WANDB, WANDB_RUN, TENSORBOARD = "wandb", "wandb.json", "tensorboard"  # wandb.json: which W&B run this is
# what a run writes beside its record
PREDICTIONS = ("predictions.parquet", "predictions-base.parquet")
CONTENTS = (*PREDICTIONS, ADAPTER, CHECKPOINTS, HISTORY, CONFIG, WANDB, WANDB_RUN, TENSORBOARD)


def run_folder(config: RunConfig) -> Path:
    """The run's own folder; `config` is resolved."""
    return Path(os.path.expanduser(config.runs_dir)) / run_name(config)


def find_done(config: RunConfig) -> RunRecord | None:
    """The run's record, if it is done.

    Raises:
        RunError: when another config's record lies in the run's folder.
    """
    folder = run_folder(config)
    if not os.path.isfile(folder / FILE):  # which takes names of every length
        return None
    try:
        record = read_record(folder)
    except RunError:
        return None  # damaged: the run is repeated
    if record.run_hash != run_hash(config):
        raise RunError(str(folder), "holds a run of other settings with the same short id.", "Choose another runs_dir.")
    return record if record.status is Status.done else None


@contextmanager
def open_run(
    config: RunConfig, can_go_on: Callable[[Path], object] = lambda folder: False
) -> Iterator[tuple[RunRecord, Path]]:
    """Claim the run's folder, and keep its record: running, then done, or what went wrong.

    What an earlier session left there is removed, unless there is a checkpoint to go on from.

    Args:
        config: resolved.
        can_go_on: whether there is a checkpoint to go on from in this folder of them.

    Yields:
        The record, which the caller fills in, and the folder. Leaving the block without an error marks the record done.

    Raises:
        RunError: when the folder cannot be written, or another process is at work in it.
    """
    folder = run_folder(config)
    with _lock_file(config, folder) as lock:
        _claim(lock.fileno(), folder)
        resumes = config.resume is Resume.auto and not config.overwrite
        goes_on = resumes and can_go_on(folder / CHECKPOINTS)
        record = _begin(config, _sessions(folder) if goes_on else [])
        for name in (ADAPTER,) if goes_on else CONTENTS:
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).unlink(missing_ok=True)
        (folder / CONFIG).write_text(yaml.safe_dump(record.config, sort_keys=False), encoding="utf-8")
        write_record(record, folder)
        begin = time.perf_counter()
        try:
            yield record, folder
            record.status = Status.done
        except BaseException as error:
            if record.status is Status.done:  # all was written; a tracker was being told when this came
                raise
            record.status = status_of(error)
            record.error = redact(f"{type(error).__name__}: {error}")
            if record.status is Status.oom:
                raise _out_of_memory(record, error) from error
            raise
        finally:
            with held():
                record.finished = now()
                record.timing["total_seconds"] = round(time.perf_counter() - begin, 3)
                record.sessions[-1] |= {"ended": record.finished, "status": str(record.status)}
                write_record(record, folder)


def _lock_file(config: RunConfig, folder: Path) -> IO[str]:
    """The file in the run's folder that is locked while a process is at work there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(
            f"runs_dir={config.runs_dir}", f"cannot be written: {error.strerror}.", "Name a folder that can: runs_dir=…"
        ) from error


def _begin(config: RunConfig, before: list[dict[str, Any]]) -> RunRecord:
    """The record of a run that begins now, or goes on after the sessions before."""
    began = now()
    return RunRecord(
        run_id=run_id(config),
        run_hash=run_hash(config),
        name=run_name(config),
        status=Status.running,
        config=redact(as_dict(config)),
        started=(before[0].get("started") if before else None) or began,
        sessions=[*before, {"started": began}],
    )


def _sessions(folder: Path) -> list[dict[str, Any]]:
    """What earlier sessions of the run said of themselves; a killed one could not say how it ended."""
    with suppress(RunError):
        return [{"status": "killed"} | session for session in read_record(folder).sessions]
    return []


def _out_of_memory(record: RunRecord, error: BaseException) -> RunError:
    """What was predicted, and what to try: `memory.fits` in the record, where the estimate found something."""
    what = f"out of memory. {str(error).strip().partition(chr(10))[0]}"
    if predicted := record.memory.get("predicted_bytes"):
        what += f" Predicted were {predicted / 2**30:.1f} GiB."
    fits = record.memory.get("fits")
    remedy = (
        f"Predicted to fit: {fits}"
        if fits
        else "Try a smaller train.batch_size with more train.gradient_accumulation, a smaller train.max_length, or "
        "quantization=nf4."
    )
    return RunError(record.name, what, remedy)


def status_of(error: BaseException) -> Status:
    """What an error makes of a run."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Status.preempted
    return Status.oom if out_of_memory(error) else Status.failed


def load_runs(folder: str | Path) -> tuple[list[RunRecord], list[LorascopeError]]:
    """Every record below a folder, and what could not be read.

    Raises:
        RunError: when the folder does not exist.
    """
    root = Path(os.path.expanduser(folder))
    if not os.path.isdir(root):
        raise RunError(str(folder), "is not a folder.", "Name the runs_dir that the runs were made with.")
    records, damaged = [], []
    for path in sorted(root.rglob(FILE)):
        try:
            records.append(read_record(path.parent))
        except RunError as error:
            damaged.append(error)
    return records, list(damaged)


def is_at_work(folder: Path) -> bool:
    """Whether a process holds this run's folder now."""
    try:
        import fcntl

        with (folder / ".lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows has no flock; or nobody ever was
        return False
    return False


def _claim(lock: int, folder: Path) -> None:
    """Hold the folder while this process lives; the system lets go of it, however the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunError(
            str(folder),
            "another process is at work on this very run.",
            f"Wait for it, or stop it (this is {os.getpid()}).",
        ) from None
