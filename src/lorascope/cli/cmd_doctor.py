"""lorascope doctor: check the machine, its packages, folders and connections, and say what to mend."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

from lorascope.cli import Command, add_quiet
from lorascope.cli.doctor_checks import MARK, REINSTALL, WITHOUT, Check, quick, safely
from lorascope.records.environment import redact

UNFINISHED = "took longer than"
SECONDS = 120  # for all imports; a slow machine is no fault
HEAVY = "from lorascope.cli.doctor_checks import tell; tell()"


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_quiet(parser, "what is to be mended")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _run_doctor(options: argparse.Namespace) -> None:
    """Print a line for each check; exit with 1 if python train.py cannot work here."""
    checks = examine()
    prevents = [check.name for check in checks if check.prevents]
    if options.json:
        print(json.dumps({"train_works": not prevents, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        for check in [one for one in checks if one.remedy or not options.quiet]:  # no rich: it may be what is missing
            print(f"{check.state:<8} {check.name:<22} {check.found}")
            if check.remedy:
                print(f"{'':<31} {check.remedy}")
    if not (options.json or options.quiet):
        unfinished = any(UNFINISHED in check.found for check in checks)
        works = "can work here, as far as was checked" if unfinished else "works here"
        print(f"\npython train.py {works if not prevents else 'cannot work here: ' + ', '.join(prevents)}.")
    if prevents:
        sys.exit(1)


def examine() -> list[Check]:
    """Every check's result."""
    return [*(safely(name, check) for name, check in quick()), *in_a_process(HEAVY)]


def in_a_process(code: str, seconds: float = SECONDS) -> list[Check]:
    """The checks that a process of its own makes: importing may hang or crash it without harm."""
    # the same modules as here, wherever they come from
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    end: int | None = None
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, timeout=seconds
        )
        end, out = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
    lines = out.decode(errors="replace").splitlines()
    told = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    checks = [Check(**one) for one in told if "begin" not in one]
    if end == 0:
        return checks
    name = told[-1].get("begin", "packages") if told else "packages"
    rest = "what comes after it was not checked"
    if end is None:
        remedy = "Look again: a first import is slow."
        return [*checks, Check(name, "note", f"{UNFINISHED} {seconds:.0f} s; {rest}", remedy)]
    last = next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith(MARK)), "")
    how = f"{signal.Signals(-end).name}; {rest}" if end < 0 else f"exit code {end}: {redact(last)}"
    problem = Check(name, "problem", f"checking it ended the process with {how}", REINSTALL, name not in WITHOUT)
    return [*checks, problem]


DOCTOR = Command(
    "doctor",
    "check the machine, its packages, folders and connections, and say what to mend.",
    "lorascope doctor",
    _doctor_arguments,
    _run_doctor,
)
