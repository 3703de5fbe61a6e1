"""What is pushed to a hub is what lies here, and nothing of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from delivery.fake_hub import FakeHub
from delivery.test_merge import base_of, logits, trained

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def hub():
    made = FakeHub()
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    base = base_of("tiny", tmp_path_factory.mktemp("pushing") / "base")
    return base, trained(base, "target=qv_ffn", "logger=none")[1]


def push(hub, *words, **variables) -> subprocess.CompletedProcess:
    """In a process of its own, since huggingface_hub reads the hub's address when it is imported."""
    values = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_" + "abc123def456" * 3,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    } | variables
    command = [Path(sys.executable).with_name("lorascope"), "push", *map(str, words)]
    environment = {name: value for name, value in (os.environ | values).items() if value}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_runs_adapter_arrives_with_card_and_config_and_computes_the_same(hub, home, tmp_path):
    base, folder = home
    done = push(hub, folder, "--to", "team/name", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"pushed  {hub.url}/team/name/commit/abc123   4 files, ")
    assert hub.private == {"team/name": True}
    assert set(hub.tokens) == {"Bearer hf_" + "abc123def456" * 3}
    assert "model-index" in hub.validated[0]
    arrived = hub.files["team/name"]
    assert set(arrived) == {"README.md", "config.yaml", "adapter_config.json", "adapter_model.safetensors"}
    assert all(str(base).encode() not in content for content in arrived.values())
    for name, content in arrived.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(logits(base, tmp_path), logits(base, folder / "adapter"))
    assert "lorascope" in ModelCard.load(tmp_path / "README.md").data.tags


def test_an_adapter_of_an_earlier_version_is_pushed_without_its_path(hub, home):
    _, folder = home
    file = folder / "adapter" / "adapter_config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"base_model_name_or_path": "/home/me/base"}))
    try:
        assert push(hub, folder, "--to", "team/name").returncode == 0
    finally:
        file.write_text(before)
    assert json.loads(hub.files["team/name"]["adapter_config.json"])["base_model_name_or_path"] == ""


def test_a_merged_folder_is_pushed_as_it_is_and_one_with_a_path_is_refused(hub, home, tmp_path):
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("fine")
    assert push(hub, folder, "--to", "team/merged", "--json").returncode == 0
    assert hub.files["team/merged"] == {"model.safetensors": b"weights", "README.md": b"fine"}
    (folder / "config.json").write_text(json.dumps({"_name_or_path": f"{tmp_path}/base"}))
    done = push(hub, folder, "--to", "team/merged")
    assert done.returncode == 1
    assert f"config.json names a place of this machine: {tmp_path}" in done.stderr
    (folder / "config.json").write_text(json.dumps({"token": "hf_" + "abc123def456" * 3}))
    assert "config.json holds the value of HF_TOKEN" in push(hub, folder, "--to", "team/merged").stderr


@pytest.mark.parametrize(("refuse", "words", "variables", "says"), [
    (401, ["team/name"], {}, "--to team/name: the hub does not know this token"),
    (403, ["team/name"], {}, "--to team/name: the hub does not let this token write there"),
    (500, ["team/name"], {}, "--to team/name: the hub answers 500"),
    (0, ["a/b/c"], {}, "--to a/b/c is not the name of a repository"),
    (0, ["team/name"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "--to team/name: the hub cannot be reached"),
    (0, ["team/name"], {"HF_HUB_OFFLINE": "1"}, "--to team/name: the hub cannot be reached"),
])  # fmt: skip
def test_what_the_hub_refuses_is_one_message(hub, home, refuse, words, variables, says):
    hub.refuse = refuse
    done = push(hub, home[1], "--to", *words, **variables)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_weights_is_refused(hub, tmp_path):
    done = push(hub, tmp_path, "--to", "team/name", "--runs", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
