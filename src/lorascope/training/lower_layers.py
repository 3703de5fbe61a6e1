"""What stands below the first adapted layer is computed once: a trainer and rows come in, a way around it comes out.

These layers are frozen, so a row's hidden states behind them are the same in every epoch, for every seed and every arm
that adapts the same layers. They are kept by the row's token ids; while the trainer makes a step, the first adapted
layer is given them and the layers below pass on whatever they get. Whether a model stands that is not judged by its
name: before the first step some rows are read in both ways, and where the losses differ nothing is reused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lorascope.config import TrainConfig
from lorascope.data.tokens import Encoded
from lorascope.errors import out_of_memory
from lorascope.estimate.setting import is_reentrant
from lorascope.interrupts import stop_if_asked
from lorascope.models.likelihood import token_losses
from lorascope.targets.attach import adapted_modules
from lorascope.targets.roles import place_of
from lorascope.training.around import Reuse, around, watched
from lorascope.training.packing import APART, APART_IN_HALF
from lorascope.training.states import States, Unfit

if TYPE_CHECKING:
    import torch

TOKENS = 2048  # padded, of one batch of the pass over the rows: part of what decides the last bits
LOOKED_AT = 3  # rows that are read in both ways
SAME = 1e-5  # nats between two computations of the same numbers
ROUNDING, ROUNDING_IN_HALF = 1e-4, 2e-2  # of the states' norm, between training and evaluation mode; dropout leaves 0.1
MOST_KEPT = 2  # tables of states, for as many first layers or data sets


def prepare(
    trainer: Any, data: Encoded, settings: TrainConfig, kept: MutableMapping[str, States], folder: Path
) -> tuple[Reuse, dict[str, Any]]:
    """The way around for these rows, once it was seen to lead to the same place.

    Args:
        trainer: built, before its first step.
        data: the train half.
        settings: of the training.
        kept: states of this base that are there already, by what they are of; new ones are added.
        folder: where a file may be made, should the memory be too small.

    Returns:
        It, and what a record should say: layers that are passed, rows, bytes, place and seconds.

    Raises:
        Unfit: with the reason why nothing is reused.
        Preempted: when a signal asked for it.
    """
    began = time.perf_counter()
    _check_settings(trainer, settings)
    stem, first = _first_adapted(trainer.model)
    layers = list(trainer.model.get_base_model().get_submodule(stem))
    _check_frozen(trainer.model, layers, first)
    training = trainer.model.training
    try:
        look = _look(trainer, data, layers, first)
        rows = sorted({tuple(ids) for ids in data.input_ids}, key=lambda ids: (len(ids), ids))
        digest = hashlib.sha256(f"{stem}/{first}/{look.states.dtype}".encode())
        for row in rows:
            digest.update(len(row).to_bytes(8, "big") + str(row).encode())
        key, known = digest.hexdigest(), digest.hexdigest() in kept
        states = kept.pop(key) if known else _states(trainer, layers, first, rows, look, kept, folder)
        kept[key] = states
        _compare(trainer, Reuse(layers, first, look.outputs, states), look)
    finally:
        trainer.model.train(training)
    entry = {
        "layers": first,
        "rows": len(rows),
        "bytes": states.bytes,
        "where": states.where,
        "seconds": round(time.perf_counter() - began, 3),
        "from_the_session": known,
    }
    return Reuse(layers, first, look.outputs, states), entry


def _check_settings(trainer: Any, settings: TrainConfig) -> None:
    """What would make the lower layers others than they are before the first step, or hide the rows."""
    args = trainer.args
    reasons = {
        "rows are packed": settings.packing or trainer.padding_free,
        "noise is added to the embeddings": trainer.neftune_noise_alpha is not None,
        "reentrant checkpointing wants a gradient of the embeddings": args.gradient_checkpointing
        and is_reentrant(settings),
        "the routers of all layers have a loss of their own": trainer.aux_loss_enabled,
        "the model is compiled": args.torch_compile,
        "several GPUs share a batch": args.n_gpu > 1,
    }
    for reason, applies in reasons.items():
        if applies:
            raise Unfit(reason)


def _first_adapted(model: Any) -> tuple[str, int]:
    """The list of blocks, and the number of the first that is adapted."""
    head = model.get_output_embeddings()
    places = [place_of(path) for path, layer in adapted_modules(model).items() if layer is not head]
    stems = {place.stem for place in places if place}
    if len(stems) != 1 or None in places:
        raise Unfit("the adapter does not stand in one list of layers")
    first = min(place.number for place in places if place)
    if first == 0:
        raise Unfit("the first layer is adapted, and nothing stands below it")
    return stems.pop(), first


def _check_frozen(model: Any, layers: Sequence[Any], first: int) -> None:
    """Everything that is trained is above; a module may stand in several blocks."""
    head = model.get_output_embeddings()
    above = {id(one) for module in (*layers[first:], head) for one in module.parameters() if one.requires_grad}
    below = {id(one) for module in layers[:first] for one in module.parameters() if one.requires_grad}
    trained = {id(one) for one in model.parameters() if one.requires_grad}
    if below or trained - above:
        raise Unfit("something is trained below the first adapted layer too")


class Look(NamedTuple):
    """What was seen of some rows, read as ever without dropout."""

    inputs: dict[str, Any]
    labels: Any
    losses: torch.Tensor
    states: torch.Tensor  # as the first adapted layer got them
    outputs: list[int]  # of each block below, how many values it returns; 0 for a plain tensor


def _look(trainer: Any, data: Encoded, layers: Sequence[Any], first: int) -> Look:
    """Read some rows as ever, then around the lower layers with the very states that were seen: not a bit may differ.

    Raises:
        Unfit: where the second way does not lead to the same losses, or is refused by the model.
    """
    inputs = trainer._prepare_inputs(trainer.data_collator(_some(data)))
    labels = inputs.pop("labels")
    if "attention_mask" not in inputs:
        raise Unfit("the trainer gives the model no mask")
    model, seen, losses = trainer.model, {}, {}
    for training in (False, True):
        model.train(training)
        with watched(layers, first) as seen[training]:
            losses[training] = _losses(model, inputs, labels)
        _check_order(seen[training], inputs["input_ids"].shape, first)
    states = {training: one.states for training, one in seen.items() if one.states is not None}
    _check_dropout(states[False], states[True], inputs["attention_mask"].bool())
    for training in (False, True):
        model.train(training)
        try:
            with around(layers, first, seen[False].outputs, states[training]):
                again = _losses(model, inputs, labels)
        except Exception as error:  # a model's own, of any kind
            if out_of_memory(error):
                raise
            raise Unfit(f"the model refuses it: {str(error).strip().partition(chr(10))[0]}") from error
        _hold(losses[training], again, SAME, "its upper layers read more of the lower ones than hidden states")
    return Look(inputs, labels, losses[False], states[False], seen[False].outputs)


def _losses(model: Any, inputs: dict[str, Any], labels: Any) -> torch.Tensor:
    """Each token's loss, with the same random numbers every time: the training's own stream stays where it is."""
    import torch

    device = labels.device
    apple = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.no_grad(), torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        losses = token_losses(model, inputs, labels)
    if apple is not None:  # which fork_rng does not know
        torch.mps.set_rng_state(apple)
    return losses


def _check_order(seen: Any, shape: Any, first: int) -> None:
    """One layer after another, each once, and hidden states of every token between them."""
    if seen.calls != sorted({*seen.calls}) or seen.calls[: first + 1] != list(range(first + 1)):
        raise Unfit("its layers are not computed one after another")
    if seen.states is None or seen.states.shape[:2] != shape:
        raise Unfit("its layers are not given hidden states of rows and tokens")
    if None in seen.outputs:
        raise Unfit("its lower layers return neither a tensor nor several values")


def _check_dropout(expected: torch.Tensor, found: torch.Tensor, mask: torch.Tensor) -> None:
    """The lower layers must compute in training what they compute in an evaluation."""
    import torch

    limit = ROUNDING if expected.dtype is torch.float32 else ROUNDING_IN_HALF
    expected, found = expected[mask].float(), found[mask].float()
    if not float((found - expected).norm()) <= limit * float(expected.norm()):
        raise Unfit("its lower layers compute something else while it is trained, as dropout does")


def _states(
    trainer: Any,
    layers: Sequence[Any],
    first: int,
    rows: Sequence[tuple[int, ...]],
    look: Look,
    kept: MutableMapping[str, States],
    folder: Path,
) -> States:
    """One pass over the rows: batches are of like length and of these rows alone, whoever asks and in which order."""
    import torch

    while len(kept) >= MOST_KEPT:
        del kept[next(iter(kept))]
    try:
        states = States(rows, look.states.flatten(0, 1), folder)
    except Unfit:
        if not kept:
            raise
        kept.clear()
        states = States(rows, look.states.flatten(0, 1), folder)
    trainer.model.eval()
    for batch in _batches(rows):
        stop_if_asked()
        features = [{"input_ids": list(ids), "labels": list(ids)} for ids in batch]
        inputs = trainer._prepare_inputs(trainer.data_collator(features))
        del inputs["labels"]
        with torch.no_grad(), watched(layers, first, stop=True) as seen:
            trainer.model(**inputs, use_cache=False)
        assert seen.states is not None
        for ids, its, mask in zip(batch, seen.states, inputs["attention_mask"].bool(), strict=True):
            states.put(ids, its[mask])
    return states


def _batches(rows: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
    """Rows, shortest first, as many at once as `TOKENS` allow."""
    start = 0
    for end, row in enumerate(rows, start=1):
        following = len(rows[end]) if end < len(rows) else len(row)
        if end == len(rows) or (end + 1 - start) * following > TOKENS:
            yield rows[start:end]
            start = end


def _some(data: Encoded) -> list[dict[str, Any]]:
    """A few rows as the trainer's collator takes them: the shortest, the longest, and between."""
    order = sorted(range(len(data)), key=lambda row: len(data.input_ids[row]))
    chosen = sorted({order[place * (len(order) - 1) // (LOOKED_AT - 1)] for place in range(LOOKED_AT)})
    return [{"input_ids": list(data.input_ids[row]), "labels": list(data.labels[row])} for row in chosen]


def _compare(trainer: Any, reuse: Reuse, look: Look) -> None:
    """The kept states, which were computed beside other rows, must lead to the same losses but for rounding."""
    import torch

    trainer.model.eval()
    with reuse.of(look.inputs) as known:
        found = _losses(trainer.model, look.inputs, look.labels)
    if not known:
        raise Unfit("rows reach the model with other tokens than they have")
    limit = APART if look.states.dtype is torch.float32 else APART_IN_HALF
    _hold(look.losses, found, limit, "a row's hidden states depend on the rows beside it")


def _hold(expected: torch.Tensor, found: torch.Tensor, limit: float, reason: str) -> None:
    gap = float((expected - found).abs().max()) if expected.shape == found.shape else float("inf")
    if not gap <= limit:
        raise Unfit(f"{reason}: a token's loss changes by {gap:.2g} nats")
