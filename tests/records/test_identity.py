import re

import pytest

from lorascope.compose import compose
from lorascope.config.hints import choices_of
from lorascope.config.machine import resolve
from lorascope.records.identity import run_hash, run_id, run_name


def of(*words: str) -> str:
    return run_hash(resolve(compose(["device=cpu", "model.dtype=bfloat16", *words])))


def test_the_same_command_names_the_same_run():
    assert of("target=q_v", "seed=3") == of("seed=3", "target=q_v")
    assert len(of()) == 64


@pytest.mark.parametrize(
    "word",
    [
        "seed=1", "target=qkvo", "target.ranks.q=9", "target.alpha=8", "dataset=airports", "train.learning_rate=2e-3",
        "train.epochs=2", "train.sft.weight_decay=0.1", "quantization=nf4", "model.dtype=float32",
        "dataset.options.min_templates=9", "dataset.max_train_samples=7", "model.attention=eager",
        "train.group_by_length=true",
    ],
)  # fmt: skip
def test_whatever_changes_the_result_is_another_run(word):
    assert of(word) != of()


@pytest.mark.parametrize(
    "word", ["runs_dir=elsewhere", "logger=none", "dry_run=true", "overwrite=true", "logger.group=x", "logger.tags=[a]"]
)
def test_whatever_does_not_change_the_result_is_the_same_run(word):
    assert of(word) == of()


def test_a_value_given_or_left_at_its_default_is_the_same_run():
    assert of("train.batch_size=8", "target.alpha=16", "train.learning_rate=1e-3") == of()


def test_auto_and_what_it_stands_for_are_the_same_run():
    assert of("quantization=none") == of("quantization=auto")


def test_the_folders_name_tells_target_model_dataset_seed_and_id():
    config = resolve(compose(["device=cpu", "target=qv_ffn", "dataset=airports", "seed=4"]))
    assert run_name(config) == f"qv_ffn-smollm2-airports-s4-{run_id(config)}"


def test_odd_names_stay_inside_one_folder():
    config = resolve(compose(["device=cpu", "target.name='../../etc/x y'"]))
    assert "/" not in run_name(config)
    assert not run_name(config).startswith("..-")


def test_a_setting_that_a_later_version_adds_leaves_old_names_as_they_are():
    """This very hash was given to this command by version 0.1: it may change only with a note in the CHANGELOG."""
    assert of("target=qv_ffn", "seed=3")[:8] == "c019fe5e"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["target=q_v", "target.ranks={k: 8, o: 8}"], "q_v+k=8+o=8"),
        (["target=q_v", "target.ranks.q=null"], "q_v+q=none"),
        (["target=qv_ffn", "target.ranks.q=16"], "qv_ffn+q=16"),
        (["target=qv_ffn", "target.layers=0-3"], "qv_ffn+layers=0-3"),
        (["target=q_v", "target.modules.lm_head=4"], "q_v+modules={lm_head:4}"),
        (["target=q_v", "target.ranks={q: 8, v: 8}"], "q_v"),
        (["target=q_v", "target.alpha=32"], "q_v"),
        (["target=q_v", "target.name=mine", "target.ranks.k=8"], "mine"),
    ],
)
def test_a_strategy_whose_placement_was_changed_is_called_so(words, name, tmp_path):
    config = compose([*words, f"runs_dir={tmp_path}"])
    assert config.target.name == name
    assert re.sub("-", "_", run_name(config)).startswith(re.sub(r"[{}:-]", "_", name) + "_")


def test_every_shipped_strategy_keeps_its_name():
    for choice in choices_of("target"):
        assert compose([f"target={choice}"]).target.name == choice


@pytest.mark.parametrize(
    ("words", "id_before"),  # made by the version before such strategies had names of their own
    [(["target.ranks.k=8"], "15bb40da"), (["target=qv_ffn", "target.layers=0-3"], "54c97f1e")],
)
def test_the_name_of_a_changed_strategy_makes_no_other_run(words, id_before):
    config = resolve(compose(["device=cpu", "model.dtype=bfloat16", *words]))
    assert "+" in config.target.name
    assert run_id(config) == id_before


def test_a_folder_that_was_named_by_the_choice_alone_is_found_again(tmp_path):
    config = compose(["target=q_v", "target.ranks.k=8", f"runs_dir={tmp_path}"])
    before = run_name(config).replace("+k=8", "")
    assert before != run_name(config)
    (tmp_path / before).mkdir()
    assert run_name(config) == before
