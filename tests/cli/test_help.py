"""Every command helps: an example, and --json wherever it prints data."""

import json
import re

import pytest

from lorascope.cli import MODULES
from lorascope.cli.main import main

COMMANDS = [name for name in MODULES if name != "chat"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_json(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert f"example: lorascope {command}" in out
    assert "--json" in out


def test_the_programs_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for command in ("train", *MODULES):
        assert re.search(rf"\n    {command}\s", out)


def test_no_command_is_one_message(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["inspect", "gpt2"], ["plan", "target=q_v"], ["preview", "dataset=airports"]])
def test_what_prints_data_prints_it_as_json(words, capsys):
    main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)
