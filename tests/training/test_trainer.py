import dataclasses
import json
import math
import random
import re

import pytest
import torch
from transformers import TrainerCallback

from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Bias, Ranks, RunConfig, TargetConfig
from lorascope.console import Bar, console
from lorascope.data.tokenization import IGNORED, TokenizedSplit
from lorascope.errors import RunError
from lorascope.interrupts import Preempted
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.trackers import Trackers
from lorascope.training import sft_trainer
from lorascope.training.checkpoints import Saving, newest, read
from lorascope.training.trainer import progress_callback, train_adapter


def encoded(rows: int = 12) -> TokenizedSplit:
    draw = random.Random(0)
    ids = [[draw.randrange(4, 260) for _ in range(draw.randint(6, 14))] for _ in range(rows)]
    return TokenizedSplit(tuple(ids), tuple([IGNORED] * 3 + row[3:] for row in ids), "hash")


def config(*words: str) -> RunConfig:
    return resolve(
        compose(["device=cpu", "train.batch_size=4", "train.logging_steps=1", "train.learning_rate=0.01", *words])
    )


class Listener:
    def __init__(self):
        self.heard = []

    def log(self, step, values):
        self.heard.append((step, dict(values)))

    def finish(self, record):
        pass


def train(
    tmp_path, *words: str, dropout: float = 0.0, bias="none", latest=None, evaluate=None, callbacks=(), warn=print
):
    base = make_model(attention_bias=bias != "none", mlp_bias=bias != "none")
    target = TargetConfig(ranks=Ranks(q=4, v=4), lora_dropout=dropout, bias=Bias(bias))
    plan = plan_targets(target, map_modules(base, "tiny", "here"))
    model = attach(base, plan, 0)
    listener = Listener()
    with Bar(console(), "training", 1) as bar:
        result = train_adapter(
            model,
            make_tokenizer(),
            encoded(),
            encoded(4),
            config(*words),
            Saving(tmp_path, latest),
            evaluate=evaluate or (lambda: {"eval_loss": 1.25}),
            callbacks=[progress_callback(bar, Trackers([listener], print)), *callbacks],
            warn=warn,
        )
    return model, result, listener.heard


def adapter(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_steps_tokens_and_loss_are_counted(tmp_path):
    _, result, heard = train(tmp_path, "train.epochs=2")
    assert result.steps == 2 * 3
    assert result.tokens == 2 * sum(map(len, encoded().input_ids))
    losses = [values["loss"] for _, values in heard if "loss" in values]
    assert len(losses) == 6
    assert result.train_loss == pytest.approx(sum(losses) / 6)


def test_one_step_is_adam_on_the_mean_loss_over_supervised_tokens(tmp_path):
    """The update by hand: gradients of the mean over tokens, clipped to norm 1, one AdamW step."""
    model, _, _ = train(tmp_path, "train.batch_size=12", "train.max_steps=1", "train.warmup_ratio=0")
    base = make_model()
    plan = plan_targets(TargetConfig(ranks=Ranks(q=4, v=4), lora_dropout=0.0), map_modules(base, "tiny", "here"))
    by_hand = attach(base, plan, 0).train()
    data = encoded()
    nats, tokens = torch.tensor(0.0), 0
    for ids, labels in zip(data.input_ids, data.labels, strict=True):
        logits = torch.log_softmax(by_hand(torch.tensor([ids])).logits[0], dim=-1)
        for position in range(1, len(ids)):
            if labels[position] != IGNORED:
                nats = nats - logits[position - 1, ids[position]]
                tokens += 1
    (nats / tokens).backward()
    parameters = [p for p in by_hand.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0).step()
    expected = adapter(by_hand)
    for name, value in adapter(model).items():
        assert torch.allclose(value, expected[name], atol=2e-5), name


def test_gradient_accumulation_is_the_same_batch(tmp_path):
    words = ("train.max_steps=2", "train.warmup_ratio=0")
    whole, _, _ = train(tmp_path, "train.batch_size=12", *words)
    parts, _, _ = train(tmp_path, "train.batch_size=4", "train.gradient_accumulation=3", *words)
    expected = adapter(whole)
    for name, value in adapter(parts).items():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(tmp_path):
    one, again, other = (adapter(train(tmp_path, f"seed={seed}", dropout=0.3)[0]) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_only_the_adapter_moves(tmp_path):
    before = {name: p.clone() for name, p in make_model().named_parameters()}
    model, _, _ = train(tmp_path)
    base = model.unload()
    assert all(torch.equal(before[name], p) for name, p in base.named_parameters())


def test_evaluation_during_training_is_ours_and_reaches_the_trackers(tmp_path):
    _, _, heard = train(tmp_path, "train.eval_steps=2", "train.epochs=2")
    assert [(step, values["eval_loss"]) for step, values in heard if "eval_loss" in values] == [
        (2, 1.25), (4, 1.25), (6, 1.25),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_before_it_reaches_the_weights(tmp_path, monkeypatch, bad):
    real, steps = sft_trainer.scored, []

    def losses(model, inputs, labels):
        steps.append(inputs["input_ids"])
        found, output = real(model, inputs, labels)
        return found * (bad if len(steps) == 2 else 1.0), output

    monkeypatch.setattr(sft_trainer, "scored", losses)
    kept = []
    keep = type(
        "Keep", (TrainerCallback,), {"on_step_end": lambda self, *_, model, **__: kept.append(adapter(model))}
    )()
    with pytest.raises(RunError, match=r"step 2: loss (nan|inf)( and gradient norm \S+)?: not a number") as caught:
        train(tmp_path, "train.epochs=2", callbacks=[keep])
    assert len(kept) == 1  # the second step was never made
    rows = [int(number) for number in re.search(r"Rows of the batch: ([\d, ]+)\.", str(caught.value))[1].split(",")]
    data = encoded().input_ids
    assert sorted(rows) == sorted(
        number for number in range(12) if any(ids[: len(data[number])] == data[number] for ids in steps[1].tolist())
    )
    assert len(rows) == 4


def test_a_packed_batch_names_its_rows(tmp_path, monkeypatch):
    real = sft_trainer.scored
    monkeypatch.setattr(sft_trainer, "scored", lambda *words: (real(*words)[0] * float("nan"), None))
    with pytest.raises(RunError, match=r"Rows of the batch: \d+, \d+"):
        train(tmp_path, "train.packing=true", "train.max_length=64")


def test_checkpoints_are_written_when_asked_for(tmp_path):
    train(tmp_path / "none", "train.save_minutes=null")
    assert not list(tmp_path.glob("none/checkpoint-*"))
    train(tmp_path / "last")
    assert [one.name for one in tmp_path.glob("last/checkpoint-*")] == ["checkpoint-3"]
    train(tmp_path / "some", "train.save_steps=2")
    assert {one.name for one in tmp_path.glob("some/checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    assert read(tmp_path / "some" / "checkpoint-2").meta["finished"] is False


@pytest.mark.parametrize("bias", Bias)
def test_a_training_goes_on_exactly_where_a_checkpoint_left_it(tmp_path, bias):
    words = ("train.epochs=4", "train.logging_steps=5", "train.eval_steps=3")
    whole, result, heard = train(tmp_path / "whole", *words, "train.save_steps=1", dropout=0.3, bias=bias)
    expected = adapter(whole)
    assert (bias == "none") == (not any(".bias" in name for name in expected))
    for step in (1, 3, 4, 7, 11, 12) if bias == "none" else (4, 12):
        stop = _stop_at(step)
        train(tmp_path / f"cut-{step}", *words, "train.save_steps=1", dropout=0.3, bias=bias, callbacks=[stop])
        latest = newest(tmp_path / f"cut-{step}", print)
        assert latest.step == step
        model, again, after = train(tmp_path / f"cut-{step}", *words, dropout=0.3, bias=bias, latest=latest)
        assert all(torch.equal(value, expected[name]) for name, value in adapter(model).items()), step
        assert (again.steps, again.tokens, again.train_loss) == (result.steps, result.tokens, result.train_loss)
        assert after == [(at, values) for at, values in heard if at > step], step


def test_a_checkpoint_that_says_it_reused_no_lower_layers_is_gone_on_from(tmp_path):
    """As versions with `train.reuse_lower_layers` wrote them."""
    words = ("train.epochs=2", "train.save_steps=1")
    whole, _, _ = train(tmp_path / "whole", *words)
    train(tmp_path / "cut", *words, callbacks=[_stop_at(2)])
    manifest = tmp_path / "cut" / "checkpoint-2" / "manifest.json"
    written = json.loads(manifest.read_text())
    written["meta"]["reuses_lower_layers"] = False
    manifest.write_text(json.dumps(written))
    latest = newest(tmp_path / "cut", print)
    assert latest.meta["reuses_lower_layers"] is False
    model, _, _ = train(tmp_path / "cut", *words, latest=latest)
    assert all(torch.equal(value, adapter(whole)[name]) for name, value in adapter(model).items())


def test_an_evaluation_that_was_cut_is_made_before_the_next_step(tmp_path):
    words = ("train.epochs=2", "train.eval_steps=3", "train.save_steps=2")
    _, _, heard = train(tmp_path / "whole", *words)

    def cut():
        raise Preempted("SIGTERM")

    with pytest.raises(Preempted):
        train(tmp_path / "cut", *words, evaluate=cut)
    latest = newest(tmp_path / "cut", print)
    assert (latest.step, latest.meta["finished"]) == (3, False)
    _, _, after = train(tmp_path / "cut", *words, latest=latest)
    assert after == [(at, values) for at, values in heard if at > 3 or (at == 3 and "eval_loss" in values)]


def _stop_at(step):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == step

    return type("Stop", (TrainerCallback,), {"on_step_end": on_step_end})()


def test_the_best_checkpoint_is_kept_beside_the_latest(tmp_path):
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    train(
        tmp_path, "train.epochs=8", "train.eval_steps=3", "train.save_steps=3", "train.keep_best=true",
        evaluate=lambda: {"eval_loss": next(losses)},
    )  # fmt: skip
    assert {one.name for one in tmp_path.glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-21", "checkpoint-24"}


def test_a_checkpoint_that_cannot_be_written_is_told_and_training_goes_on(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    told = []
    real = sft_trainer.checkpoints._flush
    monkeypatch.setattr(
        sft_trainer.checkpoints, "_flush", lambda path: full(path) if ".writing-2" in str(path) else real(path)
    )
    _, result, _ = train(tmp_path, "train.save_steps=1", warn=told.append)
    assert result.steps == 3
    assert told == ["the checkpoint of step 2 could not be written (No space left on device); the one before stays"]
    assert {one.name for one in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-3"}


def test_packed_rows_train_too(tmp_path):
    _, result, _ = train(tmp_path, "train.packing=true", "train.max_length=64")
    assert math.isfinite(result.train_loss)


def test_a_frozen_rate_moves_nothing(tmp_path):
    model, _, _ = train(tmp_path, "train.learning_rate=0")
    base = make_model()
    plan = plan_targets(TargetConfig(ranks=Ranks(q=4, v=4), lora_dropout=0.0), map_modules(base, "tiny", "here"))
    start = adapter(attach(base, plan, 0))
    assert all(torch.equal(value, start[name]) for name, value in adapter(model).items())


def test_on_four_bits_biases_start_from_the_bases_to_the_last_bit(tmp_path):
    from lorascope.base.loading import load_base

    make_model(attention_bias=True).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    words = ["quantization=nf4", "model.dtype=float32", "train.max_steps=1", "train.learning_rate=0"]
    settings = resolve(compose(["model=hf", f"model.path={tmp_path}", "device=cpu", *words]))
    base = load_base(settings)
    for layer in base.model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias, std=0.1)
    plan = plan_targets(TargetConfig(ranks=Ranks(q=4), bias=Bias.all), map_modules(base.model, "tiny", "here"))
    model = attach(base.model, plan, 0)
    start = {name: value for name, value in adapter(model).items() if ".bias" in name}
    train_adapter(
        model, base.tokenizer, encoded(), encoded(4), settings, Saving(tmp_path / "run"),
        evaluate=dict, callbacks=[], warn=print,
    )  # fmt: skip
    assert start
    assert all(torch.equal(adapter(model)[name], value) for name, value in start.items())


STEPS = ["train.max_steps=2", "train.learning_rate=2e-4"]


def test_the_adapter_stays_float32_on_a_quantized_base(tiny, tmp_path):
    from lorascope.base.loading import load_base

    settings = dataclasses.replace(
        resolve(compose(["model=hf", f"model.path={tiny}", "device=cpu", "quantization=nf4", *STEPS]))
    )
    base = load_base(settings)
    plan = plan_targets(TargetConfig(ranks=Ranks(all=4)), map_modules(base.model, "tiny", "here"))
    model = attach(base.model, plan, 0)
    train_adapter(
        model, base.tokenizer, encoded(), encoded(4), settings, Saving(tmp_path),
        evaluate=dict, callbacks=[], warn=print,
    )  # fmt: skip
    trained = adapter(model)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert any(value.any() for name, value in trained.items() if "lora_B" in name)
