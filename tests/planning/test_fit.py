"""Which settings fit a GPU."""

from __future__ import annotations

import pytest

from lorascope.base.architecture import build_on_meta, load_architecture
from lorascope.compose import compose
from lorascope.config.schema import Device
from lorascope.errors import ConfigError
from lorascope.planning.fit import HEADROOM, fits, parse_bytes, suggestions, with_checkpointing
from lorascope.planning.memory import estimate_memory
from lorascope.planning.model_dims import survey
from lorascope.planning.step_spec import step_spec_of
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * GIB),
        ("80GB", 80 * 10**9),
        ("24G", 24 * GIB),
        ("16 gib", 16 * GIB),
        ("1.5TiB", 1536 * GIB),
        (7, 7),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["big", "24 GiBs", "-3GB", ""])
def test_other_words_are_refused(text):
    with pytest.raises(ConfigError, match="24GiB"):
        parse_bytes(text)


@pytest.fixture(scope="module")
def mistral():
    config = compose(["model=mistral7b", "target=qv_ffn", "train.batch_size=4", "train.gradient_accumulation=2"])
    model = build_on_meta(load_architecture(config.model)[0])
    return config, survey(model), plan_targets(config.target, map_modules(model, "mistral", ""))


def test_the_fastest_that_fits_comes_first(mistral):
    found = suggestions(*mistral, 24 * GIB)
    assert {one.step.batch_size * one.step.accumulation for one in found} == {8}
    assert len(found) == 2 * 4
    assert [one.fits for one in found] == sorted((one.fits for one in found), reverse=True)
    best = found[0]
    assert best.fits
    assert not best.step.checkpointing
    larger = [one for one in found if one.step.batch_size > best.step.batch_size and not one.step.checkpointing]
    assert larger
    assert not any(one.fits for one in larger)
    assert best.overrides == (
        f"train.batch_size={best.step.batch_size} train.gradient_accumulation={best.step.accumulation} "
        "train.sft.activation_checkpointing=false"
    )


def test_a_small_gpu_needs_checkpointing_and_a_tiny_one_fits_nothing(mistral):
    small = suggestions(*mistral, 6 * GIB)
    assert small[0].fits
    assert small[0].step.checkpointing
    tiny = suggestions(*mistral, 3 * GIB)
    assert not any(one.fits for one in tiny)
    assert tiny[0].predicted_bytes == min(one.predicted_bytes for one in tiny)


def test_the_current_setting_is_among_them(mistral):
    config, dims, plan = mistral
    (current,) = [one for one in suggestions(*mistral, 24 * GIB) if one.current]
    memory = estimate_memory(step_spec_of(config, device=Device.cuda), dims, plan)
    assert (current.step.batch_size, current.step.accumulation, current.step.checkpointing) == (4, 2, True)
    assert current.predicted_bytes == memory.total
    assert current.fits == fits(memory, 24 * GIB)
    assert not fits(memory, int(memory.total / (1 - HEADROOM)) - 10**6)


def test_an_overrides_words_are_taken(mistral):
    best = suggestions(*mistral, 24 * GIB)[0]
    config = compose(["model=mistral7b", *best.overrides.split()])
    assert config.train.batch_size == best.step.batch_size
    assert config.train.sft["activation_checkpointing"] is best.step.checkpointing


WITHOUT = "train.sft.activation_checkpointing=false"


def test_checkpointing_is_off_just_where_the_run_fits_without_it(mistral):
    config, dims, plan = mistral
    off = compose(["model=mistral7b", "train.batch_size=4", WITHOUT])
    without = estimate_memory(step_spec_of(off, device=Device.cuda), dims, plan)
    assert not without.step.checkpointing
    enough = int(without.total / (1 - HEADROOM)) + 1
    for gpu, on in ((enough, False), (enough - 10**6, True), (10**15, False), (GIB, True)):
        assert fits(without, gpu) is not on
        chosen = with_checkpointing(config, dims, plan, gpu, device=Device.cuda)
        assert chosen.train.sft["activation_checkpointing"] is on
        assert step_spec_of(chosen, device=Device.cuda).checkpointing is on
    assert "activation_checkpointing" not in config.train.sft  # the run's own settings, and so its name, stay


def test_shorter_rows_need_no_checkpointing_where_longer_ones_do(mistral):
    config, dims, plan = mistral
    chosen = [
        with_checkpointing(config, dims, plan, 12 * GIB, device=Device.cuda, length=length).train.sft
        for length in (40, 512)
    ]
    assert chosen == [{"activation_checkpointing": False}, {"activation_checkpointing": True}]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("gpu", [GIB, 10**15])
def test_what_the_user_says_of_checkpointing_stands(mistral, said, gpu):
    _, dims, plan = mistral
    config = compose(["model=mistral7b", f"train.sft.activation_checkpointing={str(said).lower()}"])
    assert with_checkpointing(config, dims, plan, gpu, device=Device.cuda) == config


def test_on_a_cpu_or_a_gpu_that_is_not_known_nothing_is_said(mistral):
    config, dims, plan = mistral
    assert with_checkpointing(config, dims, plan, None, device=Device.cuda) == config
    assert step_spec_of(config, device=Device.cuda).checkpointing
    assert with_checkpointing(config, dims, plan, 10**15, device=Device.cpu) == config
    assert not step_spec_of(config, device=Device.cpu).checkpointing


@pytest.mark.parametrize(("gpu", "words"), [(80 * GIB, "no checkpointing"), (16 * GIB, "checkpointing")])
def test_the_plan_and_what_is_suggested_agree(mistral, gpu, words, capsys):
    config, dims, plan = mistral
    chosen = with_checkpointing(config, dims, plan, gpu, device=Device.cuda)
    memory = estimate_memory(step_spec_of(chosen, device=Device.cuda), dims, plan)
    (current,) = [one for one in suggestions(*mistral, gpu) if one.current]
    assert (current.step.checkpointing, current.predicted_bytes) == (memory.step.checkpointing, memory.total)
    assert current.fits
    same_batch = [
        one for one in suggestions(*mistral, gpu) if one.step.batch_size == current.step.batch_size and one.fits
    ]
    assert same_batch[0] == current  # the fastest of them

    from lorascope.cli.main import main

    main(["plan", "model=mistral7b", "target=qv_ffn", "train.batch_size=4", f"--gpu-memory={gpu}"])
    shown = capsys.readouterr().out
    assert f"(batch 4 x 512, {words})" in shown
    assert f"{memory.total / GIB:.1f} GiB" in shown
