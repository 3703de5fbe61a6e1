"""What an offline W&B run holds, read back from its own file: LevelDB blocks of W&B's protocol buffers."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorascope.records.record import Status
from lorascope.records.store import open_run
from lorascope.trackers import wandb as tracker
from lorascope.trackers.wandb_account import run_identity, wandb_mode
from trackers.wandb_files import read_wandb
from trackers.wandb_sessions import KEY, logged_in


def read_offline_run(folder: Path) -> dict[str, Any]:
    """Config, history, summary and exit code of the offline run in a folder."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "metrics": {}, "exit_code": None}
    for record in read_wandb(path):
        if record.HasField("run"):
            found["run"] = record.run
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        for item in record.history.item if record.HasField("history") else ():
            if not item.key and not item.nested_key:
                continue
            if not found["history"] or found["history"][-1]["_record"] != record.num:
                found["history"].append({"_record": record.num})
            found["history"][-1][item.key or item.nested_key[0]] = json.loads(item.value_json)
        for item in record.summary.update if record.HasField("summary") else ():
            found["summary"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("metric"):
            found["metrics"][record.metric.name or record.metric.glob_name] = record.metric
        found["environment"] = found.get("environment", "") + str(record.environment)
        if record.HasField("exit"):
            found["exit_code"] = record.exit.exit_code
    return found


@pytest.fixture(scope="module")
def run_with_wandb(tiny, tmp_path_factory):
    import wandb

    from lorascope.compose import compose
    from lorascope.planning.run_plan import resolve_config
    from lorascope.records.store import run_folder
    from lorascope.run import execute

    runs = tmp_path_factory.mktemp("runs")
    config = compose(
        [
            "model=hf", f"model.path={tiny}", "model.name=tiny", "device=cpu", "dataset=airports", "target=qv_ffn",
            "dataset.max_train_samples=16", "dataset.max_eval_samples=6", "train.batch_size=4", "train.logging_steps=1",
            "logger=wandb", "logger.group=a-sweep", "logger.tags=[nightly]", f"runs_dir={runs}",
        ]
    )  # fmt: skip
    record = execute(config)
    wandb.teardown()  # as at the end of a process: by then all is written
    return record, read_offline_run(run_folder(resolve_config(config)))


def test_the_parameter_count_and_the_eval_loss_are_in_summary_and_history(run_with_wandb):
    record, found = run_with_wandb
    assert found["summary"]["trainable_parameters"] == record.plan["trainable_parameters"]
    assert found["summary"]["eval_loss"] == record.metrics["eval_loss"]["value"]
    assert found["summary"]["base_eval_loss"] == record.metrics["eval_loss"]["base"]
    losses = [row["eval_loss"] for row in found["history"] if "eval_loss" in row]
    assert losses == [record.metrics["eval_loss"]["base"], record.metrics["eval_loss"]["value"]]
    counts = {row["trainable_parameters"] for row in found["history"] if "trainable_parameters" in row}
    assert counts == {record.plan["trainable_parameters"]}


def test_training_losses_are_in_the_history(run_with_wandb):
    record, found = run_with_wandb
    assert len([row for row in found["history"] if "loss" in row]) == record.timing["steps"]


def test_runs_are_named_grouped_and_tagged(run_with_wandb):
    record, found = run_with_wandb
    assert found["run"].display_name == record.name
    assert found["run"].run_group == "a-sweep"
    assert set(found["run"].tags) == {"nightly", "qv_ffn", "tiny"}


def test_the_config_is_the_runs_config(run_with_wandb):
    record, found = run_with_wandb
    assert found["config"]["target"] == record.config["target"]
    assert found["config"]["run_id"] == record.run_id
    assert found["exit_code"] == 0


def test_every_metric_has_the_step_as_its_axis_and_a_direction(run_with_wandb):
    _, found = run_with_wandb
    assert found["metrics"]["eval_loss"].summary.min  # lower is better
    assert not found["metrics"]["eval_loss"].summary.max
    assert {found["metrics"][name].step_metric for name in ("eval_loss", "train_loss", "*")} == {"step"}
    assert all(row["step"] == row["_step"] for row in found["history"] if "step" in row)


def test_the_table_of_modules_is_the_saved_adapter_module_by_module(run_with_wandb):
    from safetensors.numpy import load_file

    record, _ = run_with_wandb
    folder = Path(record.config["runs_dir"]) / record.name
    (path,) = folder.glob("wandb/offline-run-*/files/media/table/modules*.table.json")
    table = json.loads(path.read_text())
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    saved: dict[str, list] = {}
    for key, weight in weights.items():
        saved.setdefault(key.removeprefix("base_model.model.").partition(".lora_")[0], []).append(weight)
    assert rows.keys() == saved.keys()
    for name, pair in saved.items():
        assert rows[name]["rank"] == min(pair[0].shape[0], pair[1].shape[0])
        assert rows[name]["parameters"] == sum(weight.size for weight in pair)
        assert rows[name]["scale"] == rows[name]["alpha"] / rows[name]["rank"]
        assert f"layers.{rows[name]['layer']}." in name
    assert {row["role"] for row in rows.values()} == {"q", "v", "gate", "up", "down"}


def test_the_wandb_runs_id_is_kept_in_the_runs_folder(run_with_wandb):
    record, found = run_with_wandb
    kept = json.loads((Path(record.config["runs_dir"]) / record.name / "wandb.json").read_text())
    assert kept == {"id": found["run"].run_id, "project": "lorascope", "entity": None}


def test_neither_command_line_nor_host_nor_folders_are_told(run_with_wandb):
    _, found = run_with_wandb
    assert found["environment"] == ""
    assert found["run"].host == ""


def test_a_run_that_goes_on_stays_the_same_wandb_run_and_one_that_starts_over_is_a_fresh_one(tiny_words):
    from lorascope.compose import compose

    config = compose(tiny_words)
    with open_run(config) as (_, folder):
        first = run_identity(folder, "lorascope", "me")
        assert "resume" not in first
        assert run_identity(folder, "lorascope", "me") == first | {"resume": "allow"}
    with open_run(config) as (_, folder):
        again = run_identity(folder, "lorascope", "me")
        assert "resume" not in again
        assert again["id"] != first["id"]


@pytest.fixture
def online_words(tiny_words):
    return [*(word for word in tiny_words if word != "logger=none"), "logger=wandb", "train.logging_steps=1"]


def test_a_whole_run_arrives_at_the_server(online_words, monkeypatch):
    from lorascope.compose import compose
    from lorascope.run import execute

    with logged_in(monkeypatch) as server:
        record = execute(compose(online_words))
    (run,) = server.runs.values()
    told = {key: value for key, value in record.config["target"].items() if value != {}}  # W&B drops what is empty
    assert run["config"]["target"]["value"] == told
    assert [row["eval_loss"] for row in run["lines"] if "eval_loss" in row] == [
        record.metrics["eval_loss"]["base"],
        record.metrics["eval_loss"]["value"],
    ]
    assert len([row for row in run["lines"] if "loss" in row]) == record.timing["steps"]
    assert run["summary"]["trainable_parameters"] == record.plan["trainable_parameters"]
    assert (run["summary"]["status"], run["exit_code"]) == ("done", 0)


def test_a_server_that_is_gone_leaves_a_whole_run_offline_and_the_key_unwritten(online_words, monkeypatch, capfd):
    from lorascope.compose import compose
    from lorascope.run import execute

    monkeypatch.setattr(tracker, "INIT_SECONDS", 1)
    with logged_in(monkeypatch) as server:
        server.turn("down")
        record = execute(compose([*online_words, "train.max_steps=1"]))
    folder = Path(record.config["runs_dir"]) / record.name
    told = capfd.readouterr()
    assert record.status is Status.done
    assert "it did not answer" in told.out
    assert f"send it later with: lorascope sync {folder}" in told.out
    assert KEY not in told.out + told.err
    assert [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    (session,) = folder.glob("wandb/*run-*-*")
    assert session.name.startswith("offline-")
    assert json.loads((folder / "wandb.json").read_text())["id"] in session.name


def test_the_local_history_tells_the_same(run_with_wandb, tiny):
    record, found = run_with_wandb
    folder = Path(record.config["runs_dir"]) / record.name
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows if "loss" in row] == [row["loss"] for row in found["history"] if "loss" in row]


@pytest.mark.parametrize(
    ("environment", "wanted", "mode"),
    [
        ({}, "auto", "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "auto", "online"),
        ({"WANDB_API_KEY": "k" * 40}, "offline", "offline"),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k" * 40}, "online", "disabled"),
    ],
)
def test_the_mode_follows_the_key_unless_it_is_said(environment, wanted, mode, monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(wanted)[0] == mode


def test_a_key_in_netrc_counts(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "k" * 40)
    netrc.chmod(0o600)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(netrc))
    assert wandb_mode("auto")[0] == "online"
