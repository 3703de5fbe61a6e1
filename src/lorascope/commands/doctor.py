"""lorascope doctor: check the machine, its packages, folders and connections, and say what to mend."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import IO

from lorascope.commands import _checks
from lorascope.commands._checks import REINSTALL, Check, safely
from lorascope.commands._imports import GROUPS, MARK
from lorascope.records.redact import redact

EXAMPLE = "lorascope doctor"
UNFINISHED = "took longer than"
SECONDS = 14  # for what runs in processes of its own


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> None:
    """Print a line for each check; exit with 1 if python train.py cannot work here."""
    checks = examine()
    prevents = [check.name for check in checks if check.prevents]
    if options.json:
        print(json.dumps({"train_works": not prevents, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        # plain print: rich may be what is missing
        for check in checks:
            print(f"{check.state:<8} {check.name:<22} {check.found}")
            if check.remedy:
                print(f"{'':<31} {check.remedy}")
        print(f"\npython train.py {_verdict(checks)}")
    if prevents:
        sys.exit(1)


def _verdict(checks: list[Check]) -> str:
    if prevents := [check.name for check in checks if check.prevents]:
        return f"cannot work here: {', '.join(prevents)}."
    return "can work here, as far as was checked." if any(UNFINISHED in one.found for one in checks) else "works here."


def examine() -> list[Check]:
    """Every check's result. Imports happen in other processes, which may hang or crash without harm."""
    deadline = time.monotonic() + SECONDS
    begun = {group: _begin(group) for group in GROUPS}
    here: list[Check] = []
    try:
        here = [safely(name, check) for name, check in _checks.quick()]
    except Exception as error:
        here.append(Check("packages", "problem", _checks.said(error), REINSTALL, prevents=True))
    there = [check for group, (process, out) in begun.items() for check in _end(group, process, out, deadline)]
    return [*here[:2], *there, *here[2:]]


def _begin(group: str) -> tuple[subprocess.Popen[str], IO[str]]:
    out = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 closed by _end
    code = f"from lorascope.commands._imports import tell; tell({group!r})"
    # the same modules as here, wherever they come from
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, text=True), out


def _end(group: str, process: subprocess.Popen[str], out: IO[str], deadline: float) -> list[Check]:
    """The group's results; a check that hung or crashed the process is told as such."""
    with out:
        try:
            code: int | None = process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        out.seek(0)
        lines = out.read().splitlines()
    told = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    checks = [Check(**one) for one in told if "begin" not in one]
    if code == 0:
        return checks
    name = told[-1]["begin"] if told and "begin" in told[-1] else group
    if code is None:
        text = f"{UNFINISHED} {SECONDS} s; what comes after it was not checked"
        return [*checks, Check(name, "note", text, "Look again: a first import is slow.")]
    prevents = name not in _checks.WITHOUT
    last = next((line for line in reversed(lines) if line.strip() and not line.startswith(MARK)), "")
    last = f": {redact(last.strip())}" if code > 0 else "; what comes after it was not checked"
    text = f"checking it ended the process with {_ending(code)}{last}"
    return [*checks, Check(name, "problem", text, REINSTALL, prevents)]


def _ending(code: int) -> str:
    """A process's end in words: SIGILL, or its exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
