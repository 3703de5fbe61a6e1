import dataclasses
import math
import random

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.config import Ranks, RunConfig, TargetConfig
from lorascope.data.tokens import IGNORED, Encoded
from lorascope.models.device import resolve
from lorascope.records.trackers import Trackers
from lorascope.targets.attach import attach
from lorascope.targets.module_map import map_modules
from lorascope.targets.plan import plan_targets
from lorascope.terminal import Bar, console
from lorascope.training.progress import progress_callback
from lorascope.training.trainer import train_adapter


def encoded(rows: int = 12) -> Encoded:
    draw = random.Random(0)
    ids = [[draw.randrange(4, 260) for _ in range(draw.randint(6, 14))] for _ in range(rows)]
    return Encoded(tuple(ids), tuple([IGNORED] * 3 + row[3:] for row in ids), "hash")


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


def train(tmp_path, *words: str, dropout: float = 0.0):
    base = make_model()
    plan = plan_targets(TargetConfig(ranks=Ranks(q=4, v=4), lora_dropout=dropout), map_modules(base, "tiny", "here"))
    model = attach(base, plan, 0)
    listener = Listener()
    with Bar(console(), "training", 1) as bar:
        result = train_adapter(
            model,
            make_tokenizer(),
            encoded(),
            encoded(4),
            config(*words),
            tmp_path,
            evaluate=lambda: {"eval_loss": 1.25},
            callbacks=[progress_callback(bar, Trackers([listener], print))],
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


def test_a_nan_is_shown_as_it_is(tmp_path, monkeypatch):
    from lorascope.training import trainer

    real = trainer.token_losses
    monkeypatch.setattr(trainer, "token_losses", lambda *words: real(*words) * float("nan"))
    _, _, heard = train(tmp_path, "train.max_steps=1")
    assert math.isnan(next(values["loss"] for _, values in heard if "loss" in values))


def test_checkpoints_are_written_when_asked_for(tmp_path):
    train(tmp_path / "none")
    assert not list(tmp_path.glob("none/checkpoint-*"))
    train(tmp_path / "some", "train.save_steps=2")
    assert (tmp_path / "some" / "checkpoint-2" / "adapter_model.safetensors").is_file()


def test_packed_rows_train_too(tmp_path):
    _, result, _ = train(tmp_path, "train.sft.packing=true", "train.max_length=64")
    assert math.isfinite(result.train_loss)


def test_a_frozen_rate_moves_nothing(tmp_path):
    model, _, _ = train(tmp_path, "train.learning_rate=0")
    base = make_model()
    plan = plan_targets(TargetConfig(ranks=Ranks(q=4, v=4), lora_dropout=0.0), map_modules(base, "tiny", "here"))
    start = adapter(attach(base, plan, 0))
    assert all(torch.equal(value, start[name]) for name, value in adapter(model).items())


def test_the_adapter_stays_float32_on_a_quantized_base(tiny, tmp_path):
    from lorascope.models.loading import load_base

    settings = dataclasses.replace(
        resolve(compose(["model=hf", f"model.path={tiny}", "device=cpu", "quantization=nf4", "train.max_steps=2"]))
    )
    base = load_base(settings)
    plan = plan_targets(TargetConfig(ranks=Ranks(all=4)), map_modules(base.model, "tiny", "here"))
    model = attach(base.model, plan, 0)
    train_adapter(
        model, base.tokenizer, encoded(), encoded(4), settings, tmp_path, evaluate=dict, callbacks=[]
    )  # fmt: skip
    trained = adapter(model)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert any(value.any() for name, value in trained.items() if "lora_B" in name)
