"""Train a small model of every type for two steps as `python train.py` does, and load its adapter in plain PEFT.

python scripts/check_architectures.py             all types; writes docs/architectures.json
python scripts/check_architectures.py TYPE …      some types; writes nothing

The loss that the record gives is computed again from the saved adapter, with transformers and PEFT alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from lorascope.errors import LorascopeError
from small_models import UNBUILDABLE, causal_types, quiet, seeing_types, small_config, small_model

RESULTS = Path(__file__).parents[1] / "docs" / "architectures.json"
ROWS = [{"prompt": f"say {number}", "completion": f"it is {number}"} for number in range(6)]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else '?' }}{% endfor %}"
TRAINED = "yes"


def main() -> int:
    """Check, print a line for each type, and exit 1 where one ends in anything but a training or a message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*")
    some = parser.parse_args().types
    found: dict[str, str] = {}
    failed = False
    for kind in some or [*causal_types(), *seeing_types()]:
        try:
            found[kind] = UNBUILDABLE.get(kind) or check(kind)
        except Exception as error:  # that is what this looks for
            found[kind], failed = f"{type(error).__name__}: {error}", True
        print(f"{kind:<28}{found[kind]}", flush=True)
    if not some:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def check(kind: str) -> str:
    """`yes`, or the message that refuses the type.

    Raises:
        AssertionError: when the saved adapter is another than the trained one.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), quiet():
        path = Path(folder)
        make(kind, path)
        try:
            loss = trained_loss(path)
        except LorascopeError as error:
            return error.what.rstrip(".").replace(folder, "the model")
        again = loss_of_saved(path)
    assert abs(loss - again) < 1e-4 * max(1.0, loss), f"trained to {loss}, and the saved adapter gives {again}"
    return TRAINED


def make(kind: str, folder: Path) -> None:
    """A folder as people have it: weights, config, tokenizer; and rows."""
    small_model(kind).save_pretrained(folder)
    small_config(kind).save_pretrained(folder)  # of the whole, where the model is a part
    small_tokenizer().save_pretrained(folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def small_tokenizer() -> Any:
    """A tokenizer of letters, with fewer tokens than a small model has."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<sep>", "<unk>", *map(chr, range(32, 123))]
    tokenizer = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    return fast


def trained_loss(folder: Path) -> float:
    """The eval loss after two steps on every role that the type has."""
    from lorascope.api import train

    rows = folder / "rows.jsonl"
    record = train(
        "model=hf", f"model.path={folder}", "dataset=file", f"dataset.path={rows}", f"dataset.eval_path={rows}",
        "target=block", "target.lora_dropout=0", "quantization=none", "device=cpu",
        "model.dtype=float32", "evaluation=none", "train.max_length=48", "train.max_steps=2", "train.warmup_ratio=0",
        "train.learning_rate=1e-2", f"runs_dir={folder / 'runs'}",
    )  # fmt: skip
    assert record is not None
    assert record.metrics["eval_loss"]["value"] != record.metrics["eval_loss"]["base"], "nothing was learned"
    return float(record.metrics["eval_loss"]["value"])


def loss_of_saved(folder: Path) -> float:
    """The same loss, from what the run has saved, without lorascope."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    adapter = next((folder / "runs").glob("*/adapter"))
    try:
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except ValueError:
        base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys did not match")
        model = PeftModel.from_pretrained(base, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total = count = 0.0
    for row in ROWS:
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        asked, ids = (
            tokenizer.apply_chat_template(some, tokenize=True, return_dict=True)["input_ids"]
            for some in (turns[:1], turns)
        )
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0].float()
        chosen = logits[:-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[len(asked) - 1 :]
        total, count = total - float(chosen.sum()), count + len(chosen)
    return total / count


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
