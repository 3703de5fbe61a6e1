"""W&B's own environment variables are obeyed where the config says nothing else."""

import json

import pytest

from lorascope.trackers import wandb_account


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("PROJECT", "ENTITY", "TAGS", "RUN_GROUP", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    wandb_account._ids.cache_clear()
    yield
    wandb_account._ids.cache_clear()


def config(group=None, tags=()):
    return {"logger": {"group": group, "tags": list(tags)}}


@pytest.mark.parametrize(
    ("setting", "variable", "project"),
    [
        ("lorascope", "tides", "tides"), ("mine", "tides", "mine"), ("lorascope", "", "lorascope"),
        ("lorascope", None, "lorascope"),
    ],
)  # fmt: skip
def test_the_project_is_the_variables_unless_it_is_set(monkeypatch, tmp_path, setting, variable, project):
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    assert wandb_account.run_identity(tmp_path, setting, None)["project"] == project
    assert json.loads((tmp_path / "wandb.json").read_text())["project"] == project


def test_the_entity_is_the_variables_unless_it_is_set(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_ENTITY", "team")
    (tmp_path / "two").mkdir()
    assert wandb_account.run_identity(tmp_path, "lorascope", None)["entity"] == "team"
    assert wandb_account.run_identity(tmp_path / "two", "lorascope", "me")["entity"] == "me"


@pytest.mark.parametrize(("text", "tags"), [("a,b", ["a", "b"]), (" a , ", ["a"]), ("", [])])
def test_tags_are_added_to_those_of_the_config(monkeypatch, text, tags):
    monkeypatch.setenv("WANDB_TAGS", text)
    assert wandb_account.group_and_tags(config(tags=["own"])) == (None, ["own", *tags])


def test_the_group_is_the_variables_unless_it_is_set(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "night")
    assert wandb_account.group_and_tags(config())[0] == "night"
    assert wandb_account.group_and_tags(config(group="sweep"))[0] == "sweep"


def test_the_id_is_for_the_first_run_of_a_process_and_stays_in_its_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_RUN_ID", "agent001")
    (tmp_path / "two").mkdir()
    assert wandb_account.run_identity(tmp_path, "lorascope", None)["id"] == "agent001"
    assert wandb_account.run_identity(tmp_path / "two", "lorascope", None)["id"] != "agent001"
    again = wandb_account.run_identity(tmp_path, "lorascope", None)
    assert (again["id"], again["resume"]) == ("agent001", "allow")
