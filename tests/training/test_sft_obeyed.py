"""Settings of SFTConfig that docs/sft_settings.md calls obeyed change what is trained."""

import random

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Ranks, TargetConfig
from lorascope.data.tokenization import IGNORED, TokenizedSplit
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.training.checkpoints import Saving
from lorascope.training.trainer import train_adapter

pytestmark = pytest.mark.slow
BASE = ["device=cpu", "train.batch_size=4", "train.learning_rate=0.05", "train.epochs=2", "train.warmup_ratio=0"]


def trained(folder, *words):
    draw = random.Random(0)
    ids = tuple([draw.randrange(4, 260) for _ in range(draw.randint(6, 14))] for _ in range(10))
    data = TokenizedSplit(ids, tuple([IGNORED] * 3 + row[3:] for row in ids), "hash")
    config = resolve(compose([*BASE, "model.dtype=float32", *words]))
    base = make_model()
    plan = plan_targets(TargetConfig(ranks=Ranks(q=4, v=4)), map_modules(base, "tiny", "here"))
    model = attach(base, plan, 0)
    train_adapter(
        model, make_tokenizer(), data, data, config, Saving(folder, None, {"before": "", "fingerprint": {}}),
        evaluate=dict, callbacks=[], warn=print,
    )  # fmt: skip
    return torch.cat([value.detach().flatten() for name, value in model.named_parameters() if "lora_" in name])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


def test_the_same_settings_train_the_same_bits(plain, tmp_path):
    assert torch.equal(trained(tmp_path), plain)


@pytest.mark.parametrize(
    "setting",
    [
        "weight_decay=0.5", "adam_beta1=0.5", "adam_beta2=0.5", "adam_epsilon=0.1", "max_grad_norm=0.001", "optim=sgd",
        "label_smoothing_factor=0.3", "loss_type=dft", "neftune_noise_alpha=5", "dataloader_drop_last=true",
        "train_sampling_strategy=sequential", "optim=adafactor",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.label_smoothing_factor. is deprecated:FutureWarning")
def test_a_setting_that_is_obeyed_changes_the_adapter(plain, tmp_path, setting):
    assert not torch.equal(trained(tmp_path, f"train.sft.{setting}"), plain)
