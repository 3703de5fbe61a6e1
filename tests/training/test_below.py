"""What stands below the first adapted layer is computed forward once, and never backward."""

import random
from collections import Counter

import pytest
import torch
from transformers import TrainerCallback

from helpers import make_model, make_tokenizer
from lorascope.compat import no_gradient_of_inputs
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Ranks, TargetConfig
from lorascope.data.tokenization import IGNORED, TokenizedSplit
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.training import trainer
from lorascope.training.checkpoints import Saving
from lorascope.training.trainer import train_adapter

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS, STEPS = 4, 3
CHECKPOINTING = "train.sft.activation_checkpointing=true"
REENTRANT = "train.sft.activation_checkpointing_kwargs={use_reentrant: true}"
LAST_HALF = {"ranks": Ranks(q=4, v=4), "layers": "last_half"}
HEAD = {"modules": {"lm_head": 4}}
EMBEDDINGS = {"modules": {"embed_tokens": 4}}


def encoded(rows: int = 12) -> TokenizedSplit:
    draw = random.Random(0)
    ids = [[draw.randrange(4, 260) for _ in range(draw.randint(6, 14))] for _ in range(rows)]
    return TokenizedSplit(tuple(ids), tuple([IGNORED] * 3 + row[3:] for row in ids), "hash")


def train(tmp_path, target, *words: str, watch: bool = False):
    """The adapter's weights, and by layer how often it went forward and backward."""
    base = make_model(num_hidden_layers=LAYERS)
    plan = plan_targets(TargetConfig(lora_dropout=0.2, **target), map_modules(base, "tiny", "here"))
    model = attach(base, plan, 0)
    forward, backward = Counter(), Counter()

    def count(counter, number):
        return lambda *_: counter.update([number])

    if watch:  # inside a layer, whose own hooks stand outside of its checkpoint
        for number, layer in enumerate(base.model.layers):
            layer.mlp.register_forward_pre_hook(count(forward, number))
            layer.mlp.register_full_backward_hook(count(backward, number))
    config = resolve(
        compose(["device=cpu", "train.batch_size=4", "train.learning_rate=0.01", f"train.max_steps={STEPS}", *words])
    )
    train_adapter(
        model, make_tokenizer(), encoded(), encoded(4), config, Saving(tmp_path),
        evaluate=dict, callbacks=[TrainerCallback()], warn=print,
    )  # fmt: skip
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return weights, [forward[layer] / STEPS for layer in range(LAYERS)], [backward[layer] for layer in range(LAYERS)]


def test_layers_below_the_first_adapted_one_run_once_and_never_backward(tmp_path):
    _, forward, backward = train(tmp_path, LAST_HALF, CHECKPOINTING, watch=True)
    assert forward == [1, 1, 2, 2]
    assert backward == [0, 0, STEPS, STEPS]


def test_without_checkpointing_each_runs_once(tmp_path):
    _, forward, backward = train(tmp_path, LAST_HALF, watch=True)
    assert forward == [1, 1, 1, 1]
    assert backward == [0, 0, STEPS, STEPS]


def test_with_an_adapted_head_alone_no_layer_is_computed_again(tmp_path):
    _, forward, backward = train(tmp_path, HEAD, CHECKPOINTING, watch=True)
    assert forward == [1, 1, 1, 1]
    assert backward == [0, 0, 0, 0]


def test_with_adapted_embeddings_every_layer_goes_backward(tmp_path):
    weights, forward, backward = train(tmp_path, EMBEDDINGS, CHECKPOINTING, watch=True)
    assert forward == [2, 2, 2, 2]
    assert backward == [STEPS] * 4
    assert any(value.any() for name, value in weights.items() if "embedding_A" in name)


def test_reentrant_checkpointing_keeps_the_gradient_that_it_needs(tmp_path):
    weights, _, backward = train(tmp_path, LAST_HALF, CHECKPOINTING, REENTRANT, watch=True)
    assert backward == [STEPS] * 4
    plain, _, _ = train(tmp_path / "plain", LAST_HALF)
    assert all(torch.equal(value, plain[name]) for name, value in weights.items())


@pytest.mark.parametrize("target", [LAST_HALF, HEAD, EMBEDDINGS], ids=["last_half", "lm_head", "embed_tokens"])
def test_the_adapter_is_the_same_as_when_everything_goes_backward(tmp_path, monkeypatch, target):
    spared, _, _ = train(tmp_path / "spared", target, CHECKPOINTING)
    plain, _, _ = train(tmp_path / "plain", target)
    monkeypatch.setattr(trainer, "is_reentrant", lambda train: True)  # the libraries' own hooks stay
    _, forward, backward = train(tmp_path / "watched", target, CHECKPOINTING, watch=True)
    assert forward == [2, 2, 2, 2]
    assert backward == [STEPS] * 4
    whole, _, _ = train(tmp_path / "whole", target, CHECKPOINTING)
    assert spared.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) and torch.equal(value, plain[name]) for name, value in spared.items())


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([], False),
        (["+train.sft.activation_checkpointing_kwargs={every_n_layers: 2}"], False),
        (["+train.sft.activation_checkpointing_kwargs={use_reentrant: false}"], False),
        (["+train.sft.activation_checkpointing_kwargs={use_reentrant: true}"], True),
        (["+train.sft.activation_checkpointing_kwargs={determinism_check: none}"], True),  # torch's default then
    ],
)
def test_the_kind_of_checkpointing_is_read_from_the_settings(words, kind):
    from lorascope.planning.step_spec import is_reentrant

    assert is_reentrant(compose(words).train) is kind


def test_a_model_that_checkpoints_in_the_old_way_keeps_the_gradient_of_its_inputs():
    base = make_model()
    base._set_gradient_checkpointing = lambda module, value=False: None
    asked = []
    base.enable_input_require_grads = lambda: asked.append(True)
    model = type("Model", (), {"get_base_model": lambda self: base})()
    with no_gradient_of_inputs(model):
        base.enable_input_require_grads()
    assert asked == [True]
