"""What a user can write wrong, and what is said about it: place, value, remedy, no traceback, no torch."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers import run_train
from lorascope.api import model_presets
from lorascope.compose import compose, config_dir
from lorascope.errors import ConfigError
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import inspect_model

ROOT = Path(__file__).parents[2]

# override, place and problem, remedy
# an override, what is wrong with it, and how the remedy begins
WRONG = [
    (
        "target=nope",
        "target=nope: there is no target 'nope'.",
        "There are: all_linear, all_linear_r4, attention, auto_eva, auto_kappa, auto_plop, block, ffn,",
    ),
    (
        "target.ranks.q=-1",
        "target.ranks.q must be a whole number from 1 to 65536 (got -1).",
        "Leave it out (null) to adapt nothing there.",
    ),
    (
        "target.ranks.zz=4",
        "target.ranks.zz=4: there is no setting 'target.ranks.zz'.",
        "target.ranks has: q, k, v, o, o_gate, latent, gate, up, down, mixer, attention, ffn, all, block.",
    ),
    ("train.learning_rate=fast", "train.learning_rate must be a number (got 'fast').", "The default is 0.0002."),
    (
        "trian.learning_rate=1",
        "trian.learning_rate=1: there is no setting 'trian.learning_rate'.",
        "Did you mean train.learning_rate=1?",
    ),
    ("quantization=nf5", "quantization=nf5: there is no quantization 'nf5'.", "Did you mean quantization=nf4?"),
    ("seed=one", "seed must be a whole number (got 'one').", "The default is 0."),
    ("seed=-1", "seed must be from 0 to 4294967295 (got -1).", "For example seed=0."),
    (
        "+foo=1",
        "foo: there is no such setting.",
        "The config has: model, dataset, target, quantization, train, evaluation, logger, seed, device,",
    ),
    (
        "train.reuse_lower_layers=true",
        "train.reuse_lower_layers=true: there is no setting 'train.reuse_lower_layers'.",
        "train has: learning_rate, epochs, max_steps, batch_size, gradient_accumulation, max_length,",
    ),
    ("train.batch_size=0", "train.batch_size must be >= 1 (got 0).", "It is the number of rows per step and device."),
    ("train.learning_rate=nan", "train.learning_rate must be a finite number (got nan).", "2e-4 is usual for 7B."),
    (
        "train.scheduler=steps",
        "train.scheduler must be one of constant, linear, cosine (got 'steps').",
        "For example train.scheduler=constant.",
    ),
    ("target.alpha=0", "target.alpha must be > 0 (got 0.0).", "16 is usual."),
    ("target.lora_dropout=1", "target.lora_dropout must be in [0, 1) (got 1.0).", "0.05 is usual."),
    (
        "target.bias=some",
        "target.bias must be one of none, lora_only, all (got 'some').",
        "For example target.bias=none.",
    ),
    (
        "target.ranks=8",
        "target.ranks=8: 'target.ranks' is a group of settings, not a value.",
        "target.ranks has: q, k, v, o, o_gate, latent, gate, up, down, mixer, attention, ffn, all, block.",
    ),
    (
        "model=hf",
        "model.path must name a model.",
        "For example model=smollm2, or model=hf model.path=HUB_ID_OR_FOLDER.",
    ),
    (
        "target.ranks=[1,2]",
        "target.ranks=[1,2]: 'target.ranks' is a group of settings, not a value.",
        "target.ranks has: q, k, v, o, o_gate, latent, gate, up, down, mixer, attention, ffn, all, block.",
    ),
    (
        "train.sft.learning_rate=1",
        "train.sft.learning_rate would make one setting in two places.",
        "Set train.learning_rate instead.",
    ),
    (
        "train.sft.weigth_decay=1",
        "train.sft.weigth_decay: SFTConfig has no 'weigth_decay'.",
        "Did you mean train.sft.weight_decay?",
    ),
    (
        "logger.wandb.mode=maybe",
        "logger.wandb.mode must be one of auto, online, offline (got 'maybe').",
        "The default is auto.",
    ),
    ("train.epochs=", "train.epochs must be a number (got '').", "The default is 1.0."),
    (
        "~target",
        "target.ranks must give at least one role a rank, or nothing would be trained.",
        "For example target.ranks.q=8.",
    ),
    (
        "logger=[wandb,wandbb]",
        "logger=wandbb: there is no logger 'wandbb'.",
        "Did you mean logger=wandb? There are: none, tensorboard, trackio, wandb. Your own is",
    ),
    ("target={", "target={ cannot be read.", "Write KEY=VALUE, GROUP=CHOICE; quote spaces, braces and ~."),
]


@pytest.mark.parametrize(("word", "says", "remedy"), WRONG, ids=[word for word, _, _ in WRONG])
def test_a_wrong_word_is_one_message_and_exit_code_2(word, says, remedy, monkeypatch, capsys):
    code = run_train(monkeypatch, word)
    out, err = capsys.readouterr()
    assert code == 2
    assert err.startswith(f"{says}\n  {remedy}")
    assert remedy
    assert len(err.splitlines()) == 2
    assert out == ""


@pytest.mark.parametrize(("word", "says", "remedy"), WRONG, ids=[word for word, _, _ in WRONG])
def test_compose_refuses_the_same_words(word, says, remedy):
    with pytest.raises(ConfigError) as caught:
        compose([word])
    assert str(caught.value).startswith(f"{says}\n  {remedy}")


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


GROUPS = [
    path.name
    for path in sorted(config_dir().iterdir())
    if path.is_dir() and path.name not in ("hydra", "experiment", "ship")
]
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((config_dir() / group).glob("*.yaml"))]
NEEDED = {
    "hf": "model.path=a/b",
    "file": "dataset.path=a.jsonl",
    "hub": "dataset.path=a/b",
    "mixture": "dataset.parts={airports: 1}",
}


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=[f"{group}={choice}" for group, choice in CHOICES])
def test_every_shipped_choice_composes(group, choice):
    compose([f"{group}={choice}", *([NEEDED[choice]] if choice in NEEDED else [])])


EXPERIMENTS = sorted(
    path.relative_to(config_dir() / "experiment").with_suffix("")
    for path in (config_dir() / "experiment").rglob("*.yaml")
)


@pytest.mark.parametrize("name", [path.as_posix() for path in EXPERIMENTS])
def test_every_experiment_composes_and_each_of_its_arms_fits_its_model(name):
    file = yaml.safe_load((config_dir() / "experiment" / f"{name}.yaml").read_text())
    config = compose([f"experiment={name}"])
    swept = (file.get("hydra") or {}).get("sweeper", {}).get("params", {}).get("target", "")
    arms = [*config.study.arms.values(), *(f"target={one.strip()}" for one in swept.split(",") if one)]
    assert arms, "it compares nothing"
    modules = inspect_model(config.model)
    for overrides in arms:
        target = compose([f"experiment={name}", *shlex.split(overrides)]).target
        if target.auto.method is None:  # which the weights decide
            assert plan_targets(target, modules).trainable_parameters > 0


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_file_opens_with_what_it_is(path):
    first = next(line for line in path.read_text().splitlines() if line != "# @package _global_")
    assert first.startswith("# ")


def test_presets_can_be_planned_without_a_hub():
    for name in model_presets():
        assert compose([f"model={name}"]).model.architecture["model_type"]
