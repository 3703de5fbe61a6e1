"""Commands of the program."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command beside train: its help, the arguments it takes, and what it does."""

    name: str
    help: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


# name -> its module: the one of the command that is typed is imported, all of them for --help
MODULES = {
    "init": "cmd_init", "inspect": "cmd_models", "plan": "cmd_models", "preview": "cmd_preview", "list": "cmd_runs",
    "report": "cmd_report", "compare": "cmd_runs", "generate": "cmd_answer", "chat": "cmd_answer",
    "serve": "cmd_answer", "merge": "cmd_deliver", "export": "cmd_deliver", "ship": "cmd_deliver",
    "push": "cmd_deliver", "sync": "cmd_runs", "doctor": "cmd_doctor", "completion": "cmd_completion",
}  # fmt: skip


def command_named(name: str) -> Command:
    """A command beside train."""
    found: Command = getattr(importlib.import_module(f"lorascope.cli.{MODULES[name]}"), name.upper())
    return found


def parser_of(command: Command, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, with what the command takes."""
    command.arguments(parser)
    parser.set_defaults(command=command.run)
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a command is about."""
    parser.add_argument("run", metavar="RUN", help="a run's folder, its run id, or the beginning of its name")


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    """Where a run that is not a folder is looked for."""
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where ids and names are looked for (runs)")


def port(text: str) -> int:
    """A port's number; 0 is any free one."""
    if not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"'{text}' is no port, 0 to 65535.")
    return int(text)


def add_quiet(parser: argparse.ArgumentParser, what: str) -> None:
    """The flag -q; `what` says what is printed all the same, beside errors."""
    parser.add_argument("-q", "--quiet", action="store_true", help=f"print {what} and errors, nothing else")
