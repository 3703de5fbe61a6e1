"""Rows of like length share a batch: the same order for every arm of a seed, and after a cut."""

import itertools
import random

import pytest
import torch
import transformers

from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Ranks, TargetConfig
from lorascope.data.tokenization import IGNORED, TokenizedSplit
from lorascope.errors import ConfigError
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.training.batching import by_length
from lorascope.training.checkpoints import Saving, newest
from lorascope.training.trainer import train_adapter

pytestmark = pytest.mark.usefixtures("one_thread")
GROUPED = "train.group_by_length=true"


def encoded(rows: int = 32) -> TokenizedSplit:
    draw = random.Random(0)
    ids = [[draw.randrange(4, 260) for _ in range(draw.randint(5, 60))] for _ in range(rows)]
    return TokenizedSplit(tuple(ids), tuple([IGNORED] * 3 + row[3:] for row in ids), "hash")


class Seen(transformers.TrainerCallback):
    """The batches that a model was given while it trained, and a stop."""

    def __init__(self, stop_at=None):
        self.stop_at, self.batches = stop_at, []

    def on_train_begin(self, args, state, control, model, **_):
        model.register_forward_pre_hook(
            lambda module, args, kwargs: self.batches.append(kwargs["attention_mask"]), with_kwargs=True
        )

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == self.stop_at


def train(tmp_path, *words: str, ranks=None, seen=None, latest=None):
    base = make_model()
    target = TargetConfig(ranks=ranks or Ranks(q=4, v=4), lora_dropout=0.3)
    model = attach(base, plan_targets(target, map_modules(base, "tiny", "here")), 0)
    config = resolve(compose(["device=cpu", "train.batch_size=4", "train.learning_rate=0.01", *words]))
    result = train_adapter(
        model, make_tokenizer(), encoded(), encoded(4), config, Saving(tmp_path, latest),
        evaluate=dict, callbacks=[seen or Seen()], warn=print,
    )  # fmt: skip
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, result


def lengths(seen: Seen) -> list[list[int]]:
    return [mask.sum(dim=1).tolist() for mask in seen.batches]


def test_less_is_padded_and_every_row_is_read_in_every_epoch(tmp_path):
    padding = {}
    for words in ((), (GROUPED,)):
        seen = Seen()
        train(tmp_path, "train.epochs=2", *words, seen=seen)
        padding[words] = sum(mask.numel() - int(mask.sum()) for mask in seen.batches)
        for epoch in (seen.batches[:8], seen.batches[8:]):
            read = sorted(length for mask in epoch for length in mask.sum(dim=1).tolist())
            assert read == sorted(map(len, encoded().input_ids))
    assert padding[GROUPED,] < 0.6 * padding[()]


def test_the_order_is_the_seeds_whatever_the_arm(tmp_path):
    few, many, other = Seen(), Seen(), Seen()
    train(tmp_path / "few", GROUPED, "train.epochs=3", seen=few)
    train(tmp_path / "many", GROUPED, "train.epochs=3", seen=many, ranks=Ranks(all=2))  # draws more dropout
    train(tmp_path / "other", GROUPED, "train.epochs=3", "seed=1", seen=other)
    assert lengths(few) == lengths(many)
    assert lengths(few) != lengths(other)
    assert lengths(few)[:8] != lengths(few)[8:16] != lengths(few)[16:]


@pytest.mark.parametrize("step", [3, 8, 13])
def test_a_training_goes_on_exactly_where_a_checkpoint_left_it(tmp_path, step):
    words = (GROUPED, "train.epochs=2", "train.save_steps=1")
    whole, result = train(tmp_path / "whole", *words)
    train(tmp_path / "cut", *words, seen=Seen(stop_at=step))
    latest = newest(tmp_path / "cut", print)
    assert latest.step == step
    again, after = train(tmp_path / "cut", *words, latest=latest)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert (after.steps, after.tokens, after.train_loss) == (result.steps, result.tokens, result.train_loss)


def test_a_step_of_several_batches_is_grouped_as_one():
    """transformers sorts runs of many steps, longest first; so each run is a descent."""
    draw = random.Random(1)
    sizes = [draw.randint(1, 500) for _ in range(400)]
    order = list(by_length(sizes, 8, seed=3))
    assert sorted(order) == list(range(400))
    drops = sum(sizes[left] < sizes[right] for left, right in itertools.pairwise(order[1:]))
    assert drops <= 5  # four or five runs of 96 rows, and the longest row put in front
    torch.manual_seed(99)  # the common stream decides nothing
    assert list(by_length(sizes, 8, seed=3)) == order


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train.sft.train_sampling_strategy=group_by_length"], "Set train.group_by_length instead"),
        ([GROUPED, "train.sft.train_sampling_strategy=sequential"], "Set train.group_by_length instead"),
        (["train.sft.group_by_length=true"], "Did you mean train.group_by_length"),
        ([GROUPED, "train.packing=true"], "cannot be combined with train.packing"),
    ],
)
def test_grouping_has_one_setting(words, says):
    with pytest.raises(ConfigError, match=says):
        compose(words)


def test_another_strategy_of_sampling_stays_the_users():
    assert compose(["train.sft.train_sampling_strategy=sequential"]).train.sft == {
        "train_sampling_strategy": "sequential"
    }
