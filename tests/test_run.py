"""Whole runs on the two-layer model, from the command's words to the record."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from helpers import make_model, run_train
from lorascope.compose import compose
from lorascope.records.record import RunRecord, Status
from lorascope.records.store import load_runs
from lorascope.run import execute

ROOT = Path(__file__).parents[1]


def run(*words: str) -> tuple[RunRecord, Path]:
    config = compose(words)
    record = execute(config)
    assert record is not None
    return record, Path(config.runs_dir) / record.name


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """One finished run, for the tests that only look at it."""
    runs = tmp_path_factory.mktemp("runs")
    return run(
        "model=hf", f"model.path={tiny}", "model.name=tiny", "model.dtype=float32", "device=cpu", "dataset=airports",
        "dataset.max_train_samples=24", "dataset.max_eval_samples=10", "train.batch_size=4", "train.learning_rate=1e-2",
        "train.epochs=3", "target=qv_ffn", "logger=none", f"runs_dir={runs}",
    )  # fmt: skip


def test_the_record_holds_what_the_run_was_cost_and_achieved(finished):
    _, folder = finished
    raw = json.loads((folder / "run.json").read_text())
    assert raw["schema_version"] == 1
    assert raw["status"] == "done"
    assert raw["run_id"] in folder.name
    assert raw["config"]["target"]["ranks"]["ffn"] == 4
    assert raw["plan"]["trainable_parameters"] == raw["plan"]["stored_parameters"]
    assert sum(module["parameters"] for module in raw["plan"]["modules"]) == raw["plan"]["trainable_parameters"]
    assert {module["role"]: (module["rank"], module["alpha"]) for module in raw["plan"]["modules"]} == {
        "q": (8, 16), "v": (8, 16), "gate": (4, 16), "up": (4, 16), "down": (4, 16),
    }  # fmt: skip
    loss = raw["metrics"]["eval_loss"]
    assert (loss["unit"], loss["better"]) == ("nats/token", "lower")
    assert loss["value"] < loss["base"]
    assert raw["data"]["train"]["rows"] == 24
    assert 0 < raw["data"]["eval"]["supervised_tokens"] < raw["data"]["eval"]["tokens"]
    assert raw["timing"]["steps"] == 18
    assert raw["timing"]["tokens_per_second"] > 0
    assert raw["memory"]["peak_bytes"] > 10**8
    assert raw["fingerprint"]["hash"]
    assert raw["environment"]["packages"]["torch"] == torch.__version__
    assert raw["environment"]["python"] == sys.version.split()[0]


def test_the_adapter_in_plain_peft_has_the_recorded_loss(finished, tiny):
    """The saved adapter on a fresh base, scored token by token with transformers' own loss."""
    from transformers import AutoTokenizer

    from lorascope.data.sources import load_rows
    from lorascope.data.tokenization import encode

    record, folder = finished
    model = PeftModel.from_pretrained(make_model(), folder / "adapter").eval()
    dataset = compose(["dataset=airports", "dataset.max_train_samples=24", "dataset.max_eval_samples=10"]).dataset
    data = encode(load_rows(dataset).eval, AutoTokenizer.from_pretrained(tiny), 512, "eval")
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for ids, labels in zip(data.input_ids, data.labels, strict=True):
            supervised = sum(label != -100 for label in labels[1:])
            nats += model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() * supervised
            tokens += supervised
    assert record.metrics["eval_loss"]["value"] == pytest.approx(nats / tokens, rel=1e-5)
    assert tokens == record.data["eval"]["supervised_tokens"]


def test_the_same_command_again_finds_the_run_done(tiny_words, capsys):
    first, folder = run(*tiny_words)
    written = (folder / "run.json").stat().st_mtime_ns
    capsys.readouterr()
    again, _ = run(*tiny_words)
    assert again.metrics == first.metrics
    assert (folder / "run.json").stat().st_mtime_ns == written
    assert "This run is done" in capsys.readouterr().out


def test_overwrite_repeats_the_run_and_gets_the_same(tiny_words):
    first, folder = run(*tiny_words)
    written = (folder / "run.json").stat().st_mtime_ns
    again, _ = run(*tiny_words, "overwrite=true")
    assert (folder / "run.json").stat().st_mtime_ns > written
    assert again.metrics["eval_loss"] == first.metrics["eval_loss"]


def test_a_cut_run_is_started_again(tiny_words, monkeypatch):
    import lorascope.run as story

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(story, "train_adapter", cut)
        with pytest.raises(KeyboardInterrupt):
            run(*tiny_words)
    ((record,), _) = load_runs(compose(tiny_words).runs_dir)
    assert record.status is Status.preempted
    assert run(*tiny_words)[0].status is Status.done


@pytest.mark.parametrize("scheme", ["none", "nf4", "int8"])
def test_a_rate_of_zero_leaves_the_base_as_it_is(tiny_words, scheme):
    record, _ = run(*tiny_words, "train.learning_rate=0", f"quantization={scheme}", "target=all_linear")
    loss = record.metrics["eval_loss"]
    assert loss["value"] == pytest.approx(loss["base"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["train.learning_rate=0"], "train.learning_rate is 0"),
        (["train.max_steps=1", "train.warmup_ratio=0.5"], "the only step was at rate 0"),
        (["train.learning_rate=1e-30"], "the eval loss is that of the base"),
    ],
)
def test_a_run_that_learned_nothing_says_so(tiny_words, capsys, words, why):
    record, _ = run(*tiny_words, *words)
    (note,) = record.notes
    assert note.startswith("nothing was learned: ")
    assert why in note
    output = capsys.readouterr()
    assert why in (output.out + output.err).splitlines()[-1]


def test_a_run_that_learned_has_no_such_note(finished):
    assert finished[0].notes == []


def test_nf4_trains_on_four_bit_weights(tiny_words):
    record, _ = run(*tiny_words, "quantization=nf4", "train.learning_rate=1e-2", "train.epochs=3")
    assert record.fingerprint["quantized_modules"] == 14
    assert record.fingerprint["quantization"] == "nf4"
    assert record.metrics["eval_loss"]["value"] < record.metrics["eval_loss"]["base"]


def test_arms_of_one_seed_share_data_and_fingerprint_and_differ_in_the_plan(tiny_words):
    one, _ = run(*tiny_words, "target=q_v")
    other, _ = run(*tiny_words, "target=ffn")
    assert one.fingerprint == other.fingerprint
    assert one.data == other.data
    assert one.metrics["eval_loss"]["base"] == other.metrics["eval_loss"]["base"]
    assert one.plan["modules"] != other.plan["modules"]
    assert run(*tiny_words, "quantization=nf4")[0].fingerprint["hash"] != one.fingerprint["hash"]


def test_a_dry_run_writes_nothing_and_asks_no_hub(tmp_path, monkeypatch, capsys):
    import socket

    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.chdir(tmp_path)
    assert execute(compose(["model=mistral7b", "target=qv_ffn", "dry_run=true"])) is None
    out = capsys.readouterr().out
    assert "10,485,760" in out
    assert "scale 2 (r8) and 4 (r4)" in out
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_leaves_a_record_for_every_combination(tiny_words, monkeypatch):
    code = run_train(monkeypatch, "-m", *tiny_words, "target=q_v,qkvo,qv_ffn", "seed=1,2", "train.max_steps=2")
    assert code == 0
    records, damaged = load_runs(compose(tiny_words).runs_dir)
    assert damaged == []
    assert {(r.config["target"]["name"], r.config["seed"]) for r in records} == {
        (target, seed) for target in ("q_v", "qkvo", "qv_ffn") for seed in (1, 2)
    }
    assert len({r.config["logger"]["group"] for r in records}) == 1
    assert all(r.status is Status.done for r in records)


def test_a_failing_run_of_a_sweep_does_not_stop_the_others(tiny_words, monkeypatch, capsys):
    code = run_train(monkeypatch, "-m", *tiny_words, "train.max_steps=1", "train.max_length=5,512,6")
    assert code == 1
    records, _ = load_runs(compose(tiny_words).runs_dir)
    assert sorted(str(r.status) for r in records) == ["done", "failed", "failed"]
    err = capsys.readouterr().err
    assert "2 runs did not end well" in err
    assert "Traceback" not in err


def test_a_role_that_the_model_lacks_is_one_message(tiny, tiny_words, tmp_path, monkeypatch, capsys):
    from transformers import PhiConfig, PhiForCausalLM

    PhiForCausalLM(
        PhiConfig(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ).save_pretrained(tmp_path / "phi")
    code = run_train(monkeypatch, *tiny_words, f"model.path={tmp_path / 'phi'}", "target=ffn", "target.ranks.gate=4")
    err = capsys.readouterr().err
    assert code == 1
    assert "role 'gate' is absent" in err
    assert "it has q, k, v, o, up, down" in err
    assert "Traceback" not in err


def test_weights_of_another_shape_than_the_preset_stop_the_run(tiny_words, monkeypatch, capsys):
    architecture = (
        "{model_type: llama, vocab_size: 300, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, "
        "num_attention_heads: 4, num_key_value_heads: 2}"
    )
    code = run_train(monkeypatch, *tiny_words, f"model.architecture={architecture}", "target=qv_ffn")
    err = capsys.readouterr().err
    assert code == 1
    assert "the adapter that was built differs from its plan in 6 modules" in err


@pytest.mark.parametrize("place", ["/proc/runs", "/dev/null/runs"])
def test_a_runs_dir_that_cannot_be_written_is_one_message(tiny_words, place, monkeypatch, capsys):
    assert run_train(monkeypatch, *tiny_words, f"runs_dir={place}") == 1
    err = capsys.readouterr().err
    assert f"runs_dir={place} cannot be written" in err
    assert "Traceback" not in err


def test_a_hub_model_without_a_network_is_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    code = run_train(monkeypatch, "model=mistral7b", "logger=none", f"runs_dir={tmp_path}", "device=cpu")
    err = capsys.readouterr().err
    assert code == 1
    assert "model=mistral7b: the hub cannot be reached" in err
    assert "dry_run=true" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("sent", "code"), [("SIGTERM", 75), ("SIGINT", 75), ("SIGUSR1", 75)])
def test_a_stopped_run_says_preempted(tiny_words, sent, code):
    words = [*tiny_words, "train.epochs=2000"]
    runs = Path(compose(words).runs_dir)
    command = [sys.executable, ROOT / "train.py", *words]
    # a shell's background jobs ignore SIGINT, and so would their children: the tests may be such a job
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        try:
            history = wait_for(lambda: next(iter(runs.glob("*/history.jsonl")), None))
            wait_for(lambda: len(history.read_text().splitlines()) > 3)
            process.send_signal(getattr(signal, sent))
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert "preempted" in err
    assert "Traceback" not in err
    ((record,), _) = load_runs(runs)
    assert record.status is Status.preempted


def wait_for(look, seconds: float = 90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_a_dry_sweep_shows_every_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_train(monkeypatch, "-m", "target=q_v,all_linear", "dry_run=true") == 0
    out = capsys.readouterr().out
    assert "460,800" in out
    assert "2,442,240" in out
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def judged(tiny, tmp_path_factory):
    """A finished run with all kinds of metrics."""
    runs = tmp_path_factory.mktemp("judged")
    return run(*TASK_WORDS, f"model.path={tiny}", f"runs_dir={runs}")


TASK_WORDS = [
    "model=hf", "model.name=tiny", "model.dtype=float32", "device=cpu", "dataset=home_intents",
    "dataset.metrics=[macro_f1,accuracy,exact_match,gold_logprob]", "dataset.max_train_samples=48",
    "dataset.max_eval_samples=12", "train.batch_size=4", "train.learning_rate=1e-2", "logger=none",
    "evaluation.forgetting.texts=4", "evaluation.forgetting.tokens=8",
]  # fmt: skip


def test_the_tasks_metrics_stand_in_the_record_beside_the_bases_with_intervals(judged):
    record, _ = judged
    for name in ("macro_f1", "accuracy", "exact_match"):
        entry = record.metrics[name]
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
        assert entry["base"] is not None
        assert entry["items"] == 12
    assert record.metrics["accuracy"]["baselines"].keys() == {"majority class"}
    assert record.metrics["forgetting_kl"]["value"] > 0
    assert record.metrics["forgetting_loss"]["value"] != record.metrics["forgetting_loss"]["base"]


def test_predictions_of_base_and_adapter_are_kept_item_by_item(judged):
    import pyarrow.parquet

    record, folder = judged
    rows = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    assert [row["stage"] for row in rows] == ["base"] * 12 + ["adapter"] * 12
    right = sum(row["choice"] == row["gold"] for row in rows if row["stage"] == "adapter")
    assert right / 12 == pytest.approx(record.metrics["accuracy"]["value"])
    assert not (folder / "predictions-base.parquet").exists()


def test_evaluation_none_measures_the_eval_loss_alone_and_trains_the_same(judged, tiny, tmp_path):
    record, _ = judged
    other, folder = run(*TASK_WORDS[:-2], "evaluation=none", f"model.path={tiny}", f"runs_dir={tmp_path}")
    assert set(other.metrics) == {"eval_loss", "train_loss"}
    assert other.metrics["eval_loss"]["value"] == record.metrics["eval_loss"]["value"]
    assert other.metrics["train_loss"] == record.metrics["train_loss"]
    assert not (folder / "predictions.parquet").exists()


def test_on_four_bits_evaluation_leaves_the_weights_and_the_training_as_they_are(tiny, tmp_path):
    """bitsandbytes repacks 4-bit weights on some CPUs when it is asked without gradients."""
    words = [*TASK_WORDS[:-2], f"model.path={tiny}", "quantization=nf4", "dataset.max_eval_samples=4"]
    judged, _ = run(*words, *TASK_WORDS[-2:], f"runs_dir={tmp_path / 'judged'}")
    alone, _ = run(*words, "evaluation=none", f"runs_dir={tmp_path / 'alone'}")
    assert judged.metrics["eval_loss"]["value"] == alone.metrics["eval_loss"]["value"]
    assert judged.metrics["train_loss"] == alone.metrics["train_loss"]


def test_the_best_checkpoint_stays_when_it_was_asked_for_and_no_other(tiny_words, tmp_path):
    """A rate far too high: the loss rises after its best step."""
    words = [*tiny_words, "train.learning_rate=0.3", "train.scheduler=constant", "train.epochs=4", "train.eval_steps=2"]
    kept, folder = run(*words, "train.keep_best=true")
    losses = {
        row["step"]: row["eval_loss"]
        for row in map(json.loads, (folder / "history.jsonl").read_text().splitlines())
        if "eval_loss" in row and 0 < row["step"] <= kept.timing["steps"]
    }
    best = min(losses, key=losses.get)
    assert kept.metrics["best_eval_loss"]["value"] == losses[best]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"checkpoint-{best}"]
    gone, other = run(*words, "train.save_steps=2", f"runs_dir={tmp_path / 'other'}")
    assert not (other / "checkpoints").exists()
    assert "best_eval_loss" not in gone.metrics


def test_a_run_that_is_cut_before_its_record_is_whole_keeps_its_last_checkpoint(tiny_words, monkeypatch):
    from lorascope.evaluation.measure import Measure

    def cut(*_):
        raise RuntimeError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(Measure, "keep_answers", cut)
        with pytest.raises(RuntimeError):
            run(*tiny_words)
    again, _ = run(*tiny_words)
    assert again.sessions[-1]["from_step"] == again.timing["steps"]


def test_a_resumed_run_remembers_what_the_base_answered(judged, tiny, tmp_path, monkeypatch):
    from lorascope.evaluation.measure import Measure

    words = [*TASK_WORDS, f"model.path={tiny}", f"runs_dir={tmp_path}", "train.save_steps=4"]
    adapted = Measure.adapted

    def cut(*_):
        raise RuntimeError("cut before the end")

    monkeypatch.setattr(Measure, "adapted", cut)
    with pytest.raises(RuntimeError):
        run(*words)
    monkeypatch.setattr(Measure, "adapted", adapted)
    monkeypatch.setattr(Measure, "base", cut)
    again, folder = run(*words)
    first, other = judged
    assert again.metrics == first.metrics
    assert (folder / "predictions.parquet").read_bytes() == (other / "predictions.parquet").read_bytes()
