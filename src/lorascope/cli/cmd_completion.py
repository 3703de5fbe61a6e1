"""lorascope completion: what Tab offers in bash, zsh and fish; the shells ask the hidden `lorascope complete LINE`."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import typing
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from lorascope.cli import MODULES, Command, add_quiet, command_named
from lorascope.config.hints import choices_of, known_groups
from lorascope.config.schema import ShipConfig, all_settings
from lorascope.console import output, result
from lorascope.errors import ConfigError, RunError

SCRIPTS = Path(__file__).with_name("shells")
# shell -> where its script goes, below a variable's folder or another of the home's; the file that reads it
PLACES = {
    "bash": ("XDG_DATA_HOME", ".local/share", "lorascope/completion.bash", "~/.bashrc"),
    "zsh": ("XDG_DATA_HOME", ".local/share", "lorascope/completion.zsh", "$ZDOTDIR/.zshrc"),
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/lorascope.fish", ""),
}
MOST = 1000  # runs that are offered
RUN, STUDY = "run.json", "study.json"


def complete(line: str) -> list[str]:
    """What the last word of a command line may become; nothing where the shell knows better, as of files.

    Args:
        line: up to the cursor, with the program's name.
    """
    words = _words(line)[1:] or [""]
    *before, current = words
    if not before:
        return _starting(current, ("train", *MODULES))
    name, *typed = before
    if name not in ("train", *MODULES):
        return []
    takes = Takes(_train_arguments if name == "train" else command_named(name).arguments)
    return _starting(current, _candidates(takes, typed, current))


def _words(line: str) -> list[str]:
    """The words as a shell reads them, a quote that is still open closed; the last one is empty behind a space."""
    for end in ("", "'", '"'):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return [*words, ""] if not end and line[-1:].isspace() else words
    return []


def _starting(current: str, candidates: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(one for one in candidates if one.startswith(current)))


class Takes:
    """What a command takes: argparse keeps that to itself, so it is noted on the way there."""

    def __init__(self, arguments: Callable[[Any], None]) -> None:
        self.parser = argparse.ArgumentParser()
        self.flags: dict[str, argparse.Action | None] = {"--help": None}
        self.places: list[argparse.Action] = []
        arguments(self)

    def add_argument(self, *names: str, **settings: Any) -> None:
        """As argparse has it."""
        action = self.parser.add_argument(*names, **settings)
        self.flags |= dict.fromkeys(action.option_strings, action)
        self.places += [] if action.option_strings else [action]

    def add_argument_group(self, *titles: str) -> Takes:
        """Titles are for --help."""
        return self


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    """What train takes, most of which is Hydra's."""
    for flags in (("-m", "--multirun"), ("-q", "--quiet"), ("--json",), ("--hydra-help",)):
        parser.add_argument(*flags, action="store_true")
    parser.add_argument("--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("--config-dir", "-cd", metavar="DIR")
    parser.add_argument("--from", metavar="FOLDER")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*")


def _candidates(takes: Takes, typed: Sequence[str], current: str) -> Iterable[str]:
    """All that may stand here."""
    last = takes.flags.get(typed[-1]) if typed else None
    flag, equals, _ = current.partition("=")
    if last and last.nargs != 0 and not (current.startswith("-") or last.nargs == "?"):
        return _values(last, typed, current)
    if flag.startswith("-") and equals and (action := takes.flags.get(flag)):
        return (f"{flag}={one}" for one in _values(action, typed, current))
    if current.startswith("-"):
        return takes.flags
    many = ("*", "+")
    seen = len(_without_flags(takes, typed))
    place = takes.places[seen : seen + 1] or [one for one in takes.places[-1:] if one.nargs in many]
    return _values(place[0], typed, current) if place else ()


def _without_flags(takes: Takes, typed: Sequence[str]) -> list[str]:
    """The words that are neither flags nor their values."""
    rest = []
    for before, word in zip(["", *typed], typed, strict=False):
        flag = takes.flags.get(before)
        if not word.startswith("-") and not (flag and flag.nargs is None):
            rest.append(word)
    return rest


def _values(action: argparse.Action, typed: Sequence[str], current: str) -> Iterable[str]:
    """What an argument may be."""
    if action.choices:
        return map(str, action.choices)
    match action.metavar:
        case "RUN":
            return (path.name for path in _below(_given(typed, "--runs") or "runs", RUN))
        case "FOLDER":
            return map(str, _below("runs", RUN))
        case "STUDY":
            return map(str, _below("runs", STUDY))
        case "MODEL":
            return choices_of("model")
        case "NAME" if action.dest == "policy":
            return [*choices_of("ship"), *map(str, Path("ship").glob("*.yaml"))]
        case "SETTING=VALUE":
            return (f"{name}=" for name in typing.get_type_hints(ShipConfig))
        case "KEY=VALUE":
            return _overrides(current, _given(typed, "--config-dir", "-cd"))
    return ()


def _given(typed: Sequence[str], *flags: str) -> str | None:
    """The value of a flag, if it was typed."""
    for word, following in zip(typed, [*typed[1:], ""], strict=False):
        if word in flags:
            return following
        if word.startswith("--") and word.partition("=")[0] in flags:
            return word.partition("=")[2]
    return None


def _below(folder: str, file: str) -> list[Path]:
    """The folders below one that hold a file; what lies below a run is not looked at."""
    found = []
    for place, folders, files in os.walk(os.path.expanduser(folder)):
        folders.sort()
        if file in files:
            found.append(Path(place))
        if RUN in files or len(found) >= MOST:
            folders.clear()
    return found


def _overrides(current: str, own: str | None) -> Iterable[str]:
    """Groups and settings; behind a `=` choices and values; several, as a sweep or a list has them, one by one."""
    key, equals, value = current.partition("=")
    bare = key.lstrip("+~")
    groups, settings = known_groups(), all_settings()
    if equals:
        chosen = value[: len(value) - len(re.split(r"[,\[ ]", value)[-1])]
        known = _choices(bare, own) if bare in groups else _spellings(settings.get(bare))
        taken = re.split(r"[,\[ ]", chosen)
        return (f"{key}={chosen}{one}" for one in known if one not in taken)
    prefix = key[: len(key) - len(bare)]
    names = [f"{group}=" for group in groups]
    for name in settings:
        # one level at a time, as of folders
        dot = name.find(".", len(bare))
        leaf = not any(other.startswith(f"{name}.") for other in settings)
        names.append(name[: dot + 1] if dot >= 0 else f"{name}=" if leaf else f"{name}.")
    return (prefix + name for name in names)


def _choices(group: str, own: str | None) -> list[str]:
    """A group's choices, shipped and one's own."""
    mine = Path(own).expanduser() / group if own else None
    return [*(path.stem for path in sorted(mine.glob("*.yaml"))), *choices_of(group)] if mine else choices_of(group)


def _spellings(kind: Any) -> list[str]:
    """The values of a setting that has few."""
    kinds = typing.get_args(kind) or (kind,)
    found = []
    for one in kinds:
        if one is bool:
            found += ["true", "false"]
        elif isinstance(one, type) and issubclass(one, StrEnum):
            found += [str(each) for each in one]
    return [*found, "null"] if found and type(None) in kinds else found


def install(shell: str) -> tuple[Path, Path | None]:
    """Write the shell's script where it is read at its start; return it, and the file in which a line was added.

    Raises:
        RunError: when one of them cannot be written.
    """
    variable, otherwise, name, start = PLACES[shell]
    file = Path(os.environ.get(variable) or Path.home() / otherwise, name)
    home = os.environ.get("ZDOTDIR") or "~"
    profile = Path(start.replace("$ZDOTDIR", home)).expanduser() if start else None
    place = file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script(shell), encoding="utf-8")
        if profile is None:
            return file, None
        place = profile
        before = profile.read_text(encoding="utf-8") if profile.exists() else ""
        line = f"[ -r {shlex.quote(str(file))} ] && . {shlex.quote(str(file))}  # lorascope completion\n"
        if line not in before:
            with profile.open("a", encoding="utf-8") as out:
                out.write(line if before.endswith("\n") or not before else "\n" + line)
    except (OSError, UnicodeError) as error:
        remedy = f"Put it where it is read: lorascope completion {shell} > FILE"
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise RunError(str(place), f"cannot be written: {why}.", remedy) from error
    return file, profile


def script(shell: str) -> str:
    """What the shell reads."""
    return (SCRIPTS / f"completion.{shell}").read_text(encoding="utf-8")


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("shell", choices=sorted(PLACES), nargs="?", help="default: the one of $SHELL")
    parser.add_argument("--install", action="store_true", help="write it where the shell reads it at its start")
    add_quiet(parser, "with --install the script's path")
    parser.add_argument("--json", action="store_true", help="with --install, print what was written as JSON")


def _run_completion(options: argparse.Namespace) -> None:
    """Print the script, or install it."""
    shell = options.shell or Path(os.environ.get("SHELL", "")).name
    if shell not in PLACES:
        what = f"SHELL={shell} is none of them." if shell else "is not known: SHELL is not set."
        raise ConfigError("the shell", what, f"Name one: lorascope completion {' | '.join(sorted(PLACES))}")
    if not options.install:
        print(script(shell), end="")
        return
    file, profile = install(shell)
    result(file, lambda: {"shell": shell, "file": str(file), "read_by": str(profile) if profile else None})
    if not output():
        print(f"{file}{f', read by {profile}' if profile else ''}\nNew shells have it; this one after: . {file}")


COMPLETION = Command(
    "completion",
    "complete commands, flags, settings, choices and runs with Tab in bash, zsh or fish.",
    "lorascope completion bash --install",
    _completion_arguments,
    _run_completion,
)
