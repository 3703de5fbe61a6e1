"""Checkpoints that are quantized already, and those of other heads than a language model's."""

import json
from pathlib import Path

import pytest
import torch

from helpers import TINY, make_model, make_tokenizer
from lorascope.api import train
from lorascope.base.checkpoint import with_stored_scheme
from lorascope.base.loading import load_base
from lorascope.compose import compose
from lorascope.config.schema import Scheme
from lorascope.errors import ConfigError, LorascopeError, ModelError
from lorascope.planning.run_plan import resolve_config
from lorascope.targets.module_map import inspect_model
from small_models import small_model

pytestmark = pytest.mark.usefixtures("one_thread")


def saved(folder: Path, model) -> Path:
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def plain(tmp_path):
    return saved(tmp_path / "plain", make_model())


def with_config(folder: Path, **settings) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def quantized(plain: Path, folder: Path, **settings) -> Path:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**settings)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32)
    return saved(folder, model)


def words(folder, tmp_path, *more):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"say {n}", "completion": f"it is {n}"}) + "\n" for n in range(6)))
    return [
        "model=hf", f"model.path={folder}", "dataset=file", f"dataset.path={rows}", f"dataset.eval_path={rows}",
        "evaluation=none", "device=cpu", "model.dtype=float32", "train.max_length=64", "train.max_steps=2",
        "train.warmup_ratio=0", f"runs_dir={tmp_path / 'runs'}", *more,
    ]  # fmt: skip


def adapter(record, tmp_path):
    from safetensors.torch import load_file

    return load_file(tmp_path / "runs" / record.name / "adapter" / "adapter_model.safetensors")


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}


@pytest.mark.parametrize("double", [True, False])
def test_a_stored_4_bit_base_gives_the_adapter_of_one_that_is_quantized_when_it_is_loaded(plain, tmp_path, double):
    stored = quantized(plain, tmp_path / "stored", **NF4, bnb_4bit_use_double_quant=double)
    one = train(*words(plain, tmp_path, "quantization=nf4", f"quantization.double_quant={double}"))
    other = train(*words(stored, tmp_path))
    assert other.config["quantization"] == {"scheme": "nf4", "double_quant": double, "experts": False}
    assert other.fingerprint["quantized_modules"] == one.fingerprint["quantized_modules"] > 0
    assert other.environment["checkpoint"] == "bitsandbytes"
    assert "checkpoint" not in one.environment
    assert other.metrics["eval_loss"]["value"] == one.metrics["eval_loss"]["value"]
    left, right = adapter(one, tmp_path), adapter(other, tmp_path)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_stored_8_bit_base_is_trained_as_it_is(plain, tmp_path):
    stored = quantized(plain, tmp_path / "stored", load_in_8bit=True)
    record = train(*words(stored, tmp_path))
    assert record.config["quantization"]["scheme"] == "int8"
    assert record.metrics["eval_loss"]["value"] < record.metrics["eval_loss"]["base"]


@pytest.mark.parametrize("asked", ["none", "int8"])
def test_another_quantization_than_the_stored_is_refused(plain, tmp_path, asked):
    stored = quantized(plain, tmp_path / "stored", **NF4)
    with pytest.raises(ConfigError, match=rf"quantization={asked} cannot be had of .*stored in nf4"):
        resolve_config(compose(words(stored, tmp_path, f"quantization={asked}")))


def test_loftq_is_refused_on_stored_4_bit(plain, tmp_path):
    stored = quantized(plain, tmp_path / "stored", **NF4)
    with pytest.raises(ConfigError, match=r"target.init=loftq needs weights in full precision"):
        resolve_config(compose(words(stored, tmp_path, "target.init=loftq", "quantization=nf4")))


def test_a_preset_with_another_path_is_looked_at_when_it_is_loaded(plain, tmp_path):
    stored = quantized(plain, tmp_path / "stored", **NF4)
    config = compose(words(stored, tmp_path))
    config.model.architecture = {"model_type": "llama", **TINY}
    assert with_stored_scheme(config).quantization.scheme is Scheme.nf4


def test_fp4_is_refused(plain, tmp_path):
    stored = quantized(plain, tmp_path / "stored", load_in_4bit=True, bnb_4bit_quant_type="fp4")
    with pytest.raises(ModelError, match="bitsandbytes' fp4, and runs compare NF4"):
        inspect_model(compose(words(stored, tmp_path)).model)


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "torchao", "hqq", "something_new"])
@pytest.mark.parametrize("step", ["plan", "load"])
def test_other_methods_are_refused_by_name_before_any_weight_is_read(plain, tmp_path, method, step):
    with_config(plain, quantization_config={"quant_method": method, "bits": 4})
    (plain / "model.safetensors").write_bytes(b"not read")
    config = compose(words(plain, tmp_path, "quantization=none"))
    with pytest.raises(ModelError, match=rf"quantized by {method}, on which no adapter is trained here"):
        inspect_model(config.model) if step == "plan" else load_base(config)


def fp8(folder: Path, plain: Path) -> Path:
    """The linear modules in FP8 by blocks of 8 x 8, with the weights that it stands for in `plain`."""
    from safetensors.torch import load_file, save_file

    weights, stored = load_file(plain / "model.safetensors"), {}
    for name, value in list(weights.items()):
        if not name.endswith("_proj.weight"):
            stored[name] = value
            continue
        blocks = value.unflatten(0, (-1, 8)).unflatten(2, (-1, 8))
        scale = blocks.abs().amax(dim=(1, 3)) / 448
        small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        weights[name] = (small.float() * scale[:, None, :, None]).flatten(2, 3).flatten(0, 1)
        stored |= {name: small.flatten(2, 3).flatten(0, 1), f"{name}_scale_inv": scale}
    saved(folder, make_model())
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    return with_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [8, 8]})


@pytest.mark.parametrize("scheme", ["none", "nf4"])
def test_an_fp8_checkpoint_is_written_out_in_full_and_then_quantized_as_asked(plain, tmp_path, monkeypatch, scheme):
    monkeypatch.setenv("LORASCOPE_CACHE", str(tmp_path / "cache"))
    stored = fp8(tmp_path / "fp8", plain)
    one = train(*words(plain, tmp_path, f"quantization={scheme}"))
    other = train(*words(stored, tmp_path, f"quantization={scheme}"))
    left, right = adapter(one, tmp_path), adapter(other, tmp_path)
    assert other.fingerprint["quantized_modules"] == one.fingerprint["quantized_modules"]
    assert other.environment["checkpoint"] == "fp8"
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("told", [True, False], ids=["by its class", "by its weights"])
def test_a_classifier_says_that_it_has_no_lm_head(tmp_path, told):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = saved(tmp_path / "scored", LlamaForSequenceClassification(LlamaConfig(**TINY, num_labels=3)))
    if not told:
        with_config(folder, architectures=None)
    config = compose(words(folder, tmp_path, "quantization=none"))
    with pytest.raises(ModelError, match=r"score head.*no lm_head"):
        inspect_model(config.model) if told else load_base(config)


def test_none_of_these_ends_in_a_traceback(plain, tmp_path):
    for method in ("gptq", "fp8", "mxfp4", "bitsandbytes"):  # the weights are not what the config says
        with_config(plain, quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
        with pytest.raises(LorascopeError):
            train(*words(plain, tmp_path, f"seed={len(method)}"))


# the sixteen numbers of FP4 (E2M1), of the OCP Microscaling specification
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def test_an_mxfp4_checkpoint_is_written_out_in_full(tmp_path):
    """Two numbers a byte, the lower half first; 32 of them share a power of two."""
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path / "oss", small_model("gpt_oss", intermediate_size=32))
    weights, stored, wanted = load_file(folder / "model.safetensors"), {}, {}
    draw = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = value
            continue
        experts, d_in, d_out = value.shape
        blocks = torch.randint(0, 256, (experts, d_out, d_in // 32, 16), generator=draw).to(torch.uint8)
        scales = torch.randint(120, 126, (experts, d_out, d_in // 32), generator=draw).to(torch.uint8)
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        table = torch.tensor(FP4)
        halves = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], dim=-1).flatten(-2)
        wanted[name] = (halves * torch.exp2(scales.float() - 127)[..., None]).flatten(-2).transpose(1, 2)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with_config(folder, quantization_config={"quant_method": "mxfp4"})
    base = load_base(resolve_config(compose(words(folder, tmp_path, "quantization=none")))).model
    assert wanted
    for name, value in wanted.items():
        assert torch.equal(base.get_parameter(name), value), name
