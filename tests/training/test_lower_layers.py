"""Layers below the adapter are computed once for each row, and nothing that is learned changes; or it is not done."""

import random
from functools import partial

import pytest
import torch
from transformers import TrainerCallback

from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.config import Missing, Ranks, TargetConfig
from lorascope.data.tokens import IGNORED, Encoded
from lorascope.models.device import resolve
from lorascope.targets.attach import attach
from lorascope.targets.module_map import map_modules
from lorascope.targets.plan import plan_targets
from lorascope.training import lower_layers, states
from lorascope.training.checkpoints import newest
from lorascope.training.states import States, Unfit, key_of, place_for
from lorascope.training.trainer import Saving, train_adapter
from small_models import VARIANTS, quiet, small_model

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS, FIRST = 4, 2
REUSED = "train.reuse_lower_layers=true"
CHECKPOINTING = "train.sft.activation_checkpointing=true"


def encoded(rows: int = 12) -> Encoded:
    draw = random.Random(0)
    ids = [[draw.randrange(5, 95) for _ in range(draw.randint(6, 14))] for _ in range(rows)]
    return Encoded(tuple(ids), tuple([IGNORED] * 3 + row[3:] for row in ids), "hash")


class Watch(TrainerCallback):
    """How often each layer was computed in the steps of a training, and a stop."""

    def __init__(self, stop_at=None):
        self.stop_at, self.calls = stop_at, []

    def on_train_begin(self, args, state, control, model, **_):
        self.calls = [0] * LAYERS
        for number, layer in enumerate(model.get_base_model().model.layers):
            layer.mlp.register_forward_pre_hook(partial(self.count, number))

    def count(self, number, *_):
        self.calls[number] += 1

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == self.stop_at


class Trained:
    """What a training came to."""

    def __init__(
        self, folder, *words, base=None, target=None, dtype=None, callbacks=(), latest=None, data=None, kept=None
    ):
        base = base or make_model(num_hidden_layers=LAYERS)
        if dtype:
            base = base.to(dtype)
        target = target or {"ranks": Ranks(q=4, v=4), "layers": "last_half"}
        plan = plan_targets(TargetConfig(**{"lora_dropout": 0.2} | target), map_modules(base, "tiny", "here"))
        self.base, self.model, self.warned = base, attach(base, plan, 0), []
        self.kept = {} if kept is None else kept
        config = resolve(
            compose(["device=cpu", "train.batch_size=4", "train.learning_rate=0.01", "train.epochs=3", *words])
        )
        self.result = train_adapter(
            self.model, make_tokenizer(), data or encoded(), encoded(4), config, Saving(folder, latest),
            evaluate=lambda: {"eval_loss": 1.0}, callbacks=list(callbacks), warn=self.warned.append, states=self.kept,
        )  # fmt: skip
        self.weights = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        self.said = self.result.lower_layers

    def gap(self, other) -> float:
        assert self.weights.keys() == other.weights.keys()
        return max(float((value - other.weights[name]).abs().max()) for name, value in self.weights.items())

    def equals(self, other) -> bool:
        return all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("plain"))


KINDS = {
    "plain": (),
    "checkpointing": (CHECKPOINTING,),
    "accumulation": ("train.batch_size=2", "train.gradient_accumulation=2"),
    "grouped": ("train.group_by_length=true",),
    "padded": ("train.sft.pad_to_multiple_of=8",),
    "one_row": ("train.batch_size=1",),
    "evaluated": ("train.eval_steps=2",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_is_the_one_that_all_layers_in_every_step_give(tmp_path, kind):
    every = Trained(tmp_path / "every", *KINDS[kind])
    once = Trained(tmp_path / "once", REUSED, *KINDS[kind])
    assert once.said["layers"] == FIRST
    assert once.gap(every) < 2e-5  # weights move by about 0.1
    assert once.result.train_loss == pytest.approx(every.result.train_loss, abs=1e-6)
    assert every.said == {}


def test_in_16_bits_it_is_the_same_within_their_rounding(tmp_path):
    every = Trained(tmp_path / "every", dtype=torch.bfloat16)
    once = Trained(tmp_path / "once", REUSED, dtype=torch.bfloat16)
    assert once.said["bytes"] == 2 * 32 * sum(map(len, encoded().input_ids))  # two bytes each of 32 numbers
    moved = max(float(value.abs().max()) for name, value in every.weights.items() if "lora_B" in name)
    assert once.gap(every) < 0.2 * moved
    assert once.result.train_loss == pytest.approx(every.result.train_loss, abs=5e-3)


@pytest.mark.parametrize("words", [(), (CHECKPOINTING,)], ids=["kept", "checkpointing"])
def test_layers_below_the_adapter_are_not_computed_in_any_step(tmp_path, words):
    watch = Watch()
    Trained(tmp_path, REUSED, *words, callbacks=[watch])
    again = 2 if words else 1
    assert watch.calls == [0, 0, 9 * again, 9 * again]


def test_what_is_kept_is_what_transformers_itself_returns(tmp_path):
    trained = Trained(tmp_path, REUSED)
    (kept,) = trained.kept.values()
    base = make_model(num_hidden_layers=LAYERS)
    for ids in encoded().input_ids:
        with torch.no_grad():
            expected = base(torch.tensor([ids]), output_hidden_states=True).hidden_states[FIRST][0]
        start, end = kept.places[key_of(ids)]
        assert torch.allclose(kept.table[start:end], expected, atol=1e-5)


def test_nothing_stays_on_the_model(tmp_path):
    trained = Trained(tmp_path, REUSED)
    for layer in trained.base.model.layers:
        assert "forward" not in vars(layer)
        assert not layer._forward_pre_hooks
        assert not layer._forward_hooks
    ids = torch.tensor([encoded().input_ids[0]])
    with trained.model.disable_adapter(), torch.no_grad():
        assert torch.equal(trained.model.eval()(ids).logits, make_model(num_hidden_layers=LAYERS).eval()(ids).logits)


def test_in_memory_and_on_the_disk_it_is_the_same_to_the_bit_and_no_file_stays(tmp_path, monkeypatch):
    memory = Trained(tmp_path / "memory", REUSED)
    assert memory.said["where"] == "memory"
    monkeypatch.setattr(states, "SHARE_OF_MEMORY", 0)
    disk = Trained(tmp_path / "disk", REUSED)
    assert disk.said["where"] == "disk"
    assert disk.equals(memory)
    assert not list(tmp_path.rglob(".states*"))


def test_where_neither_has_room_every_step_computes_all_layers(tmp_path, monkeypatch, plain):
    monkeypatch.setattr(states, "SHARE_OF_MEMORY", 0)
    monkeypatch.setattr(states, "SHARE_OF_DISK", 0)
    trained = Trained(tmp_path, REUSED)
    assert "GiB are free" in trained.said["not_reused"]
    assert trained.equals(plain)
    assert trained.warned == [
        f"train.reuse_lower_layers: every step computes all layers, since {trained.said['not_reused']}"
    ]


def test_a_disk_that_is_full_after_all_is_a_reason_and_no_crash(tmp_path, monkeypatch, plain):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "SHARE_OF_MEMORY", 0)
    monkeypatch.setattr(states.os, "posix_fallocate", full)
    trained = Trained(tmp_path, REUSED)
    assert "No space left on device" in trained.said["not_reused"]
    assert trained.equals(plain)


def test_memory_comes_before_the_disk_and_both_leave_others_their_share():
    assert place_for(100, 400, 0) == "memory"
    assert place_for(101, 400, 202) == "disk"
    with pytest.raises(Unfit):
        place_for(101, 400, 201)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_training_goes_on_exactly_where_a_checkpoint_left_it(tmp_path, monkeypatch, where):
    if where == "disk":
        monkeypatch.setattr(states, "SHARE_OF_MEMORY", 0)
    words = (REUSED, "train.save_steps=1")
    whole = Trained(tmp_path / "whole", *words)
    for step in (1, 3, 7):
        folder = tmp_path / f"cut-{step}"
        Trained(folder, *words, callbacks=[Watch(stop_at=step)])
        latest = newest(folder, print)
        assert (latest.step, latest.meta["reuses_lower_layers"]) == (step, True)
        again = Trained(folder, *words, latest=latest)
        assert again.equals(whole), step
        assert again.result.train_loss == whole.result.train_loss


def test_a_training_that_began_without_goes_on_without(tmp_path, monkeypatch, plain):
    words = (REUSED, "train.save_steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(states, "SHARE_OF_MEMORY", 0)
        patch.setattr(states, "SHARE_OF_DISK", 0)
        Trained(tmp_path, *words, callbacks=[Watch(stop_at=4)])
    again = Trained(tmp_path, *words, latest=newest(tmp_path, print))
    assert again.said == {"not_reused": "this training began without"}
    assert again.equals(plain)


def test_one_that_cannot_do_again_what_it_did_says_so(tmp_path, monkeypatch):
    words = (REUSED, "train.save_steps=1")
    Trained(tmp_path, *words, callbacks=[Watch(stop_at=4)])
    monkeypatch.setattr(states, "SHARE_OF_MEMORY", 0)
    monkeypatch.setattr(states, "SHARE_OF_DISK", 0)
    again = Trained(tmp_path, *words, latest=newest(tmp_path, print))
    assert again.warned[1] == "it was done before this training was cut: the result may differ in the last bits"


def test_what_is_kept_serves_other_seeds_and_ranks_to_the_bit(tmp_path, monkeypatch):
    other = {"ranks": Ranks(ffn=2), "layers": "last_half"}
    alone = Trained(tmp_path / "alone", REUSED, "seed=3", target=other)
    first = Trained(tmp_path / "first", REUSED)
    monkeypatch.setattr(lower_layers, "_states", lambda *_: pytest.fail("computed again"))
    second = Trained(tmp_path / "second", REUSED, "seed=3", target=other, kept=first.kept)
    assert (first.said["from_the_session"], second.said["from_the_session"]) == (False, True)
    assert second.equals(alone)


def test_another_first_layer_or_data_set_has_states_of_its_own(tmp_path):
    kept = {}
    for number, (layers, rows) in enumerate((("last_half", 12), ("3-3", 12), ("last_half", 8), ("3-3", 12))):
        target = {"ranks": Ranks(q=4), "layers": layers}
        trained = Trained(tmp_path / str(number), REUSED, target=target, data=encoded(rows), kept=kept)
        assert trained.said["layers"] == (2 if layers == "last_half" else 3)
        assert trained.said["from_the_session"] is (number == 3)
        assert len(kept) <= lower_layers.MOST_KEPT


def test_the_order_of_the_rows_does_not_decide_their_states(tmp_path):
    data = encoded()
    turned = Encoded(data.input_ids[::-1], data.labels[::-1], "hash")
    one, other = Trained(tmp_path / "one", REUSED), Trained(tmp_path / "other", REUSED, data=turned)
    (left,), (right,) = one.kept.values(), other.kept.values()
    assert left.places == right.places
    assert torch.equal(left.table, right.table)


def test_padding_gets_a_state_that_the_model_knows(tmp_path):
    rows = [[5, 6, 7], [8, 9]]
    table = States(rows, torch.zeros(1, 4), tmp_path)
    for ids in rows:
        table.put(ids, torch.tensor(ids)[:, None].expand(-1, 4).float())
    batch = table.batch(torch.tensor([[8, 9, 0], [5, 6, 7]]), torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert batch[..., 0].tolist() == [[8, 9, 9], [5, 6, 7]]
    left = table.batch(torch.tensor([[0, 8, 9]]), torch.tensor([[0, 1, 1]]))
    assert left[..., 0].tolist() == [[9, 8, 9]]
    assert table.batch(torch.tensor([[8, 8]]), torch.tensor([[1, 1]])) is None


def reads_layer_0(base):
    """The last layer adds what the first one returned, past all that stands between."""
    held = []
    base.model.layers[0].register_forward_hook(lambda module, args, output: held.append(output))
    base.model.layers[-1].register_forward_pre_hook(lambda module, args: (args[0] + 0.01 * held.pop(), *args[1:]))


def reads_its_neighbours(base):
    """The first layer adds the mean over the batch."""
    base.model.layers[0].register_forward_hook(lambda module, args, output: output + output.mean(0, keepdim=True))


def drops_out(base):
    base.model.layers[1].register_forward_hook(
        lambda module, args, output: torch.nn.functional.dropout(output, 0.01, module.training)
    )


class Backwards(torch.nn.ModuleList):
    def __getitem__(self, index):
        found = super().__getitem__(index)
        return found[::-1] if isinstance(index, slice) and index.step is None else found


def runs_backwards(base):
    base.model.layers.__class__ = Backwards


UNFIT = {
    reads_layer_0: "its upper layers read more",
    reads_its_neighbours: "depend on the rows beside it",
    drops_out: "while it is trained, as dropout does",
    runs_backwards: "its layers are not computed one after another",
}


@pytest.mark.parametrize("change", UNFIT, ids=lambda change: change.__name__)
def test_a_model_for_which_it_is_not_the_same_is_left_as_it_is(tmp_path, change):
    def changed():
        base = make_model(num_hidden_layers=LAYERS)
        change(base)
        return base

    trained = Trained(tmp_path / "reused", REUSED, base=changed())
    assert UNFIT[change] in trained.said["not_reused"]
    assert trained.kept == {} or change is reads_its_neighbours
    assert trained.equals(Trained(tmp_path / "plain", base=changed()))  # and having looked changes nothing


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train.packing=true", "train.max_length=64"), "rows are packed"),
        (("train.sft.neftune_noise_alpha=5",), "noise is added to the embeddings"),
        (
            (CHECKPOINTING, "train.sft.activation_checkpointing_kwargs={use_reentrant: true}"),
            "reentrant checkpointing wants a gradient",
        ),
    ],
)
def test_settings_that_it_does_not_go_with_are_named(tmp_path, words, says):
    trained = Trained(tmp_path / "reused", REUSED, *words)
    assert trained.said["not_reused"].startswith(says)
    assert trained.equals(Trained(tmp_path / "plain", *words))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"ranks": Ranks(q=4)}, "the first layer is adapted"),
        ({"ranks": Ranks(q=4), "layers": "last_half", "modules": {"embed_tokens": 4}}, "not stand in one list"),
        ({"modules": {"lm_head": 4}}, "not stand in one list"),
    ],
)
def test_where_nothing_stands_below_the_adapter_nothing_is_reused(tmp_path, target, says):
    assert says in Trained(tmp_path, REUSED, target=target).said["not_reused"]


def test_an_adapted_head_is_above_all_layers(tmp_path):
    target = {"ranks": Ranks(q=4), "layers": "last_half", "modules": {"lm_head": 4}}
    once, every = Trained(tmp_path / "once", REUSED, target=target), Trained(tmp_path / "every", target=target)
    assert once.said["layers"] == FIRST
    assert once.gap(every) < 2e-5


# of transformers: dropout, keys and values shared by layers, states of another shape, a loss of routers; and what fits
TYPES = {
    "gpt2": (1, "as dropout does"),
    "gemma4_text/shared_keys": (1, "the model refuses it"),
    "gemma3n_text": (1, "not given hidden states of rows and tokens"),
    "inkling2_text": (1, "its upper layers read more"),
    "mixtral": (1, "the routers of all layers have a loss of their own"),
    "mixtral/no_loss": (1, None),
    "qwen3": (1, None),
    "phi3": (1, None),
    "gpt_neox": (1, None),
    "bloom": (1, None),  # its layers return several values
    "gemma4_text": (1, None),
    "lfm2": (1, None),
    "zamba2": (3, None),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_of_transformers_is_learned_alike_or_left_as_it_is(tmp_path, kind):
    first, reason = TYPES[kind]
    name, _, variant = kind.partition("/")
    words = ("train.sft.router_aux_loss_coef=0.0",) if variant == "no_loss" else ()
    changes = VARIANTS.get(name, {}).get(variant, {})
    target = {"ranks": Ranks(q=2), "layers": "last_half", "missing": Missing.allow, "lora_dropout": 0.0}
    found = []
    with quiet():
        for more in ((), (REUSED,)):
            base = small_model(name, **changes).requires_grad_(False)
            found.append(Trained(tmp_path / str(len(found)), *words, *more, base=base, target=target))
    every, once = found
    if reason:
        assert reason in once.said["not_reused"]
        assert once.equals(every)
    else:
        assert once.said["layers"] == first
        assert once.gap(every) < 1e-4
        assert once.result.train_loss == pytest.approx(every.result.train_loss, abs=2e-6)
