"""A GGUF adapter holds what PEFT computes, under llama.cpp's names and in its order of rows."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

import check_llama_cpp
from delivery.test_export import STRATEGIES
from delivery.test_merge import base_of, trained
from lorascope.base.architecture import build_on_meta
from lorascope.cli.main import main
from lorascope.delivery.gguf_adapter import APPLIED, LAYOUTS, export_gguf
from lorascope.delivery.merging import with_adapter
from lorascope.errors import RunError
from small_models import small_config

gguf = pytest.importorskip("gguf")

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = STRATEGIES | {
    "heads one after another": ("gpt_neox", ["target=q_v"]),
    "a type that is not permuted": ("qwen3", ["target=qv_ffn"]),
    "a model that also sees": ("qwen3_vl", ["target=qv_ffn"]),
    "attention beside experts": ("mixtral", ["target=attention"]),
}


def config_of(folder):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def loaded(folder):
    from lorascope.base.architecture import model_class

    return model_class(config_of(folder)).from_pretrained(folder, dtype=torch.float32)


def exported(tmp_path, kind="tiny", words=("target=qv_ffn",), **changes):
    base = base_of(kind, tmp_path / "base", **changes)
    _, run = trained(base, *words)
    found = export_gguf(run / "adapter", tmp_path / "out", config_of(base), "org/name")
    return base, run / "adapter", found, gguf.GGUFReader(tmp_path / "out" / "adapter.gguf")


def tensors_of(reader):
    return {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}


def value_of(reader, key):
    return reader.get_field(key).contents()


def deltas_in(reader):
    """What llama.cpp adds to each weight: alpha / rank of B A."""
    tensors, alpha = tensors_of(reader), value_of(reader, "adapter.lora.alpha")
    found = {}
    for name in {name.rpartition(".")[0] for name in tensors}:
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        found[name] = alpha / b.shape[1] * (a @ b.T if name.startswith("token_embd") else b @ a)
    return found


def paired(rows, heads):
    """Rows of Q or K with the two halves of each head interleaved: the rotary pairs stand side by side."""
    size = len(rows) // heads
    found = torch.empty_like(rows)
    for head in range(heads):
        for pair in range(size // 2):
            found[head * size + 2 * pair] = rows[head * size + pair]
            found[head * size + 2 * pair + 1] = rows[head * size + size // 2 + pair]
    return found


def sorted_by_part(rows, heads):
    """Rows of QKV that stand head by head, as all of Q, all of K, all of V."""
    parts = rows.chunk(3 * heads)
    return torch.cat([parts[3 * head + part] for part in range(3) for head in range(heads)])


NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down", "qkv_proj": "attn_qkv", "gate_up_proj": "ffn_up",
    "c_attn": "attn_qkv", "query_key_value": "attn_qkv", "lm_head": "output", "embed_tokens": "token_embd",
}  # fmt: skip


def expected(base, adapter):
    """PEFT's own delta of every module that it adapts, under the names and in the order that llama.cpp wants."""
    model = with_adapter(loaded(base), adapter)
    text = model.get_base_model().config.get_text_config()
    found = {}
    for path, module in model.named_modules():
        if not getattr(module, "r", None):
            continue
        *_, last = path.split(".")
        block = next((f"blk.{part}." for part in path.split(".") if part.isdigit()), "")
        delta = module.get_delta_weight("default").detach()
        delta = delta.T if last == "c_attn" else delta  # stored (d_in, d_out)
        if text.model_type in ("llama", "mixtral") and last in ("q_proj", "k_proj"):
            delta = paired(delta, text.num_attention_heads if last == "q_proj" else text.num_key_value_heads)
        elif text.model_type == "gpt_neox":
            delta = sorted_by_part(delta, text.num_attention_heads)
        found[f"{block}{NAMES[last]}.weight"] = delta
    return found


@pytest.mark.parametrize(("kind", "words"), KINDS.values(), ids=KINDS)
def test_every_module_has_pefts_delta_under_llama_cpps_name(tmp_path, kind, words):
    base, adapter, report, reader = exported(tmp_path, kind, words)
    wanted, found = expected(base, adapter), deltas_in(reader)
    assert found.keys() == wanted.keys()
    assert report["modules"] == len(found)
    for name, delta in wanted.items():
        assert float(delta.abs().max()) > 0
        torch.testing.assert_close(found[name], delta, rtol=1e-5, atol=1e-7)


def written_base(base, file, deltas):
    """The tiny llama as a GGUF file, deltas added to its weights: written as the format's description says."""
    config, state = config_of(base), load_file(base / "model.safetensors")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    norms = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "norm": "output_norm"}
    for path, value in state.items():
        *_, last, _ = path.split(".")
        block = next((f"blk.{part}." for part in path.split(".") if part.isdigit()), "")
        if last in ("q_proj", "k_proj"):
            value = paired(value, config.num_attention_heads if last == "q_proj" else config.num_key_value_heads)
        name = f"{block}{(NAMES | norms)[last]}.weight"
        writer.add_tensor(name, (value + deltas.get(name, 0)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_transformers_reads_base_and_adapter_out_of_gguf_as_the_model_that_peft_makes(tmp_path):
    """Another reader of the format, which puts the rows back by itself."""
    from transformers import AutoModelForCausalLM

    base, adapter, _, reader = exported(tmp_path)
    ids = torch.arange(5, 25)[None]

    def logits(model):
        with torch.no_grad():
            return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    found = {}
    for name, deltas in (("base", {}), ("adapted", deltas_in(reader))):
        written_base(base, tmp_path / f"{name}.gguf", deltas)
        read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=f"{name}.gguf", dtype=torch.float32)
        found[name] = logits(read)
    plain = logits(loaded(base))
    wanted = logits(with_adapter(loaded(base), adapter))
    torch.testing.assert_close(found["base"], plain)
    torch.testing.assert_close(found["adapted"], wanted, rtol=1e-4, atol=1e-5)
    assert float((wanted - plain).abs().max()) > 1e-2 * float(wanted.std())


def test_the_metadata_make_it_a_lora_adapter_whose_scale_is_one(tmp_path):
    _, _, report, reader = exported(tmp_path, words=["target=qv_ffn", "target.alpha_policy=rslora"])
    assert value_of(reader, "general.type") == "adapter"
    assert value_of(reader, "adapter.type") == "lora"
    assert value_of(reader, "general.architecture") == "llama"
    assert value_of(reader, "general.base_model.0.name") == "org/name"
    assert value_of(reader, "adapter.lora.alpha") == report["rank"] == 8
    assert report["ranks"] == [4, 8]
    ranks = {tensor.shape[0] for name, tensor in tensors_of(reader).items() if name.endswith("lora_a")}
    assert ranks == {8}


def test_the_command_says_which_base_the_file_fits_and_how_it_is_loaded(tmp_path, capsys):
    base = base_of("tiny", tmp_path / "base")
    _, folder = trained(base, "target=qv_ffn")
    main(["export", str(folder), "--for", "llama.cpp", "--out", str(tmp_path / "with space")])
    out = capsys.readouterr().out
    assert "10 modules at rank 8 (was 4, 8), alpha / r = 1" in out
    assert f"fits      a GGUF of {base} (architecture llama, 2 blocks)" in out
    assert f"llama-cli -m BASE.gguf --lora '{tmp_path / 'with space' / 'adapter.gguf'}'" in out
    assert str(tmp_path).encode() not in (tmp_path / "with space" / "adapter.gguf").read_bytes()
    main(["export", str(folder), "--for", "llama.cpp", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == str(folder / "export-llama.cpp" / "adapter.gguf")
    assert (told["architecture"], told["blocks"], told["modules"]) == ("llama", 2, 10)


TIED = {"tie_word_embeddings": True}
REFUSED = {
    "DoRA": ("tiny", ["target=q_v", "target.dora=true"], {}, "no place for DoRA's magnitudes"),
    "PiSSA": ("tiny", ["target=q_v", "target.init=pissa"], {}, "init=pissa has moved a part of it"),
    "biases": (
        "gpt2", ["target=q_v", "target.bias=lora_only", "target.fused=native"], {},
        "has no trained biases .transformer.h.0.attn.c_attn",
    ),
    "experts": ("mixtral", ["target=all_linear", "target.lora_dropout=0"], {}, "no adapters on experts"),
    "a tied head": ("tiny", ["target=q_v", "target.modules={lm_head: 4}"], TIED, "one tensor for embeddings and head"),
    "tied embeddings": (
        "tiny", ["target=q_v", "target.modules={embed_tokens: 4}"], TIED, "one tensor .* .model.embed_tokens",
    ),
    "what llama.cpp passes over": (
        "qwen2_moe", ["target=q_v", "target.modules={shared_expert_gate: 4}"], {}, "has no adapter on .*_expert_gate",
    ),
    "a type that is not known": ("opt", ["target=q_v"], {}, "cannot be written for the model type 'opt'"),
    "a mixer": ("mamba", ["target=mixer"], {}, "cannot be written for the model type 'mamba'"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "words", "changes", "says"), REFUSED.values(), ids=REFUSED)
def test_what_llama_cpp_cannot_load_is_refused_with_the_reason(tmp_path, kind, words, changes, says):
    with pytest.raises(RunError, match=says) as caught:
        exported(tmp_path, kind, words, **changes)
    assert caught.value.place == "--for llama.cpp"
    assert "lorascope merge" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_gguf_that_is_missing_or_too_old_is_one_message(tmp_path, monkeypatch):
    config = small_config("llama")
    monkeypatch.setattr(gguf, "MODEL_ARCH_NAMES", {})
    with pytest.raises(RunError, match="does not know the architecture 'llama'"):
        export_gguf(tmp_path, tmp_path / "out", config, "")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RunError, match="needs the package gguf") as caught:
        export_gguf(tmp_path, tmp_path / "out", config, "")
    assert "lorascope[embedded]" in caught.value.remedy


def test_a_file_that_is_there_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="is there already"):
        export_gguf(tmp_path, tmp_path / "out", small_config("llama"), "")


SEEING = {"visual", "vision_tower", "multi_modal_projector"}
APART = SEEING | {"lm_head", "shared_expert", "shared_experts", "shared_expert_gate"}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_projection_of_a_known_type_has_a_name_of_its_own(kind):
    config = small_config(kind, **check_llama_cpp.CHANGES.get(kind, {}))
    model = build_on_meta(config)
    architecture = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == LAYOUTS[kind].architecture)
    names = gguf.get_tensor_name_map(architecture, config.get_text_config().num_hidden_layers)
    found = []
    for path, module in model.named_modules():
        parts = path.split(".")
        if type(module).__name__ in ("Linear", "Conv1D") and not APART & set(parts):
            kind_of, name = names.get_type_and_name(path.replace("language_model.", ""))
            assert kind_of.name in APPLIED
            found.append(name)
    assert len(found) == len(set(found)) >= 8
