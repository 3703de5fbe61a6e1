"""A two-layer LLaMA with a byte tokenizer, made once a session, and ways to run lorascope on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import make_model, make_tokenizer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.pop("WANDB_API_KEY", None)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model, as save_pretrained leaves it."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_words(tiny: Path, tmp_path: Path) -> list[str]:
    """Overrides of a run that takes two seconds."""
    return [
        "model=hf",
        f"model.path={tiny}",
        "model.name=tiny",
        "model.dtype=float32",
        "device=cpu",
        "dataset=airports",
        "dataset.max_train_samples=24",
        "dataset.max_eval_samples=10",
        "train.batch_size=4",
        "logger=none",
        "evaluation=none",
        f"runs_dir={tmp_path / 'runs'}",
    ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices of some ten columns are not worth two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
