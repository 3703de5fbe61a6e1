"""Packed rows are learned as if each stood alone, or packing is refused; a cut training goes on exactly."""

import math
import random

import pytest
import torch
import transformers

from helpers import TINY, make_tokenizer
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Ranks, TargetConfig
from lorascope.data.tokenization import IGNORED, TokenizedSplit
from lorascope.errors import ConfigError
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.training.checkpoints import Saving, newest
from lorascope.training.trainer import train_adapter

HEADS = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ENDS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
APART = {
    "Llama": TINY,
    "Qwen3": TINY | {"head_dim": 8},
    "Phi3": TINY | ENDS,
    "Gemma3Text": TINY | WINDOWS | {"head_dim": 8},
    "GPTNeoX": HEADS | {"intermediate_size": 64, "max_position_embeddings": 512},
    "GPT2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4} | ENDS | NO_DROPOUT,
}
ACROSS = {
    "Bloom": {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4} | ENDS,
    "OPT": HEADS | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 512, "dropout": 0.1} | ENDS,
    "Mamba": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2},
}
MODULES = {"Bloom": {"attention": 4}, "Mamba": {}, "OPT": {"q": 4}}


def encoded(rows: int = 12) -> TokenizedSplit:
    draw = random.Random(0)
    ids = [[draw.randrange(4, 260) for _ in range(draw.randint(6, 14))] for _ in range(rows)]
    return TokenizedSplit(tuple(ids), tuple([IGNORED] * 3 + row[3:] for row in ids), "hash")


def model_of(kind: str, attention: str = "sdpa"):
    settings = (APART | ACROSS)[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    name = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(kind, f"{kind}ForCausalLM")
    if kind in APART:
        config._attn_implementation = attention
    return getattr(transformers, name)(config)


def train(tmp_path, kind="Llama", *words, attention="sdpa", latest=None, callbacks=(), data=None, dropout=0.0):
    base = model_of(kind, attention)
    target = TargetConfig(ranks=Ranks(**MODULES.get(kind, {"q": 4})), lora_dropout=dropout)
    if kind == "Mamba":
        target = TargetConfig(modules={"in_proj": 4}, lora_dropout=dropout)
    model = attach(base, plan_targets(target, map_modules(base, "tiny", "here")), 0)
    config = resolve(
        compose(["device=cpu", "train.packing=true", "train.batch_size=1", "train.max_length=256", *words])
    )
    result = train_adapter(
        model, make_tokenizer(), data or encoded(), encoded(4), config, Saving(tmp_path, latest),
        evaluate=lambda: {"eval_loss": 1.0}, callbacks=list(callbacks), warn=print,
    )  # fmt: skip
    return model, result


def mean_alone(model, data: TokenizedSplit) -> float:
    """The mean loss over supervised tokens, each row by itself, out of transformers' own forward."""
    nats, tokens = 0.0, 0
    model.eval()
    for ids, labels in zip(data.input_ids, data.labels, strict=True):
        count = sum(label != IGNORED for label in labels[1:])
        with torch.no_grad():
            nats += float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss) * count
        tokens += count
    return nats / tokens


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", APART)
def test_packed_rows_have_the_loss_that_they_have_alone(tmp_path, kind, attention):
    _, result = train(tmp_path, kind, "train.max_steps=1", attention=attention)
    assert result.tokens == sum(map(len, encoded().input_ids))  # one step reads them all
    assert result.train_loss == pytest.approx(mean_alone(model_of(kind, attention), encoded()), abs=2e-6)


@pytest.mark.parametrize("kind", ACROSS)
def test_a_model_that_looks_across_packed_rows_is_refused(tmp_path, kind):
    with pytest.raises(ConfigError, match=r"train.packing: \w+ looks across packed rows(.|\n)*train.packing=false"):
        train(tmp_path, kind)


def test_the_same_model_trains_without_packing(tmp_path):
    _, result = train(tmp_path, "Bloom", "train.packing=false")
    assert math.isfinite(result.train_loss)


def test_a_models_own_refusal_is_one_message(tmp_path, monkeypatch):
    real = transformers.LlamaForCausalLM.forward

    def forward(self, *args, position_ids=None, **options):
        if position_ids is not None:
            raise ValueError("cannot keep packed rows apart")
        return real(self, *args, **options)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", forward)
    with pytest.raises(ConfigError, match=r"train.packing: the model refuses packed rows: cannot keep"):
        train(tmp_path)


def test_the_look_changes_nothing(tmp_path, monkeypatch):
    from lorascope.training import trainer

    looked = _adapter(train(tmp_path / "one", dropout=0.3)[0])
    monkeypatch.setattr(trainer, "check_packing", lambda *_: None)
    unseen = _adapter(train(tmp_path / "two", dropout=0.3)[0])
    assert all(torch.equal(value, unseen[name]) for name, value in looked.items())


def test_a_packed_training_goes_on_exactly_where_a_checkpoint_left_it(tmp_path):
    words = ("train.epochs=3", "train.max_length=32", "train.save_steps=1")
    whole, result = train(tmp_path / "whole", "Llama", *words, dropout=0.3)
    assert result.steps > 6
    for step in (2, 5):
        train(tmp_path / f"cut-{step}", "Llama", *words, dropout=0.3, callbacks=[_stop_at(step)])
        latest = newest(tmp_path / f"cut-{step}", print)
        assert latest.step == step
        model, again = train(tmp_path / f"cut-{step}", "Llama", *words, dropout=0.3, latest=latest)
        expected = _adapter(whole)
        assert all(torch.equal(value, expected[name]) for name, value in _adapter(model).items())
        assert (again.steps, again.tokens, again.train_loss) == (result.steps, result.tokens, result.train_loss)


def _adapter(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _stop_at(step):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == step

    return type("Stop", (transformers.TrainerCallback,), {"on_step_end": on_step_end})()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("train.sft.packing=true", "Set train.packing instead"),
        ("train.sft.packing_strategy=wrapped", "cuts rows in two"),
        ("train.packing=maybe", r"train.packing must be true or false \(got 'maybe'\)"),
    ],
)
def test_packing_has_one_setting(word, says):
    with pytest.raises(ConfigError, match=says):
        compose([word])
