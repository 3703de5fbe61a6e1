"""Resume exactly: choose and check a checkpoint, and restore the sums and dtypes that transformers leaves out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorascope.compat import loss_sums, set_loss_sums
from lorascope.errors import RunError
from lorascope.records.environment import exactness
from lorascope.training.checkpoints import Checkpoint, newest

ADAPTER_FILE = "adapter_model.safetensors"
SUMS = "sums.json"
# without one of these, transformers would silently continue with a new one
STATE = "trainer_state.json"
FILES = (ADAPTER_FILE, SUMS, STATE, "optimizer.pt", "scheduler.pt", "rng_state.pth")
REMOVE = "Remove this checkpoint, or start over: resume=never"
REMEDY = "An earlier checkpoint is taken, if there is one; resume=never starts over."


def check_resumable(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that a run cannot resume from.

    Raises:
        RunError: naming the file that is missing or another step's, or the meta values that are missing or wrong.
    """
    for name in FILES:
        if not (checkpoint.path / name).is_file():
            raise RunError(str(checkpoint.path), f"{name} is missing.", REMEDY)
    wrong = [name for name, fits in META.items() if name not in checkpoint.meta or not fits(checkpoint.meta[name])]
    wrong += [name for name, fits in LATER.items() if name in checkpoint.meta and not fits(checkpoint.meta[name])]
    if wrong:
        raise RunError(str(checkpoint.path), f"its manifest has no valid {', '.join(wrong)}.", REMEDY)
    try:
        steps = json.loads((checkpoint.path / STATE).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(str(checkpoint.path), f"{STATE} is damaged.", REMEDY) from error
    if steps != checkpoint.step:
        raise RunError(str(checkpoint.path), f"{STATE} is of step {str(steps)[:40]}.", REMEDY)


def _is_loss(value: Any) -> bool:
    try:
        return math.isfinite(float.fromhex(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _has_numbers(value: Any, *names: str, also: str = "") -> bool:
    """Whether it is a dictionary with a number for each name; it may have one for `also`."""
    if not isinstance(value, dict) or value.keys() - {also} != set(names):
        return False
    return all(map(_is_number, value.values()))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**63


def _is_best(value: Any) -> bool:
    """A step, and the value that was the best there."""
    if not isinstance(value, dict) or len(value) != 2 or type(value.get("step")) is not int:
        return False
    return all(map(_is_number, value.values()))


def _is_stop(value: Any) -> bool:
    """What `train.stop_early` has seen."""
    if not isinstance(value, dict) or value.keys() != {"best", "waited"} or type(value["waited"]) is not int:
        return False
    return value["best"] is None or _is_number(value["best"])


# a meta value that a run reads -> whether it is as `write` was given it
META: dict[str, Callable[[Any], bool]] = {
    "before": _is_loss,
    "fingerprint": lambda value: isinstance(value, dict),
    "versions": lambda value: isinstance(value, dict),
    "best": lambda value: value is None or _is_best(value),
    "finished": lambda value: isinstance(value, bool),
    "trained": lambda value: _has_numbers(value, "steps", "tokens", "train_loss", "seconds", also="planned"),
}
LATER = {"stop": _is_stop}  # which checkpoints of earlier versions do not have


def save_sums(trainer: Any, folder: Path) -> None:
    """Write the sums that a resumed training continues; floats are hexadecimal, so that no bit is lost."""
    sums = loss_sums(trainer)
    sums |= {name: sums[name].hex() for name in ("window", "total")}
    sums["averages"] = {name: [value.hex() for value in those] for name, those in sums["averages"].items()}
    sums["evaluate"] = bool(trainer.evaluation_is_due)
    (folder / SUMS).write_text(json.dumps(sums) + "\n", encoding="utf-8")


def restore_sums(trainer: Any, folder: Path) -> bool:
    """Restore the sums, after the training loop has set its own to zero.

    Returns:
        Whether an evaluation was cut: it is due before the next step.

    Raises:
        RunError: when the file is damaged.
    """
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        sums |= {name: float.fromhex(sums[name]) for name in ("window", "total")}
        sums |= {name: int(sums[name]) for name in ("last_logged", "read_tokens")}
        averages = {name: [float.fromhex(value) for value in those] for name, those in sums["averages"].items()}
        set_loss_sums(trainer, {**sums, "averages": averages})
        return bool(sums["evaluate"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(str(folder), f"{SUMS} is damaged.", REMOVE) from error


def restore_adapter(model: Any, folder: Path) -> None:
    """Copy the adapter's values into the parameters of the model, which keep their dtype, device and hooks.

    Raises:
        RunError: when the file cannot be read, or is another adapter's.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(str(folder / ADAPTER_FILE))
    except (OSError, SafetensorError) as error:
        raise RunError(str(folder), f"{ADAPTER_FILE} cannot be read: {error}.", REMOVE) from error
    here = get_peft_model_state_dict(model, save_embedding_layers=False)
    if other := sorted(name for name in saved.keys() | here.keys() if _shape(saved, name) != _shape(here, name)):
        what = f"{other[0]} is {_shape(saved, other[0])} there and {_shape(here, other[0])} here"
        raise RunError(str(folder), f"it holds another adapter than this run's: {what}.", REMOVE)
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(saved[name])


def _shape(tensors: Mapping[str, Any], name: str) -> str:
    return " x ".join(map(str, tensors[name].shape)) if name in tensors else "absent"


def size_of(trainer: Any) -> int:
    """Bytes that a checkpoint will need: the adapter, and what the optimizer holds for it."""
    tensors = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    for state in trainer.optimizer.state.values():
        tensors += [value for value in state.values() if hasattr(value, "numel")]
    return int(1.05 * sum(tensor.numel() * tensor.element_size() for tensor in tensors)) + 2**20


def latest(checkpoints: Path, warn: Callable[[str], None] = lambda reason: None) -> Checkpoint | None:
    """The newest checkpoint that a run can be resumed from, with a warning for each that is passed over."""
    return newest(checkpoints, warn, check_resumable)


def check_same_run(
    checkpoint: Checkpoint, fingerprint: Mapping[str, Any], environment: dict[str, Any], warn: Callable[[str], object]
) -> None:
    """Refuse to resume with other data or another base; warn of other versions.

    Raises:
        RunError: naming what differs.
    """
    then = checkpoint.meta["fingerprint"]
    if differs := [key for key in fingerprint if key != "hash" and fingerprint[key] != then.get(key)]:
        first = f"{then.get(differs[0])}, not {fingerprint[differs[0]]}"
        what = f"was written with another {', '.join(differs)}: {first}."
        raise RunError(str(checkpoint.path), what, "Restore it, or start over: resume=never")
    before = checkpoint.meta["versions"]
    if changed := [name for name, version in exactness(environment).items() if before.get(name) != version]:
        warn(f"resuming with another {', '.join(changed)}: the result may differ in the last bits")
