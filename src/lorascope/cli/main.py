"""Entry points: `python train.py` is Hydra's, `lorascope COMMAND` is a module of this package."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope import __version__
from lorascope.cli import MODULES, command_named, parser_of
from lorascope.console import JSON, only_results, output, printing, whole_process
from lorascope.errors import ConfigError, LorascopeError, complain
from lorascope.interrupts import PREEMPTED, Preempted, install

if TYPE_CHECKING:
    from lorascope.config.schema import RunConfig
    from lorascope.records.record import RunRecord

INTERRUPTED = 130  # the shell's code for a program that Ctrl-C ended
SWEEP = ("-m", "--multirun")
# Hydra's flags that take the next word
VALUED = {
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"),
    "--experimental-rerun",
    "--from",
}
LOOKS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
FOR_SCRIPTS = {"-q": "quiet", "--quiet": "quiet", "--json": "as_json"}


@whole_process()
def train() -> None:
    """Entry of train.py: with -q or --json only errors and results are printed."""
    sys.argv[1:], scripts = _without_script_flags(sys.argv[1:])
    looks = LOOKS & {word.partition("=")[0] for word in sys.argv[1:]}
    with printing(**({} if looks else scripts)), only_results():
        _train()


def _without_script_flags(words: list[str]) -> tuple[list[str], dict[str, bool]]:
    """The words that Hydra knows, and -q and --json, which are ours."""
    rest: list[str] = []
    found: dict[str, bool] = {}
    for before, word in zip(["", *words], words, strict=False):
        if word in FOR_SCRIPTS and before not in VALUED:
            found[FOR_SCRIPTS[word]] = True
        else:
            rest.append(word)
    return rest, found


def _train() -> None:
    """Hydra composes, each job becomes a run, errors become one message each."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lorascope.compat import errors_raised
    from lorascope.compose import config_dir, refuse_secrets, register
    from lorascope.config.override_errors import composing, explain
    from lorascope.config.text_values import keep_text

    register()
    install()
    full_error = bool(os.environ.get("HYDRA_FULL_ERROR"))
    failures: list[tuple[str, int]] = []
    decorate = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
    try:
        refuse_secrets(sys.argv[1:])
        words = keep_text(sys.argv[1:], sweep=any(word in SWEEP for word in sys.argv[1:]))
        with tempfile.TemporaryDirectory(prefix="lorascope-") as folder:
            sys.argv[1:] = _flags_first(_from_run(words, Path(folder)))
            with errors_raised():
                decorate(_job(failures))()
    except Preempted as signal:
        _complain(f"preempted by {signal}: the record says so; the same command goes on from the last checkpoint.")
        sys.exit(PREEMPTED)
    except KeyboardInterrupt:
        _complain("interrupted: the same command goes on from the last checkpoint, if there is one.")
        sys.exit(INTERRUPTED)
    except LorascopeError as error:
        if full_error:
            raise
        sys.exit(_complain(str(error), error.exit_code))
    except Exception as error:
        if full_error:
            raise
        if isinstance(error, HydraException | OmegaConfBaseException) or composing(error):
            told = explain(error)
            sys.exit(_complain(str(told), told.exit_code))
        if not isinstance(error, OSError) or not error.filename:
            raise
        sys.exit(
            _complain(
                f"runs_dir: {error.filename} cannot be written: {error.strerror}.\n  Choose another: runs_dir=FOLDER"
            )
        )
    if len(failures) > 1:
        _complain(f"{len(failures)} runs did not end well:\n  " + "\n  ".join(words for words, _ in failures))
    if failures:
        sys.exit(max(code for _, code in failures))


def _job(failures: list[tuple[str, int]]) -> Callable[[Any], None]:
    """The task function; `failures` collects a line and an exit code for each run that did not end well.

    An error that the user can mend is told at once and then kept from Hydra, which would print more about it. In a
    process that a launcher started, it is raised, so that the launcher sees a failed job.
    """
    home = os.getpid()
    shared: list[Any] = []

    def job(composed: Any) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from lorascope.compose import config_folders, to_run_config
        from lorascope.records.environment import redact_file

        hydra_config = HydraConfig.get()
        try:
            config = to_run_config(composed, hydra_config.runtime.choices, config_folders(hydra_config))
            if hydra_config.mode is RunMode.MULTIRUN:
                sweep = Path(hydra_config.sweep.dir)
                redact_file(sweep / "multirun.yaml")
                logger = dataclasses.replace(config.logger, group=config.logger.group or sweep.name)
                config = dataclasses.replace(config, logger=logger)
            from lorascope.console import quiet
            from lorascope.run import execute
            from lorascope.session import Session

            sweeps = hydra_config.mode is RunMode.MULTIRUN and os.getpid() == home
            if sweeps and not shared:
                shared.append(Session())
            # of a study's run, its sweeper tells
            record = execute(config, quiet() if composed.study.arms else None, shared[0] if sweeps else None)
            if output() and not composed.study.arms:
                _tell_script(record, config)
        except LorascopeError as error:
            if composed.study.arms and hydra_config.mode is RunMode.MULTIRUN:
                raise
            _complain(str(error))
            if os.getpid() != home:
                raise
            failures.append((f"{' '.join(hydra_config.overrides.task)}: {error.problem}", error.exit_code))

    return job


def _tell_script(record: RunRecord | None, config: RunConfig) -> None:
    """The record's path, or its row of `lorascope list --json`; of a dry run the plan."""
    from lorascope.console import result
    from lorascope.records.record import FILE
    from lorascope.reports.run_table import plain, rows_of

    if record:
        place = Path(config.runs_dir).expanduser() / record.name / FILE
        result(place, lambda: {"record": str(place), **plain(rows_of([record]))[0]})
    elif output() == JSON:
        from lorascope.cli.cmd_models import as_json
        from lorascope.planning.run_plan import plan_run, resolve_config

        result(None, lambda: as_json(plan_run(resolve_config(config))))


def _from_run(words: list[str], folder: Path) -> list[str]:
    """The words with what Hydra understands in place of `--from RUN`: a config in the folder, made of the run's own.

    Raises:
        ConfigError: when there is no config to go by.
    """
    from lorascope.compose import write_rerun

    found = [place for place, word in enumerate(words) if word == "--from" or word.startswith("--from=")]
    if not found:
        return words
    first = found[0]
    whole = words[first] != "--from"
    run = words[first].partition("=")[2] if whole else "".join(words[first + 1 : first + 2])
    rest = [*words[:first], *words[first + (1 if whole else 2) :]]
    if len(found) > 1 or not run or any(word in VALUED for word in rest if "config" in word or word == "-cn"):
        raise ConfigError("--from", "takes one run's folder, and no other config beside it.", "--from runs/NAME")
    name = write_rerun(_folder_of(run, rest), rest, folder)
    return [*rest, "--config-dir", str(folder), "--config-name", name]


def _folder_of(run: str, words: list[str]) -> Path:
    """The folder with a config.yaml that is meant: itself, or a run's by its id or the beginning of its name."""
    from lorascope.cli.cmd_runs import find_run

    place = Path(run).expanduser()
    if os.path.isdir(place):
        return place
    runs_dir = next((word.partition("=")[2] for word in words if word.startswith("runs_dir=")), "runs")
    try:
        return find_run(run, runs_dir)[1]
    except LorascopeError as error:
        raise ConfigError(f"--from {run}", error.what, error.remedy) from error


def _flags_first(words: list[str]) -> list[str]:
    """Flags before overrides: argparse takes no flag between two of them."""
    flags: list[str] = []
    overrides: list[str] = []
    following = iter(words)
    for word in following:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if word in VALUED:
            flags.extend(islice(following, 1))
    return [*flags, *overrides]


def _complain(text: str, code: int = 1) -> int:
    complain(text)
    return code


@whole_process()
def main(arguments: list[str] | None = None) -> None:
    """Entry of `lorascope`."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["train"]:
        sys.argv = [f"{Path(sys.argv[0]).name} train", *words[1:]]
        return train()
    if words[:1] == ["complete"]:  # what the shells ask: not in --help
        from lorascope.cli.cmd_completion import complete

        return print("\n".join(complete(" ".join(words[1:]))))
    try:
        options, more = _parsed(words)
    except SystemExit as end:
        # argparse ends with 2 for words that it cannot read, and `ship` with 2 where it refuses
        sys.exit(1 if end.code and words[:1] == ["ship"] else end.code)
    if more:  # overrides behind a flag, which argparse leaves over
        options.overrides += more
    try:
        with printing(quiet=getattr(options, "quiet", False), as_json=getattr(options, "json", False)):
            options.command(options)
    except LorascopeError as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        sys.exit(_complain(str(error), error.exit_code))
    except BrokenPipeError:  # `lorascope report … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return None


def _parsed(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and overrides that stand behind a flag."""
    parser = _parser(words[:1])
    options, more = parser.parse_known_args(words)
    if more and not (hasattr(options, "overrides") and all("=" in word and word[0] != "-" for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    return options, more


def _parser(asked: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The program's parser; where a command is asked for, with that one alone."""
    parser = argparse.ArgumentParser(
        prog="lorascope", description="Where should LoRA go? Experiments with target strategies."
    )
    parser.add_argument("--version", action="version", version=f"lorascope {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("train", help="one run or many; the same as python train.py", add_help=False)
    for command in map(command_named, [name for name in asked if name in MODULES] or MODULES):
        text, example = command.help, f"example: {command.example}"
        parser_of(command, commands.add_parser(command.name, help=text, description=text, epilog=example))
    return parser
