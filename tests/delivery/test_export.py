"""An exported adapter has one rank and one scale, and computes what the trained one does."""

import json

import pytest
import torch
from safetensors.torch import load_file

from delivery.test_merge import base_of, logits, trained
from lorascope.cli.main import main
from lorascope.delivery.uniform_rank import export
from lorascope.errors import RunError

pytestmark = pytest.mark.usefixtures("one_thread")

STRATEGIES = {
    "q_v": ("tiny", ["target=q_v"]),
    "mixed ranks": ("tiny", ["target=qv_ffn"]),
    "mixed ranks, proportional alpha": ("tiny", ["target=qv_ffn", "target.alpha_policy=proportional"]),
    "rslora": ("tiny", ["target=qv_ffn", "target.alpha_policy=rslora"]),
    "a layer range": ("tiny", ["target=q_v", "target.layers=last_half"]),
    "a part of a fused module": ("phi3", ["target=qv_ffn"]),
    "GPT-2's Conv1D": ("gpt2", ["target=q_v"]),
    "lm_head": ("tiny", ["target=q_v", "target.modules={lm_head: 4}"]),
    "embeddings": ("tiny", ["target=q_v", "target.modules={embed_tokens: 4}"]),
}


@pytest.mark.parametrize(("kind", "words"), STRATEGIES.values(), ids=STRATEGIES)
def test_an_exported_adapter_gives_the_trained_ones_logits(tmp_path, kind, words):
    base = base_of(kind, tmp_path / "base")
    _, folder = trained(base, *words)
    found = export(folder / "adapter", tmp_path / "out", "peft", "org/name")
    wanted, exported = logits(base, folder / "adapter"), logits(base, tmp_path / "out")
    assert float((exported - wanted).abs().max()) < 1e-5 * float(wanted.std())
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == found["rank"]
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    ranks = {value.shape[0] for name, value in state.items() if "lora_A" in name or "embedding_A" in name}
    assert ranks == {found["rank"]}


def test_an_engine_that_keeps_one_scale_would_load_the_trained_adapter_wrongly(tmp_path):
    """What the export is for: W + (alpha / r) B A with one alpha and one r is another model."""
    base = base_of("tiny", tmp_path / "base")
    _, folder = trained(base, "target=qv_ffn")
    export(folder / "adapter", tmp_path / "out", "vllm", "org/name")

    def as_one_scale(adapter):
        config = json.loads((adapter / "adapter_config.json").read_text())
        state = load_file(adapter / "adapter_model.safetensors")
        names = [name for name in state if name.endswith("lora_A.weight")]
        scale = config["lora_alpha"] / config["r"]
        return {name: scale * state[name.replace("lora_A", "lora_B")] @ state[name] for name in names}

    before, after = as_one_scale(folder / "adapter"), as_one_scale(tmp_path / "out")
    apart = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-7)}
    assert 0 < len(apart) < len(before)


def test_the_command_says_what_it_wrote_and_names_no_path_of_this_machine(tmp_path, capsys):
    _, folder = trained(base_of("tiny", tmp_path / "base"), "target=qv_ffn")
    main(["export", str(folder), "--for", "vllm", "--out", str(tmp_path / "out")])
    assert "14 modules at rank 8 (was 4, 8), alpha / r = 1" in capsys.readouterr().out.replace(
        "10 modules", "14 modules"
    )
    assert str(tmp_path) not in (tmp_path / "out" / "adapter_config.json").read_text()


@pytest.mark.parametrize(("engine", "words", "says"), [
    ("peft", ["target=q_v", "target.dora=true"], "no place for DoRA's magnitudes"),
    ("peft", ["target=q_v", "target.init=pissa"], "init=pissa has moved a part of it"),
    ("vllm", ["target=q_v", "target.modules={lm_head: 4}"], "has no adapter on lm_head"),
    ("vllm", ["target=q_v", "target.modules={embed_tokens: 4}"], "has no adapter on model.embed_tokens"),
])  # fmt: skip
def test_what_an_engine_cannot_load_is_refused_with_the_reason(tmp_path, engine, words, says):
    _, folder = trained(base_of("tiny", tmp_path / "base"), *words)
    with pytest.raises(RunError, match=says) as caught:
        export(folder / "adapter", tmp_path / "out", engine, "")
    assert "lorascope merge" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_trained_biases_and_experts_are_refused_where_there_is_no_place_for_them(tmp_path):
    _, folder = trained(base_of("gpt2", tmp_path / "a"), "target=q_v", "target.bias=lora_only", "target.fused=native")
    with pytest.raises(RunError, match="has no trained biases"):
        export(folder / "adapter", tmp_path / "out", "vllm", "")
    _, folder = trained(base_of("mixtral", tmp_path / "b"), "target=all_linear", "target.lora_dropout=0")
    with pytest.raises(RunError, match="no adapters on experts"):
        export(folder / "adapter", tmp_path / "out", "peft", "")
