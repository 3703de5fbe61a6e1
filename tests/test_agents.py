"""AGENTS.md shows what there is."""

import json
import re
import shlex
from pathlib import Path

import pytest

from lorascope.cli import MODULES
from lorascope.cli.main import INTERRUPTED, _flags_first, _parsed, _without_script_flags, main
from lorascope.compose import compose
from lorascope.errors import ConfigError, RunError
from lorascope.interrupts import PREEMPTED

PAGE = (Path(__file__).parents[1] / "AGENTS.md").read_text()
COMMANDS = [line.partition("#")[0].strip() for line in re.search(r"```\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()]


def test_there_are_ten():
    assert len(COMMANDS) == len(set(COMMANDS)) == 10


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    program, command, *words = shlex.split(line)
    assert program == "lorascope"
    if command != "train":
        options, more = _parsed([command, *words])
        assert not more
        assert options.quiet or options.json
        overrides = getattr(options, "overrides", [])
    else:
        words, scripts = _without_script_flags(words)
        assert scripts
        overrides = [word for word in _flags_first(words) if not word.startswith("-")]
        assert {word for word in words if word.startswith("-")} <= {"-m"}
    if command != "ship":
        # of a sweep, its first choice
        compose([re.sub(r"=([\w-]+),.*", r"=\1", word) for word in overrides])


def test_every_other_line_of_a_command_parses():
    for line in re.findall(r"`lorascope ([^`\n]*=[^`\n]*)`", PAGE):
        command, *words = shlex.split(line)
        assert command in ("train", *MODULES), line
        assert {word for word in words if word.startswith("-")} <= {"--json", "--config-dir"}, line


def test_every_command_it_names_is_one():
    named = set(re.findall(r"`([a-z]+)`", PAGE)) & {*MODULES, "train"}
    assert {"compare", "merge", "export", "push", "sync", "serve", "generate", "inspect"} <= named
    for name in re.findall(r"lorascope ([a-z]+)", PAGE):
        assert name in ("train", "for", *MODULES), name


def test_the_exit_codes_are_those_of_the_code():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert codes == {0, RunError.exit_code, ConfigError.exit_code, PREEMPTED, INTERRUPTED}


@pytest.mark.parametrize(
    ("command", "words"),
    [("plan", ["model=smollm2", "target=q_v"]), ("preview", ["dataset=airports"])],
)
def test_json_has_the_keys_that_the_table_names(command, words, capsys):
    row = re.search(rf"^\| `{command}` \| (.*) \|$", PAGE, re.MULTILINE)[1]
    main([command, "--json", *words])
    found = json.loads(capsys.readouterr().out)
    found = found[0] if isinstance(found, list) else found
    assert set(re.findall(r"`(\w+)`", row)) <= found.keys()
