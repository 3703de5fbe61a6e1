"""Models that also see: roles in the language model alone, the rest untouched, the adapter on the whole model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import check_architectures as campaign
from lorascope.base.architecture import model_class
from lorascope.targets.module_map import map_modules
from small_models import UNBUILDABLE, causal_types, seeing_types, small_config
from targets.test_mixers import mapped

pytestmark = pytest.mark.usefixtures("one_thread")

SEEING = [kind for kind in seeing_types() if kind not in UNBUILDABLE]
REFUSED = {"deepseek_ocr2", "molmo2", "paligemma", "shieldgemma2", "unlimited_ocr"}


@pytest.mark.parametrize("kind", [one for one in SEEING if one not in REFUSED])
def test_every_role_is_in_the_language_model(kind):
    import architectures

    model = architectures.meta_model(kind)
    modules = map_modules(model, kind, "here")
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    assert modules.projections
    assert all(id(model.get_submodule(one.module)) in inside for one in modules.projections)
    # and all of its blocks are there
    assert modules.layers == decoder.config.get_text_config().num_hidden_layers or kind in ("minimax_m3_vl",)


def test_types_with_a_causal_model_of_their_own_keep_it():
    for kind in ("llama", "gemma3", "gpt2"):
        assert kind in causal_types()
        assert model_class(small_config(kind)).__name__ == "AutoModelForCausalLM"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["mistral3", "qwen3_vl", "qwen2_5_vl", "glm4v", "llava", "smolvlm"])
def test_training_leaves_the_vision_tower_to_the_last_bit(kind, tmp_path, monkeypatch):
    import lorascope.run as run

    campaign.make(kind, tmp_path)
    before = tensors(tmp_path)
    kept = {}
    complete = run._complete

    def keep(one, *rest):
        complete(one, *rest)
        kept.update(seen["model"].get_base_model().state_dict())

    seen = {}
    attach = run.attach
    monkeypatch.setattr(run, "attach", lambda *args: seen.setdefault("model", attach(*args)))
    monkeypatch.setattr(run, "_complete", keep)
    loss = campaign.trained_loss(tmp_path)
    assert campaign.loss_of_saved(tmp_path) == pytest.approx(loss, rel=1e-4)
    after = {name.replace(".base_layer", ""): value for name, value in kept.items() if "lora_" not in name}
    towers = [name for name in after if "vision" in name or "visual" in name or "projector" in name]
    assert towers
    # the checkpoint's names may be others than the model's, so the bytes are compared as a set
    stored = {value.numpy().tobytes() for value in before.values()}
    assert all(after[name].numpy().tobytes() in stored for name in towers)
    adapter = load_file(next((tmp_path / "runs").glob("*/adapter")) / "adapter_model.safetensors")
    assert adapter
    assert not any("vision" in name or "visual" in name for name in adapter)


def test_the_counts_of_a_model_that_sees_are_those_of_its_language_model():
    from lorascope.compose import compose
    from lorascope.targets.build_plan import plan_targets

    _, modules = mapped("mistral3")
    target = compose(["target=q_v", "target.ranks={q: 2, v: 2}"]).target
    # two layers; hidden 32, four heads of 12 for q, two for v
    assert plan_targets(target, modules).trainable_parameters == 2 * 2 * ((32 + 48) + (32 + 24))
