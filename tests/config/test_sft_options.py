import pytest

import sft_settings
from lorascope.compose import compose
from lorascope.config.sft_settings import ELSEWHERE, WITHOUT_EFFECT, check_sft, sft_fields
from lorascope.errors import ConfigError
from lorascope.training.trainer import sft_config


def test_every_setting_made_elsewhere_is_one_of_trls():
    assert set(ELSEWHERE) <= set(sft_fields())


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_a_setting_made_in_two_places_is_refused(name):
    with pytest.raises(ConfigError, match="two places"):
        compose([f"train.sft.{name}=1"])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("weigth_decay=0.1", "Did you mean train.sft.weight_decay"),
        ("weight_decay=heavy", "It takes: float"),
        ("shuffle_dataset=3", "It takes: bool"),
        ("dataloader_num_workers=true", "It takes: int"),
        ("dataloader_num_workers=null", "It takes: int"),
        ("weight_decay=.inf", "It takes: float"),
        ("neftune_noise_alpha=loud", r"It takes: float.*None"),
    ],
)
def test_a_wrong_name_or_kind_is_refused(word, says):
    with pytest.raises(ConfigError, match=says):
        compose([f"train.sft.{word}"])


def test_what_is_given_reaches_sftconfig(tmp_path):
    config = compose(["device=cpu", "train.sft.weight_decay=0.25", "train.sft.adam_beta2=0.95", "train.max_steps=7"])
    check_sft(config.train)
    args = sft_config(config, tmp_path)
    assert (args.weight_decay, args.adam_beta2, args.max_steps) == (0.25, 0.95, 7)


def test_sftconfigs_own_refusal_becomes_one_message(tmp_path):
    config = compose(["device=cpu", "train.sft.optim=nope"])
    with pytest.raises(ConfigError, match=r"train.sft: SFTConfig refuses it"):
        sft_config(config, tmp_path)


@pytest.mark.parametrize("said", [True, False])
def test_checkpointing_has_the_name_that_the_installed_transformers_gives_it(tmp_path, said):
    config = compose(["device=cpu", f"train.sft.activation_checkpointing={str(said).lower()}"])
    args = sft_config(config, tmp_path)
    assert bool(getattr(args, "activation_checkpointing", args.gradient_checkpointing)) is said


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_setting_that_would_have_no_effect_is_refused(name):
    if name not in sft_fields():
        pytest.skip("the installed SFTConfig has no such field")
    with pytest.raises(ConfigError, match=rf"train.sft.{name}: would have no effect|train.sft.{name} would have"):
        compose([f"train.sft.{name}=null"])


def test_every_setting_without_effect_is_one_of_trls():
    assert len(set(WITHOUT_EFFECT) - set(sft_fields())) <= 1  # local_rank comes and goes


def test_the_page_of_settings_is_up_to_date():
    assert sft_settings.PAGE.read_text() == sft_settings.page()


@pytest.mark.parametrize("words", [["train.keep_best=true"], ["train.keep_best=true", "train.eval_steps=null"]])
def test_the_best_needs_something_to_choose_among(words):
    with pytest.raises(ConfigError, match=r"train.keep_best must come with train.eval_steps"):
        compose(words)
    assert compose([*words, "train.eval_steps=5"]).train.keep_best
