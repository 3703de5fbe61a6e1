"""What several tests share: a tiny model, a byte tokenizer, chat templates, and the command as a function."""

from __future__ import annotations

import sys
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    specials = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate([*specials, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", additional_special_tokens=specials[1:]
    )
    fast.chat_template = chat_template
    return fast


def make_model(**changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY | changes))


def run_train(monkeypatch, *words: str) -> int:
    """`python train.py WORDS` in this process; the exit code."""
    from hydra.core.global_hydra import GlobalHydra

    from lorascope.cli.main import train

    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    try:
        train()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return 0
