"""Environment variables: refused, obeyed, forgotten, or part of a run's identity."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorascope.config.machine import check_variables, numerics_of
from lorascope.errors import ConfigError

ROOT = Path(__file__).parents[2]
LAUNCHER = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}


@pytest.mark.parametrize("name", ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_several_processes_are_refused(name):
    with pytest.raises(ConfigError, match=rf"{name}=2:? asks for several processes(.|\n)*unset {name}"):
        check_variables({name: "2", **LAUNCHER})


@pytest.mark.parametrize("size", ["1", "0", ""])
def test_a_launcher_of_one_process_is_forgotten(size):
    left = {"WORLD_SIZE": size, **LAUNCHER, "PATH": "here"}
    check_variables(left)
    assert left == {"PATH": "here"}


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "model.dtype"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "model.dtype"),
        ("ACCELERATE_USE_CPU", "true", "device"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "unset"),
        ("ACCELERATE_USE_FSDP", "True", "unset"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "train.gradient_accumulation"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "torch_compile"),
        ("FSDP_OFFLOAD_PARAMS", "true", "unset"),
        ("PARALLELISM_CONFIG_TP_SIZE", "2", "unset"),
        ("XLA_USE_BF16", "1", "unset"),
    ],
)
def test_what_would_change_the_training_unseen_is_refused(name, value, remedy):
    with pytest.raises(ConfigError, match=rf"{name}={value} would change the training unseen(.|\n)*{remedy}"):
        check_variables({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "no"), ("ACCELERATE_USE_CPU", "false"), ("ACCELERATE_LOG_LEVEL", "debug"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"), ("PARALLELISM_CONFIG_TP_SIZE", "1"),
        ("CUDA_VISIBLE_DEVICES", "0"), ("ACCELERATE_DYNAMO_BACKEND", "no"),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_let_be(name, value):
    check_variables({name: value})


def test_what_changes_how_torch_computes_is_known_by_name():
    found = numerics_of({"ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "NVIDIA_TF32_OVERRIDE": "", "HOME": "/x"})
    assert found == {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}


# each is varied alone: it is refused, or it changes how torch computes
ALONE = {
    "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "1", "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2", "ACCELERATE_TORCH_DEVICE": "meta", "WORLD_SIZE": "2",
    "PMI_SIZE": "2", "FSDP_VERSION": "2", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip
# these together leave the result as it is
TOGETHER = {
    "ACCELERATE_LOG_LEVEL": "debug", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "10.9.9.9", "MASTER_PORT": "29611",
    "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x", "TRANSFORMERS_VERBOSITY": "info", "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true",
    "PYTHONHASHSEED": "7", "WANDB_PROJECT": "tides", "WANDB_WATCH": "all", "WANDB_RUN_ID": "abc",
    "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1", "LC_ALL": "C", "TZ": "Asia/Tokyo",
}  # fmt: skip
PROGRAM = """
import json, os, sys
os.environ.pop("HYDRA_FULL_ERROR", None)
from lorascope.compose import compose
from lorascope.errors import LorascopeError
from lorascope.run import execute
for change in json.loads(sys.argv[2]):
    pid = os.fork()
    if pid == 0:
        os.environ.update(change)
        try:
            place = f"runs_dir={os.getcwd()}/{len(change)}/{min(change, default='')}"
            record = execute(compose([*json.loads(sys.argv[1]), place]))
            print("RAN", json.dumps([change, record.run_id, record.fingerprint["hash"]]), flush=True)
        except LorascopeError as error:
            print("REFUSED", json.dumps([change, error.place]), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.slow
def test_no_variable_makes_two_results_of_one_run(tiny_words, tmp_path):
    """Each in a process of its own: the same id means the same adapter, bit by bit; and nothing hangs."""
    words = [word for word in tiny_words if not word.startswith("runs_dir")] + ["train.max_steps=2"]
    changes = [{}, TOGETHER, *({name: value} for name, value in ALONE.items())]
    assert len(ALONE | TOGETHER) >= 30
    clean = {name: value for name, value in os.environ.items() if name not in ALONE | TOGETHER}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words), json.dumps(changes)],
        capture_output=True, text=True, timeout=20 * len(changes), cwd=tmp_path, env=clean | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ran = [json.loads(line.removeprefix("RAN ")) for line in done.stdout.splitlines() if line.startswith("RAN ")]
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED ")]
    assert len(ran) + len(refused) == len(changes), done.stdout + done.stderr
    results: dict[str, set[str]] = {}
    for change, run_id, _ in ran:
        (adapter,) = (tmp_path / str(len(change)) / min(change, default="")).rglob("adapter_model.safetensors")
        results.setdefault(run_id, set()).add(hashlib.sha256(adapter.read_bytes()).hexdigest())
    assert {len(bits) for bits in results.values()} == {1}, results
    assert len(refused) == 8
    assert len(results) == 1 + 4  # the variables that change how torch computes are part of the id
