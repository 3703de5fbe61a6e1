"""Which settings fit a GPU."""

from __future__ import annotations

import pytest

from lorascope.compose import compose
from lorascope.config import Device
from lorascope.errors import ConfigError
from lorascope.estimate.fit import HEADROOM, fits, parse_bytes, suggestions
from lorascope.estimate.memory import estimate_memory
from lorascope.models.architecture import build_on_meta, load_architecture
from lorascope.targets.module_map import map_modules
from lorascope.targets.plan import plan_targets

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
    return config, model, plan_targets(config.target, map_modules(model, "mistral", ""))


def test_the_fastest_that_fits_comes_first(mistral):
    found = suggestions(*mistral, 24 * GIB)
    assert {one.batch_size * one.gradient_accumulation for one in found} == {8}
    assert len(found) == 2 * 4
    assert [one.fits for one in found] == sorted((one.fits for one in found), reverse=True)
    best = found[0]
    assert best.fits
    assert not best.checkpointing
    larger = [one for one in found if one.batch_size > best.batch_size and not one.checkpointing]
    assert larger
    assert not any(one.fits for one in larger)
    assert best.words == (
        f"train.batch_size={best.batch_size} train.gradient_accumulation={best.gradient_accumulation} "
        "train.sft.activation_checkpointing=false"
    )


def test_a_small_gpu_needs_checkpointing_and_a_tiny_one_fits_nothing(mistral):
    small = suggestions(*mistral, 6 * GIB)
    assert small[0].fits
    assert small[0].checkpointing
    tiny = suggestions(*mistral, 3 * GIB)
    assert not any(one.fits for one in tiny)
    assert tiny[0].predicted_bytes == min(one.predicted_bytes for one in tiny)


def test_the_current_setting_is_among_them(mistral):
    config, model, plan = mistral
    (current,) = [one for one in suggestions(*mistral, 24 * GIB) if one.current]
    memory = estimate_memory(config, model, plan, device=Device.cuda)
    assert (current.batch_size, current.gradient_accumulation, current.checkpointing) == (4, 2, True)
    assert current.predicted_bytes == memory.total
    assert current.fits == fits(memory, 24 * GIB)
    assert not fits(memory, int(memory.total / (1 - HEADROOM)) - 10**6)


def test_an_overrides_words_are_taken(mistral):
    best = suggestions(*mistral, 24 * GIB)[0]
    config = compose(["model=mistral7b", *best.words.split()])
    assert config.train.batch_size == best.batch_size
    assert config.train.sft["activation_checkpointing"] is best.checkpointing
