"""A merged model is what was evaluated: logits, loss and metrics, in plain transformers, for every kind of strategy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import check_architectures as campaign
from helpers import make_model, make_tokenizer
from lorascope.api import train
from lorascope.cli.main import main
from lorascope.delivery.checked_merge import merge_run
from lorascope.delivery.finished_run import finished_run
from lorascope.delivery.merging import with_adapter
from lorascope.errors import LorascopeError, RunError

pytestmark = pytest.mark.usefixtures("one_thread")


def base_of(kind: str, folder: Path, **changes) -> Path:
    if kind == "tiny":
        make_model(**changes).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    else:
        campaign.make(kind, folder)
    rows = [{"prompt": f"say {number}", "completion": f"it is {number}"} for number in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def trained(folder: Path, *words: str):
    rows = folder / "rows.jsonl"
    record = train(
        "model=hf", f"model.path={folder}", "dataset=file", f"dataset.path={rows}", f"dataset.eval_path={rows}",
        "dataset.metrics=[exact_match]", "device=cpu", "model.dtype=float32", "train.max_length=48",
        "train.max_steps=3", "train.warmup_ratio=0", "train.learning_rate=1e-2", "evaluation.forgetting.texts=0",
        "quantization=none",
        f"runs_dir={folder / 'runs'}", *words,
    )  # fmt: skip
    return record, folder / "runs" / record.name


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    """Of some tokens, with transformers and PEFT alone."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except ValueError:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = with_adapter(model, adapter)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


BY_TENSOR, IN_MEMORY = "tensor by tensor", "in memory"
STRATEGIES = {
    "q_v": ("tiny", ["target=q_v"], BY_TENSOR),
    "mixed ranks": ("tiny", ["target=qv_ffn"], BY_TENSOR),
    "a layer range": ("tiny", ["target=q_v", "target.layers=last_half"], BY_TENSOR),
    "rslora": ("tiny", ["target=qv_ffn", "target.alpha_policy=rslora"], BY_TENSOR),
    "biases": ("gpt2", ["target=q_v", "target.bias=lora_only", "target.fused=native"], BY_TENSOR),
    "a part of a fused module": ("phi3", ["target=qv_ffn"], BY_TENSOR),
    "GPT-2's Conv1D": ("gpt2", ["target=q_v"], BY_TENSOR),
    "lm_head": ("tiny", ["target=q_v", "target.modules={lm_head: 4}"], BY_TENSOR),
    "a tied lm_head": ("gemma2", ["target=q_v", "target.modules={lm_head: 4}"], IN_MEMORY),
    "embeddings": ("tiny", ["target=q_v", "target.modules={embed_tokens: 4}"], BY_TENSOR),
    "dora": ("tiny", ["target=q_v", "target.dora=true"], IN_MEMORY),
    "pissa": ("tiny", ["target=q_v", "target.init=pissa"], IN_MEMORY),
    "experts": ("mixtral", ["target=all_linear", "target.lora_dropout=0"], IN_MEMORY),
    "a mixer": ("qwen3_next", ["target=mixer"], BY_TENSOR),
    "a model that sees": ("qwen3_vl", ["target=qv_ffn"], BY_TENSOR),
}


@pytest.mark.parametrize(("kind", "words", "way"), STRATEGIES.values(), ids=STRATEGIES)
def test_the_merged_model_gives_the_logits_that_were_evaluated(tmp_path, kind, words, way):
    record, folder = trained(base_of(kind, tmp_path / "base"), *words)
    found = merge_run(finished_run(record, folder), tmp_path / "merged")
    assert found["way"] == way
    assert found["logits"]["apart"] < found["logits"]["bound"] == 1e-4
    assert found["metrics"]["eval_loss"]["merged"] == pytest.approx(record.metrics["eval_loss"]["value"], rel=1e-4)
    assert found["metrics"]["exact_match"]["merged"] == record.metrics["exact_match"]["value"]
    wanted, base = logits(tmp_path / "base", folder / "adapter"), logits(tmp_path / "base")
    merged = logits(tmp_path / "merged")
    assert float((merged - wanted).abs().max()) < 1e-3 * float(wanted.std())
    assert float((merged - base).abs().max()) > 1e-2 * float(wanted.std())  # it did learn


def test_a_run_in_4_bit_is_merged_into_the_base_in_full_precision_and_the_difference_is_told(tmp_path, capsys):
    record, folder = trained(base_of("tiny", tmp_path / "base"), "target=qv_ffn", "quantization=nf4")
    main(["merge", str(folder), "--out", str(tmp_path / "merged")])
    out = capsys.readouterr().out
    assert "evaluated on a base in nf4; merged is the base in full precision" in out
    wanted = logits(tmp_path / "base", folder / "adapter")
    assert float((logits(tmp_path / "merged") - wanted).abs().max()) < 1e-3 * float(wanted.std())
    told = json.loads((tmp_path / "merged" / "merge.json").read_text())["metrics"]["eval_loss"]
    assert told["evaluated"] == record.metrics["eval_loss"]["value"] != told["merged"]


def test_another_dtype_rounds_the_merged_weights_alone(tmp_path):
    _, folder = trained(base_of("tiny", tmp_path / "base"), "target=q_v")
    main(["merge", str(folder), "--out", str(tmp_path / "merged"), "--dtype", "bfloat16", "--json"])
    from safetensors.torch import load_file

    rounded, base = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "base"))
    assert {value.dtype for value in rounded.values()} == {torch.bfloat16}
    assert all(torch.equal(value, base[name].bfloat16()) for name, value in rounded.items() if "_proj" not in name)


def test_sharded_files_keep_their_places(tmp_path):
    base = tmp_path / "base"
    make_model().save_pretrained(base, max_shard_size="40KB")
    make_tokenizer().save_pretrained(base)
    (base / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    record, folder = trained(base, "target=all_linear")
    found = merge_run(finished_run(record, folder), tmp_path / "merged")
    assert found["files"] == len(list(base.glob("*.safetensors"))) > 2
    index = [json.loads((one / "model.safetensors.index.json").read_text()) for one in (base, tmp_path / "merged")]
    assert index[0]["weight_map"] == index[1]["weight_map"]


def test_tokenizer_and_template_are_beside_and_no_path_of_this_machine_is(tmp_path):
    _, folder = trained(base_of("tiny", tmp_path / "base"), "target=q_v")
    main(["merge", str(folder)])
    from transformers import AutoTokenizer

    merged = folder / "merged"
    assert AutoTokenizer.from_pretrained(merged).chat_template == make_tokenizer().chat_template
    texts = [file.read_text() for file in merged.iterdir() if file.suffix in (".json", ".jinja")]
    assert texts
    assert not any(str(tmp_path) in text for text in texts)


def test_what_lies_apart_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    record, folder = trained(base_of("tiny", tmp_path / "base"), "target=q_v")
    real = torch.Tensor.__add__
    monkeypatch.setattr(
        "lorascope.delivery.merging.Update.apply", lambda self, weight, read: real(weight.float(), 0.05)
    )
    with pytest.raises(RunError, match="standard deviations from those of base and adapter"):
        merge_run(finished_run(record, folder), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_cannot_be_merged_is_one_message(tmp_path):
    record, folder = trained(base_of("tiny", tmp_path / "base"), "target=q_v")
    merge_run(finished_run(record, folder), tmp_path / "merged", check=False)
    with pytest.raises(RunError, match="is there already"):
        merge_run(finished_run(record, folder), tmp_path / "merged", check=False)
    record.status = "failed"
    with pytest.raises(LorascopeError, match="is failed, and has no adapter"):
        merge_run(finished_run(record, folder), tmp_path / "other")


BIG = """
import resource, sys
from pathlib import Path
from lorascope.delivery.finished_run import finished_run
from lorascope.delivery.merging import merge
base, adapter, out = map(Path, sys.argv[1:])
import torch, safetensors  # their own share is not the merge's
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(merge(base, adapter, out, "float32")["weights"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_merging_a_model_of_2_gib_takes_less_than_a_third_of_it(tmp_path):
    from safetensors.torch import save_file

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    side, layers = 4096, 32  # 64 MiB a weight
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(layers)]
    save_file({f"{name}.weight": torch.zeros(side, side) for name in names}, base / "model.safetensors")
    (base / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    settings = {"r": 4, "lora_alpha": 8, "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": True}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    parts = {}
    for name in names:
        parts[f"base_model.model.{name}.lora_A.weight"] = torch.ones(4, side)
        parts[f"base_model.model.{name}.lora_B.weight"] = torch.ones(side, 4)
    save_file(parts, adapter / "adapter_model.safetensors")
    assert (base / "model.safetensors").stat().st_size > 2**31
    command = [sys.executable, "-c", BIG, str(base), str(adapter), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, kibibytes = map(int, done.stdout.split())
    assert weights == layers
    assert kibibytes * 1024 < 2**31 / 3


def test_the_command_is_shown_among_the_others(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "merge" in capsys.readouterr().out


def test_the_runs_own_chat_template_is_beside_the_merged_weights(tmp_path):
    base = base_of("tiny", tmp_path / "base")
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}{# {{ tone }} #}")
    record, folder = trained(base, "target=q_v", f"dataset.chat_template={own}", "dataset.template_kwargs={tone: dry}")
    merge_run(finished_run(record, folder), tmp_path / "merged")
    from transformers import AutoTokenizer

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "[user]a<|end|>[assistant]b<|end|>"
    assert AutoTokenizer.from_pretrained(base).chat_template == make_tokenizer().chat_template
    own.write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}{# {{ tone }} #}")
    with pytest.raises(RunError, match="no longer those that the run has read"):
        merge_run(finished_run(record, folder), tmp_path / "again")


def test_another_base_than_the_runs_is_refused(tmp_path):
    base = base_of("tiny", tmp_path / "base")
    record, folder = trained(base, "target=q_v")
    make_model(initializer_range=0.3).save_pretrained(base)
    with pytest.raises(RunError, match=r"model.path=.*no longer those that the run has read"):
        merge_run(finished_run(record, folder), tmp_path / "merged", check=False)


PEAK = """
import re, sys
from pathlib import Path
from lorascope.delivery.merging import merge
merge(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), "bfloat16")
# of this program; getrusage's would be that of the process which started it, where that is larger
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
def test_a_model_of_2_gib_is_merged_in_less_than_a_third_of_its_size(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    try:
        sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 19, "vocab_size": 32000}
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=16, num_key_value_heads=16))
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(tmp_path / "base", max_shard_size="500MB")
    size = sum(file.stat().st_size for file in (tmp_path / "base").glob("*.safetensors"))
    assert size > 2**31
    names = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=names, init_lora_weights=False))
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "adapter")
    del adapted, model
    words = [sys.executable, "-c", PEAK, *(str(tmp_path / name) for name in ("base", "adapter", "merged"))]
    peak = int(subprocess.run(words, check=True, capture_output=True, text=True, timeout=300).stdout)
    assert peak < size / 3, f"{peak / 2**20:.0f} MiB of {size / 2**20:.0f}"
    print(f"{peak / 2**20:.0f} MiB for {size / 2**20:.0f}")
