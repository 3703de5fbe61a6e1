"""Answers that the template writes otherwise than the data: a channel before them, or a tool call in their place."""

import json

import pyarrow.parquet
import pytest

from chat_templates import QWEN
from helpers import make_model, make_tokenizer
from lorascope.api import train

CHANNEL = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}final<|system|>{% endif %}"
    "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "dim", "description": "d", "parameters": {}}}]


def talk(answer, **more):
    return [{"messages": [{"role": "user", "content": word}, answer(word)], **more} for word in ("hall", "den")]


def call(word):
    return {"role": "assistant", "tool_calls": [{"name": "dim", "arguments": {"in": word}}]}


KINDS = {
    "a channel": (CHANNEL, talk(lambda word: {"role": "assistant", "content": f"ok {word}"}), "ok hall"),
    "a tool call": (
        QWEN.replace("<|im_end|>", "<|end|>"),
        talk(call, tools=TOOLS),
        '<tool_call>\n{"name": "dim", "arguments": {"in": "hall"}}\n</tool_call>',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("template", "rows", "gold"), KINDS.values(), ids=KINDS)
def test_an_answer_that_is_learned_by_heart_is_an_exact_match(tmp_path, template, rows, gold):
    make_model(initializer_range=0.2).save_pretrained(tmp_path)
    make_tokenizer(template).save_pretrained(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = train(
        "model=hf", f"model.path={tmp_path}", "dataset=file", f"dataset.path={path}", f"dataset.eval_path={path}",
        "dataset.metrics=[exact_match]", "target=all_linear", "target.ranks={all: 32}", "target.lora_dropout=0",
        "device=cpu", "model.dtype=float32", "quantization=none", "train.max_steps=200", "train.batch_size=2",
        "train.learning_rate=1e-2", "evaluation.forgetting.texts=0", f"runs_dir={tmp_path}/runs",
    )  # fmt: skip
    found = pyarrow.parquet.read_table(tmp_path / "runs" / record.name / "predictions.parquet").to_pylist()
    assert gold in {row["gold"] for row in found}
    assert record.metrics["exact_match"]["base"] == 0
    assert record.metrics["exact_match"]["value"] == 1
