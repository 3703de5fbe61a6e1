"""Plan a run, or all runs of a sweep, before anything is loaded: target plan, memory, compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.base.checkpoint import with_stored_scheme
from lorascope.base.hub import folder_hash
from lorascope.base.loading import tokenizer_at_hand
from lorascope.compat import attention_of
from lorascope.config.machine import resolve
from lorascope.config.schema import Attention, Device, ModelConfig, RunConfig, Scheme
from lorascope.console import console, hush, importing, waiting
from lorascope.data.sources import pin
from lorascope.data.statistics import Size, size_of
from lorascope.errors import ConfigError, LorascopeError, PlanError
from lorascope.evaluation.external_metrics import pin_metrics
from lorascope.formats import megabytes
from lorascope.planning.compute import ComputeEstimate, estimate_compute
from lorascope.planning.fit import Suggestion, suggestions, with_checkpointing
from lorascope.planning.memory import MemoryEstimate, estimate_memory
from lorascope.planning.model_dims import check_positions
from lorascope.records.environment import free_gpu_bytes, gpu_bytes
from lorascope.records.store import find_done
from lorascope.targets.adapter_parts import check_init
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import ModuleMap, read_model
from lorascope.targets.plan import TargetPlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorascope.records.record import RunRecord


def resolve_config(config: RunConfig, device: Device | None = None) -> RunConfig:
    """The config that names one experiment: every `auto` decided, every file pinned by its hash.

    Args:
        config: as `compose` gives it.
        device: decide as on this one; by default the config's, which must be there.

    Raises:
        ConfigError: when the device is not there, or the weights are stored in another quantization.
        DataError: when a file cannot be read.
    """
    with importing():
        config = resolve(with_stored_scheme(config), device)
    if config.quantization.experts and config.quantization.scheme is not Scheme.nf4:
        what = f"is for 4-bit bases, and this one has quantization={config.quantization.scheme}."
        raise ConfigError("quantization.experts=true", what, "Take quantization=nf4, or leave it out.")
    # hashes of the files that decide what is learned and how it is judged
    dataset = dataclasses.replace(pin(config.dataset), metrics=pin_metrics(config.dataset.metrics))
    model = dataclasses.replace(config.model, content=folder_hash(config.model))
    return dataclasses.replace(config, model=model, dataset=dataset)


class PlanningCache:
    """What several plans share: models on the meta device, tokenizers and sizes of data sets, each read once."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[ModuleMap, Any]] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase | None] = {}
        self._sizes: dict[tuple[str, str], Size | None] = {}

    def model(self, model: ModelConfig) -> tuple[ModuleMap, Any]:
        """The module map, and the model on the meta device."""
        key = str(model)
        if key not in self._models:
            with importing():
                hush()
                self._models[key] = read_model(model)
        return self._models[key]

    def size(self, config: RunConfig) -> Size | None:
        """The size of the run's data; None where it cannot be measured on this machine."""
        model, dataset = str(config.model), str(config.dataset)
        if model not in self._tokenizers:
            self._tokenizers[model] = tokenizer_at_hand(config.model)
        if (model, dataset) not in self._sizes:
            self._sizes[model, dataset] = size_of(config.dataset, self._tokenizers[model])
        return self._sizes[model, dataset]


@dataclass(frozen=True)
class RunPlan:
    """What a run will train and take.

    Args:
        config: resolved; it names the run.
        modules: the model as layers x roles.
        model: on the meta device.
        size: of the data; None where rows are taken to be as long as `train.max_length` allows.
        done: the record, if the run is done and is not to be repeated.
        target: what is trained; None until the base's weights have decided it. Without it there are no estimates.
        training: the config with activation checkpointing decided, which the results do not depend on.
        memory: at the peak.
        compute: of the training.
    """

    config: RunConfig
    modules: ModuleMap
    model: Any
    size: Size | None
    done: RunRecord | None = None
    target: TargetPlan | None = None
    training: RunConfig | None = None
    memory: MemoryEstimate | None = None
    compute: ComputeEstimate | None = None

    @property
    def measured(self) -> bool:
        """Whether the memory is of rows that were measured; otherwise it is a bound."""
        return self.size is not None and self.size.longest is not None

    @property
    def memory_text(self) -> str:
        """For a table: about so much, or a bound of it."""
        if self.memory is None:
            return "-"
        return f"{'~' if self.measured else 'up to'} {megabytes(self.memory.total)}"

    @property
    def longest_row(self) -> dict[str, Any]:
        """Tokens of the longest row, for the memory; nothing where only the bound is known."""
        if self.size is None or self.config.train.packing:  # packed rows are as long as max_length
            return {}
        return {"length": self.size.longest, "supervised": self.size.supervised}

    @property
    def mean_row(self) -> dict[str, Any]:
        """Tokens of a row on average, rows, and tokens of them all, for the arithmetic; nothing likewise."""
        if self.size is None:
            return {}
        tokens = min(self.size.tokens, self.size.rows * self.config.train.max_length)
        return {"length": max(1, round(tokens / self.size.rows)), "rows": self.size.rows, "tokens": tokens}

    def suggestions(self, gpu_memory: int) -> list[Suggestion]:
        """Ways to take the same steps on a GPU of so many bytes, best first."""
        assert self.target
        return suggestions(self.training or self.config, self.model, self.target, gpu_memory, **self.longest_row)


def plan_run(config: RunConfig, cache: PlanningCache | None = None, *, gpu_memory: int | None = None) -> RunPlan:
    """Plan a run.

    Args:
        config: resolved by `resolve_config`.
        cache: what other plans have read already.
        gpu_memory: bytes of the GPU that is planned for; by default what is free on this machine's.

    Returns:
        The plan; without target and estimates where the base's weights decide where the adapter goes.

    Raises:
        LorascopeError: when the run cannot be made so.
    """
    cache = cache or PlanningCache()
    modules, model = cache.model(config.model)
    size = cache.size(config)
    check_positions(model, size.longest if size else None, config.train.max_length)
    done = None if config.overwrite else find_done(config)
    plan = RunPlan(config, modules, model, size, done)
    if config.target.auto.method is not None:
        return plan
    return with_target(plan, plan_targets(config.target, modules), gpu_memory)


def with_target(plan: RunPlan, target: TargetPlan, gpu_memory: int | None = None) -> RunPlan:
    """The plan with what will be trained, and the estimates that follow from it.

    Raises:
        PlanError: when the adapter cannot start as the config says.
    """
    config, model = plan.config, plan.model
    check_init(target, config.quantization.scheme)
    _check_experts(plan, target)
    if gpu_memory is None:
        gpu_memory = free_gpu_bytes(str(config.device))
    training = with_checkpointing(config, model, target, gpu_memory, **plan.longest_row)
    computed = Attention.eager if attention_of(model) == Attention.eager else config.model.attention
    estimated = dataclasses.replace(training, model=dataclasses.replace(training.model, attention=computed))
    return dataclasses.replace(
        plan,
        target=target,
        training=training,
        memory=estimate_memory(estimated, model, target, **plan.longest_row),
        compute=estimate_compute(estimated, model, target, **plan.mean_row),
    )


def _check_experts(plan: RunPlan, target: TargetPlan) -> None:
    """Raise a PlanError where experts are to be held in 4 bit and there are none, or they are to be adapted."""
    if not plan.config.quantization.experts:
        return
    place = "quantization.experts=true"
    if not any(one.experts > 1 for one in (*plan.modules.projections, *plan.modules.named)):
        raise PlanError(place, "needs stacks of experts, and this model has none.", "Leave it out.")
    if adapted := [site.name for site in target.sites if site.experts > 1]:
        what = f"PEFT cannot adapt experts in 4 bit ({adapted[0]})."
        raise PlanError(place, what, "Take roles of the attention, or leave the experts as they are.")


def prediction(plan: RunPlan) -> dict[str, Any]:
    """The predicted memory as a record keeps it; on a GPU also what would fit, should this not."""
    assert plan.memory
    device, predicted = str(plan.config.device), plan.memory.total
    entry: dict[str, Any] = {"predicted_bytes": predicted, "predicted": plan.memory.entry()}
    if gpu := gpu_bytes(device):
        smaller = [way for way in plan.suggestions(gpu) if way.predicted_bytes < predicted]
        entry["fits"] = max(smaller, key=lambda way: way.predicted_bytes).overrides if smaller else None
        entry["free_bytes"] = free_gpu_bytes(device)
    return entry


@dataclass
class Job:
    """One run of a sweep: the overrides that make it, and its config, or why it has none."""

    overrides: str
    config: RunConfig | None
    error: LorascopeError | None = None
    plan: RunPlan | None = None

    @property
    def done(self) -> bool:
        """Whether it was made before, and will not be repeated."""
        return self.plan is not None and self.plan.done is not None


def show_jobs(jobs: Sequence[Job], out: Console | None = None) -> None:
    """Plan every job, and show them; nothing is loaded, and none is kept from being run."""
    if any(job.config and job.config.dry_run for job in jobs):
        return  # each shows its own plan
    out = out or console()
    cache = PlanningCache()
    with waiting(out, "planning all runs"):
        for job in jobs:
            _plan(job, cache)
    table = Table(box=None, pad_edge=False)
    for title in ("run", "parameters", "memory", ""):
        table.add_column(title, justify="right" if title in ("parameters", "memory") else "left")
    for job in jobs:
        target = job.plan.target if job.plan else None
        parameters = f"{target.trainable_parameters:,}" if target else "-"
        memory = job.plan.memory_text if job.plan else "-"
        table.add_row(*map(Text, (job.overrides, parameters, memory, _state(job))))
    done, bad = sum(job.done for job in jobs), sum(job.error is not None for job in jobs)
    counts = [f"{done} done" if done else "", f"{bad} cannot be run" if bad else ""]
    out.print(f"[bold]{len(jobs)} runs[/]   {', '.join(filter(None, counts))}".rstrip())
    out.print(table)


def _state(job: Job) -> str:
    if job.error:
        return job.error.problem
    return "done" if job.done else ""


def _plan(job: Job, cache: PlanningCache) -> None:
    if job.config is None:
        return
    try:
        job.plan = plan_run(resolve_config(job.config), cache)
    except LorascopeError as error:
        job.error = error
