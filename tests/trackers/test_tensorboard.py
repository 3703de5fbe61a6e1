"""What a run's event files hold, read back with TensorBoard's own reader."""

import json
from pathlib import Path

import pytest

from lorascope.compose import compose
from lorascope.run import execute

pytest.importorskip("tensorboard")


@pytest.fixture(scope="module")
def seen(tiny, tmp_path_factory):
    """A run's record, its folder and TensorBoard's view of it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = tmp_path_factory.mktemp("runs")
    record = execute(
        compose(
            [
                "model=hf", f"model.path={tiny}", "model.name=tiny", "device=cpu", "dataset=airports", "target=qv_ffn",
                "dataset.max_train_samples=16", "dataset.max_eval_samples=6", "train.batch_size=4",
                "train.logging_steps=1", "logger=tensorboard", "logger.tags=[nightly]", f"runs_dir={runs}",
            ]
        )
    )  # fmt: skip
    events = EventAccumulator(str(runs / record.name / "tensorboard"))
    events.Reload()
    return record, runs / record.name, events


def curve(events, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in events.Scalars(name)]


def test_every_value_of_the_local_history_is_a_point(seen):
    _, folder, events = seen
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert len(rows) > 5
    for name in {name for row in rows for name in row if name != "step"}:
        points = [(row["step"], row[name]) for row in rows if name in row]
        assert curve(events, name) == [(step, pytest.approx(value, rel=1e-6)) for step, value in points]  # float32


def test_the_final_metrics_are_the_records(seen):
    record, _, events = seen
    for name in ("eval_loss", "train_loss"):
        assert curve(events, f"final/{name}") == [(4, pytest.approx(record.metrics[name]["value"], rel=1e-6))]


def test_config_and_modules_are_there_to_read(seen):
    _, folder, events = seen
    (config,) = events.Tensors("config/text_summary")
    text = config.tensor_proto.string_val[0].decode()
    assert text.removeprefix("```yaml\n").removesuffix("```") == (folder / "config.yaml").read_text()
    (modules,) = events.Tensors("modules/text_summary")
    rows = modules.tensor_proto.string_val[0].decode().splitlines()
    assert len(rows) == 2 + 10  # q, v, gate, up, down in two layers
    assert rows[2].split(" | ")[3:6] == ["8", "16.0", "2.0"]


def test_the_settings_are_hparams_and_the_run_ended_well(seen):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    _, _, events = seen
    parts = {
        name: HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content)
        for name in ("experiment", "session_start_info", "session_end_info")
    }
    chosen = parts["session_start_info"].session_start_info.hparams
    assert chosen["target.ranks.q"].number_value == 8
    assert chosen["train.scheduler"].string_value == "cosine"
    assert not any("runs_dir" in name or "logger" in name for name in chosen)
    assert parts["session_end_info"].session_end_info.status == 1  # STATUS_SUCCESS


def test_the_user_is_told_how_to_look_at_all_runs_of_the_folder(tiny_words, capsys):
    words = [word for word in tiny_words if word != "logger=none"]
    record = execute(compose([*words, "logger=tensorboard", "train.max_steps=1"]))
    shown = "".join(capsys.readouterr().out.split())
    assert "".join(f"tensorboard --logdir {Path(record.config['runs_dir'])}".split()) in shown
