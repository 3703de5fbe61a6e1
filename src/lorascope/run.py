"""One run from start to end: plan, base model, adapter, training, evaluation, record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorascope.base.loading import base_folder, quantized_modules
from lorascope.compat import attention_of
from lorascope.config.machine import check_variables
from lorascope.config.schema import RunConfig
from lorascope.console import Bar, importing, waiting, warn
from lorascope.delivery.model_card import base_name, write_card
from lorascope.evaluation import predictions
from lorascope.evaluation.loss import eval_loss
from lorascope.evaluation.measure import Measure, measure_of
from lorascope.evaluation.sampled import SampledMetrics, kept_metric, key_of, sampled_metrics
from lorascope.evaluation.tasks import Evaluated
from lorascope.interrupts import stop_if_asked
from lorascope.planning.run_plan import RunPlan, plan_run, prediction, resolve_config, with_target
from lorascope.records.environment import environment, exactness, peak, reset_peak
from lorascope.records.identity import fingerprint
from lorascope.records.record import BEST_LOSS, EVAL_LOSS, TRAIN_LOSS, RunRecord, Status, write_record
from lorascope.records.store import ADAPTER, CHECKPOINTS, find_done, open_run
from lorascope.run_reporter import RunReporter
from lorascope.session import Inputs, Session
from lorascope.targets.attach import attach
from lorascope.targets.auto_placement import plan_automatically
from lorascope.targets.initialization import start_adapter
from lorascope.trackers import Trackers, check_installed, open_trackers
from lorascope.training import resume
from lorascope.training.checkpoints import Checkpoint, Saving, thin_out
from lorascope.training.sft_trainer import trainer_class
from lorascope.training.trainer import Trained, nothing_learned, progress_callback, train_adapter

if TYPE_CHECKING:
    from peft import PeftModel

    from lorascope.targets.eva import Components


def execute(config: RunConfig, out: Console | None = None, session: Session | None = None) -> RunRecord | None:
    """Make one run, resume it, or find it done.

    Args:
        config: as `compose` returns it.
        out: where to print; the terminal by default.
        session: shares base and data with other runs; a new one by default.

    Returns:
        The run's record; None for a dry run.

    Raises:
        LorascopeError: an error that the user can correct; the record has it too.
        Preempted: when a signal asked the run to end.
    """
    report = RunReporter(out)
    check_variables()
    config = resolve_config(config)
    if not config.dry_run and not config.overwrite and (done := find_done(config)):
        report.found_done(done)
        return done
    shared = session or Session(lasting=False)
    plan = plan_run(config, shared.planning)
    report.planned(plan)
    if config.dry_run:
        return None
    check_installed(config.logger)
    with open_run(config, lambda checkpoints: resume.latest(checkpoints, warn)) as (record, folder):
        checkpoint = resume.latest(folder / CHECKPOINTS)
        record.environment = environment()
        with importing():
            trainer_class()
        report.started(record, config, folder)
        try:
            _make(Run(plan, record, folder, checkpoint, report), shared)
        finally:
            shared.take_back()
    return record


@dataclass
class Run:
    """The state that all parts of a run share."""

    plan: RunPlan  # for the estimated size of the data; once it is loaded, for the actual size
    record: RunRecord
    folder: Path
    checkpoint: Checkpoint | None
    report: RunReporter
    began: float = field(default_factory=time.perf_counter)  # of the current stage

    @property
    def config(self) -> RunConfig:
        """The resolved config, with the choice of activation checkpointing once it is made."""
        return self.plan.training or self.plan.config

    def ended(self, stage: str) -> None:
        """Record the seconds since the stage before."""
        now = time.perf_counter()
        self.record.timing[stage], self.began = round(now - self.began, 3), now


def _make(run: Run, session: Session) -> None:
    """Load, place, measure the base, train, measure again, record."""
    record, report, device = run.record, run.report, str(run.config.device)
    reset_peak(device)
    inputs = session.inputs(run.config, report.out)
    base = inputs.base
    record.data = inputs.entry()
    record.environment |= {"checkpoint": base.storage} if base.storage else {}
    record.fingerprint = fingerprint(
        run.config, record.data, base.revision, quantized_modules(base.model), attention_of(base.model)
    )
    prompts = inputs.prompts(run.config)
    start = _place(run, inputs, prompts)
    run.ended("setup_seconds")
    with waiting(report.out, "drawing texts that the base writes, to see later what it forgets"):
        measure = measure_of(run.config, base, inputs.rows, inputs.evaluation)
    sampled = sampled_metrics(run.config, measure, inputs.rows)
    directions = {metric.name: metric.better for metric in (*measure.metrics().values(), TRAIN_LOSS)}
    directions |= {key: metric.better for key, metric in (sampled.metrics() if sampled else {}).items()}
    trackers = open_trackers(run.config.logger, record, run.folder, directions, warn)
    try:
        if run.checkpoint:
            _resume(run, run.checkpoint, trackers)
        before = _measure_base(run, measure, inputs)
        if run.checkpoint is None:
            _log(run, trackers, 0, before)
        run.ended("base_eval_seconds")
        record.memory |= {"base_eval_peak_bytes": peak(device)["peak_bytes"]}
        reset_peak(device)

        assert run.plan.target
        model = attach(base.model, run.plan.target, run.config.seed)
        start_adapter(model, run.plan.target, start, prompts, base_folder(run.config.model))
        trained = _train(run, model, inputs, before, trackers, sampled)
        run.ended("train_seconds")
        record.memory |= peak(device)

        with Bar(report.out, "evaluating", measure.steps) as bar:
            after = measure.adapted(model, bar.step)
        run.ended("eval_seconds")
        _save(run, model)
        _complete(run, measure, before, after, trained, sampled)
        losses = (found.scores[EVAL_LOSS.name].value for found in (before, after))
        if why := nothing_learned(model, run.config.train, trained.steps, *losses):
            record.notes.append(why)
        measure.keep_answers(before, after, run.folder, warn)
        _log(run, trackers, trained.steps + 1, after)
        write_card(record, run.folder / ADAPTER)
        record.status = Status.done
        write_record(record, run.folder)  # before any tracker is closed, and before anything is removed
        _clear(run)
        report.result(record, run.folder)
    finally:
        trackers.finish(record)
    report.notes(trackers.notes)
    for note in record.notes:
        warn(note)


def _save(run: Run, model: PeftModel) -> None:
    """The adapter as PEFT writes it, with the base's public name in place of where it lies on this machine."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_name(run.config.model)
    model.save_pretrained(str(run.folder / ADAPTER), save_embedding_layers=False)


def _place(run: Run, inputs: Inputs, prompts: list[dict[str, Any]]) -> Components | None:
    """Plan for the actual size of the data; an automatic placement may return the adapter's initial values."""
    plan, target, start = replace(run.plan, size=inputs.size), run.plan.target, None
    if target:
        run.plan = with_target(plan, target)
    else:
        with waiting(run.report.out, "placing the adapter by the base's weights"):
            target, start = plan_automatically(plan.config.target, plan.modules, inputs.base.model, prompts)
        run.plan = with_target(plan, target)
        run.report.placed(run.plan)
    run.record.plan = target.entry()
    run.record.memory = prediction(run.plan)
    return start


def _log(run: Run, trackers: Trackers, step: int, found: Evaluated) -> None:
    assert run.plan.target
    trackers.log(step, found.values() | {"trainable_parameters": run.plan.target.trainable_parameters})


def _resume(run: Run, checkpoint: Checkpoint, trackers: Trackers) -> None:
    resume.check_same_run(checkpoint, run.record.fingerprint, run.record.environment, warn)
    trackers.rewind(checkpoint.step)
    run.record.sessions[-1]["from_step"] = checkpoint.step
    run.report.resumed(checkpoint.step)


def _measure_base(run: Run, measure: Measure, inputs: Inputs) -> Evaluated:
    """The base's own scores and answers, measured or cached by an earlier session or run."""
    file = run.folder / predictions.BASE_FILE
    found = (predictions.read(file) or {}).get(predictions.BASE) if run.checkpoint else None
    if found is None:
        with Bar(run.report.out, "base", measure.steps) as bar:
            place = measure.remembered_at(run.config, inputs.base.revision)
            found = measure.base(inputs.base.model, bar.step, place)
        measure.keep(file, {predictions.BASE: found}, warn)
    run.report.base(found, inputs.evaluation)
    return found


def _train(
    run: Run, model: PeftModel, inputs: Inputs, before: Evaluated, trackers: Trackers, sampled: SampledMetrics | None
) -> Trained:
    def evaluate() -> dict[str, float]:
        settings: dict[str, Any] = {"pad_id": inputs.pad_id, "batch_tokens": run.config.evaluation.batch_tokens}
        loss = eval_loss(model, inputs.evaluation, **settings, progress=lambda rows: stop_if_asked())
        values = {EVAL_LOSS.name: loss.mean}
        return values | (sampled.measure(model, lambda rows: stop_if_asked()) if sampled else {})

    better = {metric.name: metric.better for metric in (sampled.metrics() if sampled else {}).values()}
    if sampled:
        sampled.began = time.perf_counter()
    meta = {
        "before": before.scores[EVAL_LOSS.name].value.hex(),
        "fingerprint": run.record.fingerprint,
        "versions": exactness(run.record.environment),
    }
    with Bar(run.report.out, "training", 1) as bar:
        return train_adapter(
            model,
            inputs.base.tokenizer,
            inputs.train,
            inputs.evaluation,
            run.config,
            Saving(run.folder / CHECKPOINTS, run.checkpoint, meta),
            evaluate=evaluate,
            callbacks=[progress_callback(bar, trackers)],
            warn=warn,
            better=better,
        )


def _complete(
    run: Run, measure: Measure, before: Evaluated, after: Evaluated, trained: Trained, sampled: SampledMetrics | None
) -> None:
    """Put the results into the record."""
    record = run.record
    record.metrics = measure.entries(before, after) | {TRAIN_LOSS.name: TRAIN_LOSS.entry(trained.train_loss, None)}
    if (best := _best(run)) and (kept := kept_metric(run.config)):
        metric = BEST_LOSS if kept == EVAL_LOSS.name else measure.metrics()[kept]
        entry = metric.entry(best[key_of(kept)], None) | {"step": best["step"]}
        record.metrics[f"best_{kept}"] = entry
    planned, early = trained.planned, run.config.train.stop_early
    if early.metric and trained.steps < planned:
        what = f"{early.metric} had not improved for {early.patience} evaluations"
        record.notes.append(f"stopped at step {trained.steps} of {planned}: {what} (train.stop_early)")
    if sampled and sampled.skipped:
        what = f"metrics of the sample were left out {sampled.skipped} times"
        record.notes.append(f"{what}: they had taken {run.config.train.eval_share:.0%} of the time (train.eval_share)")
    record.timing |= {
        "train_loop_seconds": round(trained.seconds, 3),
        "steps": trained.steps,
        "tokens_per_second": round(trained.tokens / max(trained.seconds, 1e-9), 1),
    }


def _clear(run: Run) -> None:
    """Remove what only an interrupted run would need: checkpoints except the best, and the base's answers."""
    (run.folder / predictions.BASE_FILE).unlink(missing_ok=True)
    if best := _best(run):
        thin_out(run.folder / CHECKPOINTS, 0, best["step"])
    else:
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)


def _best(run: Run) -> Mapping[str, Any] | None:
    """Step and metric of the best checkpoint, if `train.keep_best` is set."""
    latest = resume.latest(run.folder / CHECKPOINTS) if run.config.train.keep_best else None
    return latest.meta["best"] if latest else None
