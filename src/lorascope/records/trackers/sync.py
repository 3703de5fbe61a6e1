"""Sends what W&B lacks: folders of runs come in, their unsent sessions go through `wandb sync`, an outcome each out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorascope.errors import RunError
from lorascope.records.redact import redact
from lorascope.records.store import WANDB
from lorascope.records.trackers.wandb_account import kept_identity
from lorascope.records.trackers.wandb_files import Session, sessions

SESSION_SECONDS = 300
# W&B itself asks a server that is gone again for hours
PATIENCE = {
    "WANDB__GRAPHQL_TIMEOUT_SECONDS": "15", "WANDB__GRAPHQL_RETRY_MAX": "1",
    "WANDB__FILE_STREAM_TIMEOUT_SECONDS": "60", "WANDB__FILE_STREAM_RETRY_MAX": "1",
    "WANDB__FILE_TRANSFER_TIMEOUT_SECONDS": "60", "WANDB__FILE_TRANSFER_RETRY_MAX": "1",
    "WANDB_ERROR_REPORTING": "false",
}  # fmt: skip
# of the training's environment, what would turn a sync into something else
NOT_FOR_SYNC = ("WANDB_MODE", "WANDB_SERVICE", "WANDB_SILENT", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DIR")
CUT = "ends with an incomplete record"  # the process was killed while it wrote; all before it is sent
URL = re.compile(r"View run .*at (\S+)")


@dataclass(frozen=True)
class Outcome:
    """What became of one run: its folder, how it went, and the run's address, the reason, or what is to be sent."""

    folder: Path
    state: Literal["sent", "unsent", "nothing", "running", "failed"]
    detail: str = ""


def runs_below(places: Sequence[str]) -> list[Path]:
    """The run folders at or below each place that hold a W&B run, by name.

    Raises:
        RunError: when a place is not a folder.
    """
    found = set()
    for place in places:
        root = Path(place).expanduser()
        if not root.is_dir():
            raise RunError(place, "is not a folder.", "Name a runs_dir, or the folders of runs.")
        found |= {path.parents[2] for path in root.rglob(f"{WANDB}/*run-*/run-*.wandb")}
    return sorted(found)


def unsent(folder: Path) -> list[Session]:
    """A run's sessions from the first one that is not sent: sent alone, it would put the run back to its own end."""
    begun = [session for session in sessions(folder) if session.sent or session.begun()]
    first = next((index for index, session in enumerate(begun) if not session.sent), len(begun))
    return begun[first:]


def look(folder: Path) -> Outcome:
    """What `send` would do with a run."""
    left = unsent(folder)
    with _claimed(folder) as free:
        if not left or not free:
            return Outcome(folder, "running" if left else "nothing")
    rows = sum(len(session.steps()) for session in left)
    return Outcome(folder, "unsent", f"{rows} rows in {', '.join(session.file.parent.name for session in left)}")


def send(folder: Path, seconds: float = SESSION_SECONDS) -> Outcome:
    """Send a run's unsent sessions in their order; what is sent is remembered, and the first that fails ends it.

    Args:
        folder: the run's.
        seconds: how long each session may take.
    """
    address = ""
    try:
        with _claimed(folder) as free:
            left = unsent(folder)
            if not left or not free:
                return Outcome(folder, "running" if left else "nothing")
            for session in left:
                said, failure = _wandb_sync(session, folder, seconds)
                session.mark(sent=not failure)  # W&B marks a session as sent also where it could not send it
                if failure:
                    return Outcome(folder, "failed", redact(failure))
                address = next(iter(URL.findall(said)), address)
    except OSError as error:
        return Outcome(folder, "failed", f"{error.filename}: {error.strerror}")
    return Outcome(folder, "sent", address)


def _wandb_sync(session: Session, folder: Path, seconds: float) -> tuple[str, str]:
    """What `wandb sync` said of a session, and why it failed; empty, where it did not."""
    command = [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", "--include-synced"]
    if identity := kept_identity(folder):
        command += ["--id", identity["id"]]
    environment = PATIENCE | {name: value for name, value in os.environ.items() if name not in NOT_FOR_SYNC}
    process = subprocess.Popen(
        [*command, str(session.file.absolute())],
        env=environment | {"WANDB_DIR": str(folder.absolute())},  # its logs
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    with process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return "", f"took longer than {seconds:g} s"
        finally:
            process.kill()  # and with it ends W&B's own process
    return said, _failure(said, process.returncode)


def _failure(said: str, code: int) -> str:
    """Why `wandb sync` failed, of what it said: it exits with 0 all the same."""
    errors = [line.partition("ERROR ")[2] for line in said.splitlines() if line.startswith("wandb: ERROR")]
    errors = [re.sub(r"^\[\S+\] ", "", line) for line in errors if CUT not in line]
    if errors:
        return errors[0]
    if code == 0 and ("Finished syncing" in said or CUT in said):
        return ""
    return next((line for line in reversed(said.splitlines()) if line.strip()), f"wandb sync ended with {code}")


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether no run is at work in the folder; until this is left, none can begin."""
    try:
        import fcntl

        lock = (folder / ".lock").open()
    except (ImportError, FileNotFoundError):  # Windows has no flock; without the file, nobody holds it
        yield True
        return
    with lock:
        free = False
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        yield free
