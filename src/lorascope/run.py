"""One run, the whole story: plan, base, adapter, training, evaluation, record."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorascope.config import DatasetConfig, RunConfig
from lorascope.data.sources import pin
from lorascope.errors import RunError
from lorascope.estimate.compute import estimate_compute
from lorascope.estimate.fit import suggestions, with_checkpointing
from lorascope.estimate.memory import estimate_memory
from lorascope.estimate.view import lines
from lorascope.evaluation.kept import BASE_FILE
from lorascope.evaluation.loss import eval_loss
from lorascope.evaluation.measure import Measure
from lorascope.evaluation.metrics import BEST_LOSS, EVAL_LOSS, TRAIN_LOSS
from lorascope.evaluation.own import pin_metrics
from lorascope.evaluation.tasks import Evaluated
from lorascope.inputs import Inputs
from lorascope.interrupts import stop_if_asked
from lorascope.judging import judge_base, keep_answers, measure_of, values
from lorascope.libraries import importing
from lorascope.models.device import resolve
from lorascope.models.loading import base_folder, quantized_modules
from lorascope.models.quiet import hush
from lorascope.plan_view import show_plan, show_undecided
from lorascope.records import memory
from lorascope.records.environment import environment, exactness
from lorascope.records.fingerprint import fingerprint
from lorascope.records.record import RunRecord, Status, write_record
from lorascope.records.store import ADAPTER, CHECKPOINTS, find_done, open_run
from lorascope.records.trackers import Trackers, check_installed, open_trackers
from lorascope.result_view import show_result
from lorascope.scout import Scout
from lorascope.session import Session
from lorascope.targets.attach import attach
from lorascope.targets.automatic import plan_automatically
from lorascope.targets.eva import Start
from lorascope.targets.module_map import ModuleMap, read_model
from lorascope.targets.plan import TargetPlan, plan_targets
from lorascope.terminal import Bar, console, waiting, warn
from lorascope.training.checkpoints import Checkpoint, newest, thin_out
from lorascope.training.exact import check_resumable
from lorascope.training.loop import trainer_class
from lorascope.training.progress import progress_callback
from lorascope.training.start import check_init, start_adapter
from lorascope.training.trainer import Saving, Trained, train_adapter

if TYPE_CHECKING:
    from peft import PeftModel


def execute(config: RunConfig, out: Console | None = None, session: Session | None = None) -> RunRecord | None:
    """Make one run, go on with it where it was cut, or find it done.

    Args:
        config: as `compose` gives it.
        out: where to show what happens; the terminal by default.
        session: whose base and data are shared; one of its own by default.

    Returns:
        The run's record; None for a dry run.

    Raises:
        LorascopeError: whatever the user can mend. The record then says what happened.
        Preempted: when a signal asked the run to end.
    """
    out = out or console()
    with importing():
        config = resolve(config)
    config = dataclasses.replace(config, dataset=pinned(config.dataset))
    if not config.dry_run and not config.overwrite and (record := find_done(config)):
        loss = record.metric("eval_loss")
        found = "no eval loss in its record" if loss is None else f"eval loss {loss:.4f}"
        out.print(f"[bold]{record.name}[/]  This run is done: {found}. overwrite=true repeats it.")
        return record
    with importing():
        hush()
        modules, shapes = read_model(config.model)
    shared = session or Session(lasting=False)
    plan = _plan(config, modules, shapes, shared.scout, out)
    if config.dry_run:
        out.print("Nothing was run (dry_run=true).")
        return None
    check_installed(config.logger)
    with open_run(config, lambda checkpoints: newest(checkpoints, warn, check_resumable)) as (record, folder):
        checkpoint = newest(folder / CHECKPOINTS, lambda told: None, check_resumable)
        record.environment = environment()
        with importing():
            trainer_class()
        out.print(f"\nrun     [bold]{record.name}[/]   {config.device}, base {_storage(config)}   {folder}")
        try:
            _train_and_measure(Run(config, modules, shapes, record, folder, checkpoint, out), plan, shared)
        finally:
            shared.take_back()
    return record


def pinned(dataset: DatasetConfig) -> DatasetConfig:
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


def _plan(config: RunConfig, modules: ModuleMap, shapes: Any, scout: Scout, out: Console) -> TargetPlan | None:
    """The plan, shown; None where only the base's weights can decide it."""
    if config.target.auto.method is not None:
        show_undecided(out, config.target, modules)
        return None
    plan = plan_targets(config.target, modules)
    check_init(plan, config.quantization.scheme)
    show_plan(out, plan, modules)
    longest = scout.longest(config)
    config = with_checkpointing(config, shapes, plan, memory.free_gpu_bytes(str(config.device)), **longest)
    compute = estimate_compute(config, shapes, plan, **scout.mean(config))
    for line in lines(estimate_memory(config, shapes, plan, **longest), compute):
        out.print(line)
    return plan


def _train_and_measure(run: Run, plan: TargetPlan | None, session: Session) -> None:
    config, record, out = run.config, run.record, run.out
    device = str(config.device)
    clock = Clock(record)
    memory.reset_peak(device)
    inputs = session.inputs(config, out)
    base = inputs.base
    record.data = inputs.entry()
    record.fingerprint = fingerprint(config, record.data, base.revision, quantized_modules(base.model))
    prompts = inputs.prompts(config)
    start: Start | None = None
    if plan is None:
        with waiting(out, "placing the adapter by the base's weights"):
            plan, start = plan_automatically(config.target, run.modules, base.model, prompts)
        check_init(plan, config.quantization.scheme)
        show_plan(out, plan, run.modules)
    record.plan = plan.entry()
    run = dataclasses.replace(run, config=_predict(run, plan, inputs))
    clock.lap("setup_seconds")
    measure = measure_of(config, inputs, out)
    trackers = _trackers(run, measure)
    try:
        if run.checkpoint:
            _go_on(run, run.checkpoint, trackers)
        before = judge_base(measure, inputs, config, run.folder, out, resumed=run.checkpoint is not None)
        if run.checkpoint is None:
            trackers.log(0, values(before) | {"trainable_parameters": plan.trainable_parameters})
        clock.lap("base_eval_seconds")
        record.memory |= {"base_eval_peak_bytes": memory.peak(device)["peak_bytes"]}
        memory.reset_peak(device)

        model = attach(base.model, plan, config.seed)
        start_adapter(model, plan, start, prompts, base_folder(config.model))
        trained = _train(run, model, inputs, before, trackers, session.states)
        clock.lap("train_seconds")
        record.memory |= memory.peak(device) | ({"lower_layers": trained.lower_layers} if trained.lower_layers else {})

        with Bar(out, "evaluating", measure.steps) as bar:
            after = measure.adapted(model, bar.step)
        clock.lap("eval_seconds")
        model.save_pretrained(str(run.folder / ADAPTER), save_embedding_layers=False)
        record.metrics = measure.entries(before, after) | {TRAIN_LOSS.name: TRAIN_LOSS.entry(trained.train_loss, None)}
        if best := _best(run):
            record.metrics[BEST_LOSS.name] = BEST_LOSS.entry(best["eval_loss"], None) | {"step": best["step"]}
        keep_answers(measure, before, after, run.folder)
        record.timing |= {
            "train_loop_seconds": round(trained.seconds, 3),
            "steps": trained.steps,
            "tokens_per_second": round(trained.tokens / max(trained.seconds, 1e-9), 1),
        }
        trackers.log(trained.steps + 1, values(after) | {"trainable_parameters": plan.trainable_parameters})
        record.status = Status.done
        write_record(record, run.folder)  # whole before any tracker is asked to end, and before anything goes
        _clear(run, best)
        show_result(out, record, run.folder)
    finally:
        trackers.finish(record)
    for note in trackers.notes:
        out.print(note)


def _best(run: Run) -> dict[str, Any] | None:
    """Step and eval loss of the best checkpoint, where it is kept and there is one."""
    latest = newest(run.folder / CHECKPOINTS, lambda told: None, check_resumable)
    return latest.meta["best"] if latest and run.config.train.keep_best else None


def _clear(run: Run, best: dict[str, Any] | None) -> None:
    """What only a run that is cut would need: checkpoints, but for the best that was asked for; the base's answers."""
    (run.folder / BASE_FILE).unlink(missing_ok=True)
    if best:
        thin_out(run.folder / CHECKPOINTS, 0, best["step"])
    else:
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)


def _predict(run: Run, plan: TargetPlan, inputs: Inputs) -> RunConfig:
    """The estimate for these very rows, to stand beside the measured peak; and what would fit, should this not.

    Returns:
        The config with what follows from it: whether activations are kept or computed again.
    """
    packed = run.config.train.packing  # rows are as long as max_length then
    rows: dict[str, Any] = {
        "length": None if packed else inputs.longest,
        "supervised": None if packed else inputs.most_supervised,
    }
    device = str(run.config.device)
    free = memory.free_gpu_bytes(device)
    config = with_checkpointing(run.config, run.shapes, plan, free, **rows)
    predicted = estimate_memory(config, run.shapes, plan, **rows)
    run.record.memory = {"predicted_bytes": predicted.total, "predicted": predicted.entry()}
    if gpu := memory.gpu_bytes(device):
        ways = suggestions(config, run.shapes, plan, gpu, **rows)
        smaller = [way for way in ways if way.predicted_bytes < predicted.total]
        run.record.memory["fits"] = max(smaller, key=lambda way: way.predicted_bytes).words if smaller else None
        run.record.memory["free_bytes"] = free
    return config


def _go_on(run: Run, checkpoint: Checkpoint, trackers: Trackers) -> None:
    """From where the session before was cut.

    Raises:
        RunError: when data or base are others.
    """
    _check_same(run, checkpoint)
    trackers.rewind(checkpoint.step)
    run.record.sessions[-1]["from_step"] = checkpoint.step
    run.out.print(f"resuming from the checkpoint of step {checkpoint.step}")


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


def _trackers(run: Run, measure: Measure) -> Trackers:
    metrics = {name: metric.better for name, metric in measure.metrics().items()} | {TRAIN_LOSS.name: TRAIN_LOSS.better}
    return open_trackers(run.config.logger, run.record, run.folder, metrics, warn)


def _train(
    run: Run, model: PeftModel, inputs: Inputs, before: Evaluated, trackers: Trackers, states: dict[str, Any]
) -> Trained:
    def measure() -> dict[str, float]:
        progress = lambda rows: stop_if_asked()  # noqa: E731
        return {EVAL_LOSS.name: eval_loss(model, inputs.evaluation, pad_id=inputs.pad_id, progress=progress).mean}

    meta = {
        "before": before.scores[EVAL_LOSS.name].value.hex(),
        "fingerprint": run.record.fingerprint,
        "versions": exactness(run.record.environment),
    }
    with Bar(run.out, "training", 1) as bar:
        return train_adapter(
            model,
            inputs.base.tokenizer,
            inputs.train,
            inputs.evaluation,
            run.config,
            Saving(run.folder / CHECKPOINTS, run.checkpoint, meta),
            evaluate=measure,
            callbacks=[progress_callback(bar, trackers)],
            warn=warn,
            states=states,
        )


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
