"""Run folders: locked by one process at a time, complete files only."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import yaml

from lorascope.config.schema import Resume, RunConfig, as_dict
from lorascope.errors import LorascopeError, RunError, out_of_memory
from lorascope.interrupts import held
from lorascope.records.environment import redact
from lorascope.records.identity import run_hash, run_id, run_name
from lorascope.records.record import FILE, RunRecord, Status, now, read_record, write_record

ADAPTER, CHECKPOINTS, HISTORY, CONFIG = "adapter", "checkpoints", "history.jsonl", "config.yaml"
WANDB, WANDB_RUN, TENSORBOARD = "wandb", "wandb.json", "tensorboard"  # wandb.json: which W&B run this is
LOCK, MOMENT = ".lock", 0.2  # seconds that a claim waits for a process that only checks whether it is locked
# what a run writes beside its record
PREDICTIONS = ("predictions.parquet", "predictions-base.parquet")
CONTENTS = (*PREDICTIONS, ADAPTER, CHECKPOINTS, HISTORY, CONFIG, WANDB, WANDB_RUN, TENSORBOARD)


def run_folder(config: RunConfig) -> Path:
    """The run's own folder; `config` is resolved."""
    return Path(os.path.expanduser(config.runs_dir)) / run_name(config)


def find_done(config: RunConfig) -> RunRecord | None:
    """The run's record, if it is done.

    Raises:
        RunError: when the run's folder has another config's record.
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
    config: RunConfig, can_resume: Callable[[Path], object] = lambda folder: False
) -> Iterator[tuple[RunRecord, Path]]:
    """Claim the run's folder and write its record: running, then done, or what went wrong.

    Args:
        config: resolved.
        can_resume: whether a folder of checkpoints has one to resume from; else what is in the run's folder is removed.

    Yields:
        The record, which the caller fills in, and the folder. Leaving the block without an error marks the record done.

    Raises:
        RunError: when the folder cannot be written, or another process has locked it.
    """
    folder = run_folder(config)
    with _claim_writable(config, folder):
        may_resume = config.resume is Resume.auto and not config.overwrite
        resumes = may_resume and can_resume(folder / CHECKPOINTS)
        record = _begin(config, folder if resumes else None)
        for name in (ADAPTER,) if resumes else CONTENTS:
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).unlink(missing_ok=True)
        (folder / CONFIG).write_text(yaml.safe_dump(record.config, sort_keys=False), encoding="utf-8")
        write_record(record, folder)
        begin = time.perf_counter()
        try:
            yield record, folder
            record.status = Status.done
        except BaseException as error:
            if record.status is Status.done:  # all was written; it came while the trackers were being closed
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


def _claim_writable(config: RunConfig, folder: Path) -> AbstractContextManager[object]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return claim(folder)
    except OSError as error:
        what = f"cannot be written: {error.strerror}."
        raise RunError(f"runs_dir={config.runs_dir}", what, "Name a folder that can: runs_dir=…") from error


def _begin(config: RunConfig, resumed: Path | None) -> RunRecord:
    """The record of a run that starts now, or continues the one in a folder."""
    began, before = now(), []
    if resumed:
        with suppress(RunError):
            # a session that was killed could not write its status
            before = [{"status": "killed"} | session for session in read_record(resumed).sessions]
    return RunRecord(
        run_id=run_id(config),
        run_hash=run_hash(config),
        name=run_name(config),
        status=Status.running,
        config=redact(as_dict(config)),
        started=(before[0].get("started") if before else None) or began,
        sessions=[*before, {"started": began}],
    )


def _out_of_memory(record: RunRecord, error: BaseException) -> RunError:
    what = f"out of memory. {str(error).strip().partition(chr(10))[0]}"
    if predicted := record.memory.get("predicted_bytes"):
        what += f" Predicted were {predicted / 2**30:.1f} GiB."
    remedy = (
        "Try a smaller train.batch_size with more train.gradient_accumulation, a smaller train.max_length, or "
        "quantization=nf4."
    )
    if fits := record.memory.get("fits"):  # the largest of the estimate's suggestions
        remedy = f"Predicted to fit: {fits}"
    return RunError(record.name, what, remedy)


def status_of(error: BaseException) -> Status:
    """The status of a run that ended with this error."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Status.preempted
    return Status.oom if out_of_memory(error) else Status.failed


def load_runs(folder: str | Path) -> tuple[list[RunRecord], list[LorascopeError]]:
    """Every record below a folder, and the errors of those that cannot be read.

    Raises:
        RunError: when the folder does not exist.
    """
    root = Path(os.path.expanduser(folder))
    if not os.path.isdir(root):
        raise RunError(str(folder), "is not a folder.", "Name the runs_dir that the runs were made with.")
    records: list[RunRecord] = []
    damaged: list[LorascopeError] = []
    for path in sorted(root.rglob(FILE)):
        try:
            records.append(read_record(path.parent))
        except RunError as error:
            damaged.append(error)
    return records, damaged


def claim(folder: Path) -> AbstractContextManager[object]:
    """Lock a run's folder, which exists, until the context ends or the process does.

    Raises:
        RunError: when another process holds it.
        OSError: when it cannot be locked.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, fallback_to_soft=False, on_acquired=_sign)
    try:
        return lock.acquire(timeout=MOMENT)
    except Timeout:
        what = "another process is at work on this very run."
        raise RunError(str(folder), what, f"Wait for it, or stop {_holder(folder)}.") from None


def is_at_work(folder: Path) -> bool:
    """Whether a process has locked this run's folder."""
    from filelock import FileLock, Timeout

    if not os.path.isfile(folder / LOCK):
        return False
    try:
        with FileLock(folder / LOCK, fallback_to_soft=False, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written
        return False


def _sign(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())


def _holder(folder: Path) -> str:
    with suppress(OSError, ValueError):  # on Windows, a locked file cannot be read
        return f"process {int((folder / LOCK).read_text(encoding='ascii'))}"
    return "it"
