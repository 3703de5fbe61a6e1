"""What transformers' Trainer leaves out of its checkpoints, and what it would do otherwise when it goes on from one.

Its optimizer, scheduler, random states and counters come back bit for bit. What does not: the loss that was summed
since the last log line, the sum that becomes train_loss, and the adapter's dtype on a quantized base.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ADAPTER_FILE = "adapter_model.safetensors"
SUMS = "sums.json"


def save_sums(trainer: Any, folder: Path) -> None:
    """The sums that a resumed training goes on with; floats as hexadecimal, so that no bit is lost."""
    sums = {
        "window": float(trainer._tr_loss.item()).hex(),
        "total": float(trainer._total_loss_scalar).hex(),
        "last_logged": int(trainer._globalstep_last_logged),
        "read_tokens": int(getattr(trainer, "_total_train_tokens", 0)),
        "averages": {
            name: [float(value).hex() for value in those] for name, those in trainer._metrics["train"].items()
        },
        "evaluate": bool(trainer.evaluation_is_due),
    }
    (folder / SUMS).write_text(json.dumps(sums) + "\n", encoding="utf-8")


def restore_sums(trainer: Any, folder: Path) -> bool:
    """Put the sums back, once the training loop has set its own to zero.

    Returns:
        Whether an evaluation was cut: it is due before the next step.
    """
    sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
    trainer._tr_loss.fill_(float.fromhex(sums["window"]))
    trainer._total_loss_scalar = float.fromhex(sums["total"])
    trainer._globalstep_last_logged = int(sums["last_logged"])
    trainer._initial_global_step = 0  # train_loss is the mean over all steps, not over this session's
    trainer._total_train_tokens = int(sums["read_tokens"])
    for name, values in sums["averages"].items():
        trainer._metrics["train"][name] = [float.fromhex(value) for value in values]
    return bool(sums["evaluate"])


def restore_adapter(model: Any, folder: Path) -> None:
    """The adapter's values, copied into the parameters that are there: they keep their dtype, place and hooks.

    Raises:
        ValueError: when the file holds another adapter.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(str(folder / ADAPTER_FILE))
    there = get_peft_model_state_dict(model, save_embedding_layers=False)
    if saved.keys() != there.keys():
        raise ValueError(f"{folder}: the checkpoint's adapter is not this run's")
    with torch.no_grad():
        for name, tensor in there.items():
            tensor.copy_(saved[name])


def size_of(trainer: Any) -> int:
    """Bytes that a checkpoint will need: the adapter, and what the optimizer holds for it."""
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    adapter = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    states = 0
    for state in trainer.optimizer.state.values():
        states += sum(value.numel() * value.element_size() for value in state.values() if hasattr(value, "numel"))
    return int(1.05 * (adapter + states)) + 2**20
