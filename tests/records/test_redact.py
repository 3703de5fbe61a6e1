"""Secrets of the environment appear in nothing that a run writes or says."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import run_train
from lorascope.compose import compose
from lorascope.errors import ConfigError
from lorascope.records.environment import redact, secrets
from lorascope.records.store import open_run

ROOT = Path(__file__).parents[2]
HF, WANDB = "hf_aVeryDistinctiveToken", "0123456789abcdef" * 2 + "DISTINCTIVE"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("HUGGING_FACE_HUB_TOKEN", True),
        ("WANDB_API_KEY", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("db_password", True),
        ("CLIENT_SECRET_V2", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("KEYBOARD", False),
        ("SSH_KEY_PATH", False),
        ("HOME", False),
    ],
)
def test_a_variables_name_tells_whether_it_is_secret(name, secret):
    assert secrets({name: "long enough"}) == ({"long enough": name} if secret else {})


def test_secrets_are_replaced_however_deep_and_inside_a_text(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", HF)
    monkeypatch.setenv("OTHER_TOKEN", HF + "AndMore")
    told = {"tags": [HF, "nightly"], "deep": [{"url": f"https://me:{HF}@hub/x"}], HF: 1, "rank": 8, "rate": 0.5}
    assert redact(told) == {
        "tags": ["[redacted]", "nightly"],
        "deep": [{"url": "https://me:[redacted]@hub/x"}],
        "[redacted]": 1,
        "rank": 8,
        "rate": 0.5,
    }
    assert redact(HF + "AndMore") == "[redacted]"  # the longer one is not left in half
    assert told["tags"][0] == HF  # what came in is as it was


def test_a_short_value_blots_nothing_out(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "1")
    monkeypatch.setenv("SOME_TOKEN", "none")
    monkeypatch.setenv("SOME_SECRET", "")
    assert redact("rank 1, bias none") == "rank 1, bias none"


def test_a_hub_token_is_known_by_its_form():
    token = "hf_" + "aB3" * 11
    assert redact(f"--token {token} and hf_hub") == "--token [redacted] and hf_hub"


def test_the_recorded_error_holds_no_secret(tiny_words, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", HF)
    with pytest.raises(ValueError, match="401"), open_run(compose(tiny_words)) as (_, folder):
        raise ValueError(f"401 for {HF}")
    assert json.loads((folder / "run.json").read_text())["error"] == "ValueError: 401 for [redacted]"


@pytest.mark.parametrize("name", ["hub_token", "push_to_hub", "hub_model_id"])
def test_what_would_send_a_run_to_the_hub_is_refused_without_repeating_the_value(name):
    with pytest.raises(ConfigError, match=f"train.sft.{name} .*\n.*HF_TOKEN") as told:
        compose([f"train.sft.{name}={HF}"])
    assert HF not in str(told.value)


def test_no_file_of_a_run_and_nothing_that_it_says_holds_a_secret(tiny_words, tmp_path):
    """Secrets in the environment, and in the user's own config files; every file is searched as bytes."""
    (tmp_path / "own" / "logger").mkdir(parents=True)
    (tmp_path / "own" / "logger" / "mine.yaml").write_text(f"tags: [{HF}, nightly]\ngroup: {WANDB}\n")
    trackers = ["wandb", *(name for name in ("tensorboard", "trackio") if importlib.util.find_spec(name))]
    words = [word for word in tiny_words if word != "logger=none"]
    environment = os.environ | {
        "HF_TOKEN": HF,
        "WANDB_API_KEY": WANDB,
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "runs" / "trackio"),
        "XDG_DATA_HOME": str(tmp_path / "runs" / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "runs" / "cache"),
    }
    done = subprocess.run(
        [
            sys.executable, "train.py", "--config-dir", tmp_path / "own", *words, f"logger=[{','.join(trackers)},mine]",
            "train.max_steps=2", "train.save_steps=1", "train.eval_steps=1",
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"run.json", "config.yaml", "history.jsonl", "wandb.json", "debug.log"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" and b"[redacted]" in path.read_bytes() for path in files)
    for name, secret in (("HF_TOKEN", HF), ("WANDB_API_KEY", WANDB)):
        assert [path for path in files if secret.encode() in path.read_bytes()] == [], name
        assert secret not in done.stdout + done.stderr, name


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_secret_that_is_typed_is_refused_before_anything_is_written(tiny_words, tmp_path, monkeypatch, capsys, sweep):
    monkeypatch.setenv("HF_TOKEN", HF)
    for word, place in (
        (f"logger.tags=[{HF}]", "logger.tags"),
        (f"target={HF}", "target"),
        (f"+{HF}=1", "the command line"),
    ):
        assert run_train(monkeypatch, *sweep, *tiny_words, word) == 2
        out, err = capsys.readouterr()
        assert f"{place} holds the value of HF_TOKEN" in err
        assert HF not in out + err
        with pytest.raises(ConfigError, match="holds the value of HF_TOKEN"):
            compose([word])
    assert not (tmp_path / "runs").exists()


def test_a_sweeps_own_config_holds_no_secret_of_the_users_files(tiny_words, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", HF)
    (tmp_path / "own" / "logger").mkdir(parents=True)
    (tmp_path / "own" / "logger" / "mine.yaml").write_text(f"tags: [{HF}, nightly]\n")
    words = [word for word in tiny_words if word != "logger=none"]
    code = run_train(
        monkeypatch, "-m", "--config-dir", str(tmp_path / "own"), *words, "logger=mine", "train.max_steps=1", "seed=1,2"
    )
    assert code == 0
    (config,) = (tmp_path / "runs").glob("sweeps/*/multirun.yaml")
    assert "nightly" in config.read_text()
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [path for path in files if HF.encode() in path.read_bytes()] == []
