"""A new user's folder works as it is written."""

import json
import re
import shlex

import pytest
import yaml

from helpers import run_train
from lorascope.cli.cmd_init import COMMANDS
from lorascope.cli.main import _parsed, main
from lorascope.compose import compose, read_policy
from lorascope.data.sources import load_rows
from lorascope.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    main(["init", str(tmp_path / "own")])
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def test_the_study_is_planned_as_it_is_written(folder, monkeypatch, capsys):
    assert run_train(monkeypatch, "--config-dir", ".", "experiment=mine", "dry_run=true") == 0
    out = capsys.readouterr().out
    assert re.search(r"q_v +8 +460,800", out)  # README's table of strategies
    # the last 15 of 30 layers: v is 576 to 192, o 576 to 576, down 1536 to 576, all at the rank that comes nearest
    own = {rank: 15 * rank * ((576 + 192) + (576 + 576) + (1536 + 576)) for rank in range(1, 20)}
    rank, nearest = min(own.items(), key=lambda pair: abs(pair[1] - 460_800))
    assert re.search(rf"mine +{rank} +{nearest:,}", out)
    assert "10 runs" in out
    assert not (folder / "runs").exists()


def test_every_class_stands_on_both_sides_of_the_split(folder):
    config = compose(["dataset=mine"], ".")
    rows = load_rows(config.dataset)
    given = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows.train) + len(rows.eval) == len(given) >= 12
    assert len({row["prompt"] for row in given}) == len(given)
    for half in (rows.train, rows.eval):
        assert {row.completion for row in half} == set(config.dataset.labels)


def test_its_strategy_alone_composes(folder):
    assert (
        compose(["target=mine"], ".").target.ranks.given()
        == yaml.safe_load((folder / "target" / "mine.yaml").read_text())["ranks"]
    )


def test_its_policy_asks_about_the_studys_task_and_keeps_every_rule_in_sight(folder):
    policy = read_policy("ship/mine.yaml")
    assert policy.min_gain.keys() == compose(["experiment=mine"], ".").study.tasks.keys()
    shipped = yaml.safe_load((folder / "ship" / "mine.yaml").read_text())
    assert shipped.keys() == vars(read_policy("default")).keys()


def test_what_comes_next_is_in_the_readme_and_can_be_typed(folder):
    readme = (folder / "README.md").read_text()
    assert tuple(re.search(r"```\n(.*?)```", readme, re.DOTALL)[1].splitlines()) == COMMANDS
    texts = [readme, *(path.read_text() for path in folder.rglob("*.yaml"))]
    lines = [line for text in texts for line in re.findall(r"lorascope (?!init)\w+ [^\n`]*", text)]
    assert len(lines) > 6
    for _, command, *words in map(shlex.split, lines):
        if command != "train":
            _parsed([command, *words])
        assert not re.search(r"(?<![\w/])\.\.", " ".join(words))


def test_every_file_opens_with_what_it_is_and_a_command(folder):
    for path in folder.rglob("*.yaml"):
        first = path.read_text().removeprefix("# @package _global_\n").partition("\n")[0]
        assert re.fullmatch(r"# [A-Z].*[.?] {6}lorascope \w+ .*", first), path


def test_an_empty_folder_is_taken_and_a_full_one_is_left_alone(tmp_path, capsys):
    main(["init", str(tmp_path)])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "rows.jsonl").write_text("mine\n")
    with pytest.raises(SystemExit) as end:
        main(["init", str(tmp_path)])
    assert end.value.code == ConfigError.exit_code
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "rows.jsonl").read_text() == "mine\n"
    assert before.keys() == {path for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["file", "link", "file/below"])
def test_a_place_that_is_no_folder_is_refused(name, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as end:
        main(["init", str(tmp_path / name)])
    assert end.value.code == ConfigError.exit_code
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_script_gets_the_folder_or_everything(tmp_path, capsys):
    main(["init", "-q", str(tmp_path / "one")])
    assert capsys.readouterr().out == f"{tmp_path / 'one'}\n"
    main(["init", "--json", str(tmp_path / "two")])
    told = json.loads(capsys.readouterr().out)
    assert told["commands"] == list(COMMANDS)
    assert {tmp_path / "two" / name for name in told["files"]} == {
        path for path in (tmp_path / "two").rglob("*") if path.is_file()
    }
