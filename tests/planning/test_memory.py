"""The parts of an estimate, and how they follow from a run's settings."""

from __future__ import annotations

from typing import Any

import pytest

from lorascope.base.architecture import build_on_meta, load_architecture
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Bias, Device, Dtype, Scheme
from lorascope.formats import flop
from lorascope.planning import activations
from lorascope.planning.compute import estimate_compute, run_tokens
from lorascope.planning.memory import MemoryEstimate, estimate_memory
from lorascope.planning.model_dims import survey
from lorascope.planning.plan_view import lines
from lorascope.planning.step_spec import step_spec_of
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.training.trainer import sft_config
from planning.small import planned, setting, small

GIB = 2**30


def estimate(*words: str, **known: Any) -> MemoryEstimate:
    config = compose(list(words))
    model = build_on_meta(load_architecture(config.model)[0])
    plan = plan_targets(config.target, map_modules(model, "test", ""))
    return estimate_memory(step_spec_of(config, **known), survey(model), plan)


def test_mistral_in_4_bit_is_planned_for_a_gpu_that_is_not_here():
    memory = estimate("model=mistral7b", "target=qv_ffn", device=Device.cuda)
    # 6.98 G numbers in 224 linear modules at 4.127 bits, 0.26 G more in bfloat16
    assert memory.weights == pytest.approx(6.98e9 * 4.127 / 8 + 2 * 0.2625e9, rel=0.002)
    assert memory.adapter == memory.gradients == 4 * 10_485_760
    assert memory.optimizer == pytest.approx(2 * 10_485_760, rel=0.02)
    assert memory.baseline == memory.mapped == 0
    assert memory.step.checkpointing
    assert memory.phase == "training"
    assert 5 * GIB < memory.total < 8 * GIB
    assert memory.total == sum(memory.parts.values()) == memory.entry()["peak_bytes"]


def test_checkpointing_and_a_shorter_batch_need_less():
    words = ("model=mistral7b", "quantization=nf4")
    with_it = estimate(*words, device=Device.cuda)
    without = estimate(*words, "+train.sft.activation_checkpointing=false", device=Device.cuda)
    short = estimate(*words, device=Device.cuda, length=100)
    small_batch = estimate(*words, "train.batch_size=1", device=Device.cuda)
    assert without.activations > 5 * with_it.activations
    assert short.total < with_it.total
    assert small_batch.total < with_it.total


def test_on_a_cpu_the_libraries_and_the_files_pages_count():
    plain = estimate("quantization=none", "model.dtype=bfloat16", "device=cpu", length=40, supervised=5)
    nf4 = estimate("quantization=nf4", "model.dtype=bfloat16", "device=cpu", length=40, supervised=5)
    assert plain.baseline > 500 * 2**20
    assert plain.mapped == 0
    assert nf4.mapped == 2 * 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    assert nf4.weights < plain.weights < nf4.weights + nf4.mapped


def test_few_tokens_with_a_loss_make_few_logits():
    few = estimate("device=cpu", length=40, supervised=4)
    every = estimate("device=cpu", length=40)
    assert every.total - few.total > 8 * 30 * 49152 * 12


def test_the_evaluation_can_need_more_than_the_training():
    model = small("llama", vocab_size=50_000)
    plan, here = planned(model, {"q": 8}), setting(batch_size=1, device=Device.cuda, dtype=Dtype.bfloat16)
    assert estimate_memory(here, survey(model), plan).phase == "evaluation"


def test_loading_in_another_number_format_needs_the_file_besides():
    words = ("device=cpu", "quantization=none", "train.batch_size=1")
    memory = estimate(*words, "model.dtype=float32", "train.max_length=16", length=8, supervised=1)
    assert memory.phase == "loading"
    assert memory.weights + memory.mapped == pytest.approx(6 * 134_515_008, rel=0.001)


def test_a_settings_own_words_win():
    words = ["model=mistral7b", "+train.sft.optim=adamw_torch", "+train.sft.activation_checkpointing=false"]
    here = step_spec_of(compose(words), device=Device.cuda)
    assert (here.optimizer, here.checkpointing, here.scheme) == ("adamw_torch", False, Scheme.nf4)
    assert step_spec_of(compose(["device=cpu"])).optimizer == "adamw_torch"
    assert step_spec_of(compose(["train.max_length=64"]), length=100).length == 64


def test_the_constants_are_those_of_who_computes():
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (activations.TILE_TOKENS, activations.TILE_ENTRIES) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


@pytest.mark.parametrize("words", [["quantization=nf4"], ["quantization=none"]])
@pytest.mark.parametrize("device", [Device.cpu, Device.cuda])
def test_what_is_planned_is_what_the_trainer_chooses(words, device, tmp_path):
    config = resolve(compose(words), device)
    here, chosen = step_spec_of(config, device=device), sft_config(config, tmp_path)
    checkpointing = getattr(chosen, "activation_checkpointing", None) or chosen.gradient_checkpointing
    assert (here.optimizer, here.checkpointing) == (chosen.optim.value, bool(checkpointing))


def test_the_lines_say_what_and_for_which_batch():
    config = compose(["model=mistral7b", "target=qv_ffn", "train.batch_size=4", "train.max_steps=1000"])
    model = build_on_meta(load_architecture(config.model)[0])
    plan = plan_targets(config.target, map_modules(model, "test", ""))
    here, dims = step_spec_of(config, device=Device.cuda), survey(model)
    in_run = run_tokens(config.train, here, None, None)
    first, second = lines(estimate_memory(here, dims, plan), estimate_compute(here, dims, plan, in_run))
    assert first.startswith("memory                 ~ 5.")
    assert "weights nf4 3.8, adapter+optimizer 0.1, activations 1." in first
    assert first.endswith("(batch 4 x 512, checkpointing)")
    assert second.startswith("compute                ~ 4")
    assert second.endswith(" GFLOP a token, 90 PFLOP this run")
    assert flop(1.8e18) == "1.8 EFLOP"


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_are_counted_and_reach_down_to_their_layer(bias):
    model = small("phi")
    none = planned(model, {"q": 4}, layers="last_half")
    some = planned(model, {"q": 4}, layers="last_half", bias=Bias(bias))
    here = setting(device=Device.cuda, length=200)
    before, after = (estimate_memory(here, survey(model), plan) for plan in (none, some))
    added = {part: after.parts[part] - before.parts[part] for part in ("adapter", "gradients", "optimizer")}
    count = some.bias_parameters
    assert added == {"adapter": 4 * count, "gradients": 4 * count, "optimizer": 8 * count}
    assert (after.activations > before.activations) is (bias == "all")
