"""A study of a tiny model, in seconds."""

from pathlib import Path

import pytest


@pytest.fixture
def study_words(tiny_words, tmp_path) -> list[str]:
    """Two arms, two seeds, no pilot; behind it whatever a test adds."""
    return [
        "-m",
        *tiny_words,
        "train.max_steps=3",
        "study.arms={q_v: 'target=q_v', qv_ffn: 'target=qv_ffn'}",
        "study.seeds=[1,2]",
        "study.tasks={airports: {margin: 0.1}}",
        "study.pilot.points=0",
    ]


@pytest.fixture
def runs(tmp_path) -> Path:
    """Where the study is."""
    return tmp_path / "runs"
