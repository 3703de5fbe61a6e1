"""Plan a run before anything is loaded: target plan, memory, compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorascope.base.checkpoint import with_stored_scheme
from lorascope.base.hub import folder_hash
from lorascope.base.loading import tokenizer_at_hand
from lorascope.config.machine import resolve
from lorascope.config.schema import Attention, Device, ModelConfig, RunConfig, Scheme
from lorascope.console import hush, importing
from lorascope.data.sources import pin
from lorascope.data.statistics import Size, size_of
from lorascope.errors import ConfigError, LorascopeError, PlanError
from lorascope.evaluation.external_metrics import pin_metrics
from lorascope.formats import megabytes
from lorascope.planning.compute import ComputeEstimate, estimate_compute, run_tokens
from lorascope.planning.first_guess import with_rate
from lorascope.planning.fit import Suggestion, fits, suggestions, with_checkpointing
from lorascope.planning.memory import MemoryEstimate, estimate_memory
from lorascope.planning.model_dims import ModelDims, check_positions, learned_positions, survey
from lorascope.planning.step_spec import step_spec_of
from lorascope.records.environment import free_gpu_bytes, gpu_bytes, machine_memory
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

    It is decided as on `device`; by default as on the config's, which must be there.

    Raises:
        ConfigError: when the device is not there, or the weights are stored in another quantization.
        ModelError: when the learning rate follows from an architecture that cannot be had.
        DataError: when a file cannot be read.
    """
    with importing():
        config = with_rate(resolve(with_stored_scheme(config), device))
    if config.quantization.experts and config.quantization.scheme is not Scheme.nf4:
        what = f"is for 4-bit bases, and this one has quantization={config.quantization.scheme}."
        raise ConfigError("quantization.experts=true", what, "Take quantization=nf4, or leave it out.")
    # hashes of the files that decide what is learned and how it is judged
    dataset = replace(pin(config.dataset), metrics=pin_metrics(config.dataset.metrics))
    model = replace(config.model, content=folder_hash(config.model))
    return replace(config, model=model, dataset=dataset)


class PlanningCache:
    """What several plans share: models on the meta device, tokenizers and sizes of data sets, each read once."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[ModuleMap, Any, ModelDims]] = {}
        self._tokenizers: dict[str, PreTrainedTokenizerBase | None] = {}
        self._sizes: dict[tuple[str, str], Size | None] = {}

    def model(self, model: ModelConfig) -> tuple[ModuleMap, Any, ModelDims]:
        """The module map, the model on the meta device, and its dimensions."""
        key = str(model)
        if key not in self._models:
            with importing():
                hush()
                modules, built = read_model(model)
                self._models[key] = modules, built, survey(built)
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
    """What a run will train and take."""

    config: RunConfig  # resolved; it names the run
    modules: ModuleMap
    dims: ModelDims
    size: Size | None  # of the data; None where rows are taken to be as long as `train.max_length` allows
    done: RunRecord | None = None  # the record, if the run is done and is not to be repeated
    target: TargetPlan | None = None  # None, and no estimates, until the base's weights have decided it
    training: RunConfig | None = None  # with activation checkpointing decided, which the results do not depend on
    memory: MemoryEstimate | None = None  # at the peak
    compute: ComputeEstimate | None = None  # of the training
    positions: int | None = None  # that the model has learned; None where they are computed
    there: int | None = None  # bytes that the run may take; None where they are not known

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
    def fitting_length(self) -> int | None:
        """A `train.max_length` that the longest row fits, in steps of 8; None where rows are packed or not measured."""
        if not self.measured or self.config.train.packing:
            return None
        assert self.size is not None
        assert self.size.longest is not None
        return min(-(-self.size.longest // 8) * 8, self.positions or self.size.longest + 8)

    @property
    def fitting_step(self) -> Suggestion | None:
        """The fastest way to make the same step in the memory that is there, where this one does not fit; or the
        smallest, which does not fit either."""
        if self.memory is None or not self.there or fits(self.memory, self.there):
            return None
        return self.suggestions(self.there, self.config.device)[0]

    def compute_of(self, config: RunConfig) -> ComputeEstimate:
        """The arithmetic of a training of this plan with these settings; rows that are not here are bounded."""
        assert self.target
        rows, tokens, length = config.dataset.max_train_samples, None, None
        if self.size:
            rows = self.size.rows
            tokens = min(self.size.tokens, rows * self.config.train.max_length)
            length = max(1, round(tokens / rows))
        step = step_spec_of(config, length=length)
        return estimate_compute(step, self.dims, self.target, run_tokens(config.train, step, rows, tokens))

    def suggestions(self, memory: int, device: Device = Device.cuda) -> list[Suggestion]:
        """Ways to take the same steps on a device of so many bytes, best first."""
        assert self.target
        row = self.longest_row
        return suggestions(self.training or self.config, self.dims, self.target, memory, device=device, **row)


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
    modules, model, dims = cache.model(config.model)
    size = cache.size(config)
    check_positions(model, size.longest if size else None, config.train.max_length)
    done, positions = None if config.overwrite else find_done(config), learned_positions(model)
    plan = RunPlan(config, modules, dims, size, done, positions=positions)
    if config.target.auto.method is not None:
        return plan
    return with_target(plan, plan_targets(config.target, modules), gpu_memory)


def with_target(plan: RunPlan, target: TargetPlan, gpu_memory: int | None = None) -> RunPlan:
    """The plan with what will be trained, and the estimates that follow from it.

    Raises:
        PlanError: when the adapter cannot start as the config says.
    """
    config = plan.config
    check_init(target, config.quantization.scheme)
    _check_experts(plan, target)
    if gpu_memory is None:
        gpu_memory = free_gpu_bytes(str(config.device))
    training = with_checkpointing(config, plan.dims, target, gpu_memory, **plan.longest_row)
    attention = Attention.eager if plan.dims.eager else config.model.attention
    estimated = replace(training, model=replace(training.model, attention=attention))
    there = gpu_memory or machine_memory()[1] or None
    plan = replace(plan, target=target, training=training, there=there)
    memory = estimate_memory(step_spec_of(estimated, **plan.longest_row), plan.dims, target)
    return replace(plan, memory=memory, compute=plan.compute_of(estimated))


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

    def make_plan(self, cache: PlanningCache) -> None:
        """Plan it, or keep why it cannot be run."""
        if self.config is None:
            return
        try:
            self.plan = plan_run(resolve_config(self.config), cache)
        except LorascopeError as error:
            self.error = error
