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


def add_quiet(parser: argparse.ArgumentParser, what: str) -> None:
    """The flag -q; `what` says what is printed all the same, beside errors."""
    parser.add_argument("-q", "--quiet", action="store_true", help=f"print {what} and errors, nothing else")
