"""What a user can write wrong, and what is said about it: place, value, remedy, no traceback, no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import run_train
from lorascope.api import model_presets
from lorascope.compose import compose, config_dir
from lorascope.errors import ConfigError

ROOT = Path(__file__).parents[2]

WRONG = [
    ("target=nope", "target=nope: there is no target 'nope'", "q_v"),
    ("target.ranks.q=-1", "target.ranks.q: -1 is not a rank", "from 1 up"),
    ("target.ranks.zz=4", "target.ranks.zz=4: there is no setting 'target.ranks.zz'", "gate, up, down"),
    ("train.learning_rate=fast", "train.learning_rate: 'fast' is not a number", ""),
    ("trian.learning_rate=1", "trian.learning_rate=1: there is no setting", "Did you mean train.learning_rate=1?"),
    ("quantization=nf5", "quantization=nf5: there is no quantization 'nf5'", "Did you mean quantization=nf4?"),
    ("seed=one", "seed: 'one' is not a whole number", ""),
    ("seed=-1", "seed: -1 is not a seed", "4294967295"),
    ("+foo=1", "foo: there is no such setting", "runs_dir"),
    ("train.reuse_lower_layers=true", "there is no setting 'train.reuse_lower_layers'", "group_by_length"),
    ("train.batch_size=0", "train.batch_size: 0 is too small", "from 1 up"),
    ("train.learning_rate=nan", "train.learning_rate: nan is not a rate", ""),
    ("train.scheduler=steps", "train.scheduler: 'steps' is not one of constant, linear, cosine", ""),
    ("target.alpha=0", "target.alpha: 0.0 scales nothing", ""),
    ("target.lora_dropout=1", "target.lora_dropout: 1.0 is not a probability below 1", ""),
    ("target.bias=some", "target.bias: 'some' is not one of none, lora_only, all", ""),
    ("target.ranks=8", "target.ranks=8: 'target.ranks' is a group of settings", ""),
    ("model=hf", "model.path: no model is named", "model.path=HUB_ID_OR_FOLDER"),
    ("target.ranks=[1,2]", "target.ranks=[1,2]: 'target.ranks' is a group of settings", ""),
    ("train.sft.learning_rate=1", "would make one setting in two places", "Set train.learning_rate instead"),
    ("train.sft.weigth_decay=1", "SFTConfig has no 'weigth_decay'", "train.sft.weight_decay"),
    ("logger.wandb.mode=maybe", "'maybe' is not a mode", "offline"),
    ("train.epochs=", "train.epochs: '' is not a number", ""),
    ("~target", "no role has a rank", "target.ranks.q=8"),
    ("logger=[wandb,wandbb]", "there is no logger 'wandbb'", "Did you mean logger=wandb?"),
    ("target={", "cannot be read", "KEY=VALUE"),
]


@pytest.mark.parametrize(("word", "says", "remedy"), WRONG, ids=[word for word, _, _ in WRONG])
def test_a_wrong_word_is_one_message_and_exit_code_2(word, says, remedy, monkeypatch, capsys):
    code = run_train(monkeypatch, word)
    out, err = capsys.readouterr()
    assert code == 2
    assert says in err
    assert remedy in err
    assert "Traceback" not in err
    assert "Error executing job" not in err
    assert len(err.strip().splitlines()) <= 2
    assert out == ""


@pytest.mark.parametrize(("word", "says", "remedy"), WRONG, ids=[word for word, _, _ in WRONG])
def test_compose_refuses_the_same_words(word, says, remedy):
    with pytest.raises(ConfigError) as caught:
        compose([word])
    assert says.partition(": ")[2] in str(caught.value)


def test_a_user_file_with_a_wrong_key_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.yaml").write_text("rnak: {q: 8}\n")
    assert run_train(monkeypatch, "--config-dir", str(tmp_path), "target=mine") == 2
    err = capsys.readouterr().err
    assert "target/mine.yaml" in err
    assert "rnak" in err
    assert "Did you mean target.ranks?" in err


def test_a_users_own_strategy_is_a_file_of_one_line(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.yaml").write_text("ranks: {q: 2, down: 1}\n")
    target = compose(["target=mine"], extra_dir=tmp_path).target
    assert target.name == "mine"
    assert target.ranks.given() == {"q": 2, "down": 1}
    assert target.alpha == 16


def test_a_sweep_with_a_wrong_choice_stops_before_its_first_run(tmp_path, monkeypatch, capsys):
    assert run_train(monkeypatch, "-m", "target=q_v,nope", f"runs_dir={tmp_path}") == 2
    out, err = capsys.readouterr()
    assert "there is no target 'nope'" in err
    assert out == ""


@pytest.mark.parametrize("words", [["--help"], ["trian.learning_rate=1"], ["target.ranks.q=-1"], ["--cfg", "job"]])
def test_help_and_config_errors_import_no_torch(words):
    code = (
        "import sys\n"
        f"sys.argv = ['train.py', *{words!r}]\n"
        "from lorascope.cli.main import train\n"
        "try:\n    train()\n"
        "except SystemExit as end:\n    print('exit', end.code, file=sys.stderr)\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'wandb', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_shows_the_commands_and_the_choices(monkeypatch, capsys):
    assert run_train(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    for words in ("python train.py target=qv_ffn model=mistral7b", "all_linear", "home_intents", "nf4"):
        assert words in out


def test_every_shipped_choice_composes():
    for group in ("model", "dataset", "target", "quantization", "train", "logger"):
        for path in (config_dir() / group).glob("*.yaml"):
            place = [f"{group}.path=somewhere"]
            extra = {"hf": place, "file": place, "hub": place, "mixture": ["dataset.parts={airports: 1}"]}
            compose([f"{group}={path.stem}", *extra.get(path.stem, [])])


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_file_opens_with_what_it_is(path):
    first = next(line for line in path.read_text().splitlines() if line != "# @package _global_")
    assert first.startswith("# ")


def test_presets_can_be_planned_without_a_hub():
    for name in model_presets():
        assert compose([f"model={name}"]).model.architecture["model_type"]
