"""4-bit QLoRA on a CUDA GPU, with random weights of Mistral's shape: skips itself where there is none."""

import json
from pathlib import Path

import pytest
import torch

from helpers import make_tokenizer
from lorascope.compose import compose
from lorascope.run import execute

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")]


@pytest.fixture(scope="module")
def mistral(tmp_path_factory) -> Path:
    """Two layers of Mistral-7B's width."""
    from transformers import MistralConfig, MistralForCausalLM

    folder = tmp_path_factory.mktemp("mistral")
    architecture = dict(compose(["model=mistral7b"]).model.architecture)
    architecture.pop("model_type")
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**architecture | {"num_hidden_layers": 2}))
    model.to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_auto_on_cuda_is_4_bit_with_paged_adam_and_checkpointing_until_it_is_known_to_fit(mistral, tmp_path):
    from lorascope.config.machine import resolve
    from lorascope.training.trainer import sft_config

    config = resolve(compose(["model=hf", f"model.path={mistral}"]))
    assert (str(config.device), str(config.quantization.scheme), str(config.model.dtype)) == ("cuda", "nf4", "bfloat16")
    args = sft_config(config, tmp_path)
    assert args.optim == "paged_adamw_8bit"
    assert args.gradient_checkpointing


def test_qv_ffn_trains_a_mistral_shape_in_4_bit(mistral, tmp_path):
    words = ["model=hf", f"model.path={mistral}", "model.name=mistral2", "target=qv_ffn", "dataset=airports"]
    more = ["dataset.max_train_samples=64", "dataset.max_eval_samples=16", "train.learning_rate=1e-3"]
    record = execute(compose([*words, *more, f"runs_dir={tmp_path}"]))
    assert record is not None
    assert record.plan["trainable_parameters"] == 2 * 10_485_760 // 32
    assert record.fingerprint["quantized_modules"] == 14
    assert record.memory["device"] == "cuda"
    assert record.memory["predicted"]["activation_checkpointing"] is False  # two layers fit any GPU
    assert record.memory["predicted_bytes"] < record.memory["free_bytes"]
    assert record.metrics["eval_loss"]["value"] < record.metrics["eval_loss"]["base"]
    folder = tmp_path / record.name
    assert json.loads((folder / "run.json").read_text())["environment"]["gpu"]
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
