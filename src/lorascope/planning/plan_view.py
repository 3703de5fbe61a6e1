"""Show a model and a plan as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lorascope.config.schema import ROLES, Bias, Init, Scheme
from lorascope.console import console, waiting
from lorascope.formats import SMALLEST, count, flop, gibibytes, megabytes, short, spans
from lorascope.planning.compute import ComputeEstimate
from lorascope.planning.first_guess import rate_of
from lorascope.planning.fit import Suggestion
from lorascope.planning.memory import MemoryEstimate
from lorascope.planning.run_plan import Job, PlanningCache, RunPlan
from lorascope.targets.module_map import ModuleMap, Projection
from lorascope.targets.plan import PlannedModule, TargetPlan
from lorascope.targets.roles import group_of


def show_run_plan(out: Console, plan: RunPlan, *, hints: bool = True) -> None:
    """What a run will train and take, with what fits if it does not; or that only the base's weights can decide it."""
    if plan.target is None or plan.memory is None or plan.compute is None:
        _show_head(out, plan.modules)
        out.print()
        target = plan.config.target
        out.print(
            f"target={target.name}: {target.auto.method} places the adapter by the base's weights, at the budget of "
            f"{target.budget}; the run shows and records where."
        )
        out.print(*settings_lines(plan), sep="\n")
        return
    show_plan(out, plan.target, plan.modules)
    out.print(
        *settings_lines(plan), *lines(plan.memory, plan.compute), *(memory_lines(plan) if hints else ()), sep="\n"
    )


def settings_lines(plan: RunPlan) -> Iterator[str]:
    """The learning rate with its source, and whether rows are cut, with the length that fits them."""
    rate, source = rate_of(plan.config, plan.modules)
    yield f"learning rate          {rate:<10g} {source}"
    length, asked = plan.fitting_length, plan.config.train.max_length
    if length is None or plan.size is None or plan.size.longest is None:
        return
    what = f"rows                   {plan.size.rows:,}, the longest of {plan.size.longest:,} tokens"
    if plan.size.longest > asked:
        still = "cuts fewest, as the model has no more positions" if length < plan.size.longest else "cuts none"
        better = f"; train.max_length={length} {still}" if length > asked else ""
        yield f"{what}: [yellow]rows are cut at train.max_length={asked}[/]{better}"
    elif length < asked:
        yield f"{what}: train.max_length={length} would do, {asked} cuts none either"


def memory_lines(plan: RunPlan) -> Iterator[str]:
    """What fits, where the memory that is there does not suffice."""
    way = plan.fitting_step
    if way is None or plan.there is None:
        return
    needs = f"{way.overrides} needs ~ {megabytes(way.predicted_bytes)}"
    yield f"[yellow]that is more than fits the {megabytes(plan.there)} that are free[/]"
    yield f"  {needs}, with the same effective batch" if way.fits else f"  {needs}, and does not fit either; {SMALLER}"


def show_plan(out: Console, plan: TargetPlan, modules: ModuleMap) -> None:
    """Which layers and roles get which rank, and what is trained."""
    _show_head(out, modules)
    out.print()
    ranks: dict[tuple[int, str], set[int]] = {(one.layer, one.role): set() for one in modules.projections}
    for planned in plan.modules:
        for role in planned.role.split("+"):  # a fused module as a whole
            if (planned.layer, role) in ranks:
                ranks[planned.layer, role].add(planned.rank)
    out.print(_by_layer(modules, {place: _range(those) for place, those in ranks.items()}))
    scales = " and ".join(f"{short(scale)} (r{rank})" for rank, scale in plan.scales.items())
    alphas = ", ".join(map(short, sorted({planned.alpha for planned in plan.modules}, reverse=True)))
    out.print(f"alpha {alphas} ({plan.alpha_policy}), scale {scales}, dropout {plan.lora_dropout}")
    for line in _plan_lines(plan):
        out.print(line)
    share = f"{plan.trainable_percent:.2f} % of {count(modules.parameters)}, in {len(plan.sites)} modules"
    size = megabytes(4 * plan.stored_parameters)  # saved in float32
    out.print(f"trainable parameters  [bold]{plan.trainable_parameters:,}[/]   {share}   adapter file {size}")


def _plan_lines(plan: TargetPlan) -> Iterator[str]:
    """What a plan is beyond roles and ranks, a line each: names, budget, what is missing, how it starts."""
    for name, those in _by_name(plan).items():
        cost = sum(planned.parameters for planned in those)
        where = f" on layers {spans(layers)}" if (layers := [one.layer for one in those if one.layer >= 0]) else ""
        yield f"{name}  rank {those[0].rank}{where}, {cost:,} parameters"
    if budget := plan.notes.get("budget"):
        of = f" (that of {budget['of']})" if budget["of"] else ""
        yield f"budget {budget['asked']:,}{of}, nearest reachable {budget['reached']:,}"
    for role, holes in plan.notes.get("missing", {}).items():
        yield f"[yellow]{role} is missing on layers {spans(holes)}[/], and allowed to be"
    if plan.notes.get("fused") == "native":
        yield "fused modules are adapted whole, one A for all their parts (fused=native)"
    if plan.bias is not Bias.none:
        kept = sum(term.size for term in plan.biases) - plan.bias_parameters
        beside = f"; {kept:,} of parts that are not adapted stay as they are" if kept else ""
        yield f"bias {plan.bias}: {len(plan.biases)} biases, {plan.bias_parameters:,} parameters{beside}"
    if kinds := [f"init {plan.init}"] * (plan.init is not Init.lora) + ["DoRA"] * plan.dora:
        yield ", ".join(kinds)
    if zeros := sum(site.parameters for site in plan.sites) - sum(planned.parameters for planned in plan.modules):
        yield f"stored parameters {plan.stored_parameters:,}: {zeros:,} stay zero, for parts that are not adapted"


def _by_name(plan: TargetPlan) -> dict[str, list[PlannedModule]]:
    """The planned modules that play no role, by their leaf's name."""
    named: defaultdict[str, list[PlannedModule]] = defaultdict(list)
    for planned in plan.modules:
        if not set(planned.role.split("+")) <= set(ROLES):
            named[planned.role].append(planned)
    return named


class PlanRow(NamedTuple):
    """One plan among several; `plan` is None where only the base's weights can decide."""

    values: list[str]  # of the settings that differ
    modules: ModuleMap
    plan: TargetPlan | None
    memory: int | None = None  # bytes, predicted


def show_plans(out: Console, varying: Sequence[str], rows: Sequence[PlanRow]) -> None:
    """A row for each plan; `varying` names the settings that differ."""
    for modules in {id(row.modules): row.modules for row in rows}.values():
        _show_head(out, modules)
    out.print()
    roles = [role for role in ROLES if any(role in row.modules.roles for row in rows)]
    others = ["others"] * any(row.plan and _by_name(row.plan) for row in rows)
    titles = (*roles, *others, "modules", "parameters", "of base", "adapter file", "memory")
    table = _table(*varying, *_right(*titles))
    for row in rows:
        if row.plan is None:
            table.add_row(*row.values, *["?"] * len(roles), *[""] * len(others), "", "by the weights")
            continue
        ranks: defaultdict[str, set[int]] = defaultdict(set)
        for planned in row.plan.modules:
            for role in planned.role.split("+"):
                ranks[role].add(planned.rank)
        named = " ".join(f"{name} {min(ranks[name])}" for name in _by_name(row.plan))
        table.add_row(
            *row.values,
            *(_range(ranks[role]) for role in roles),
            *[named] * len(others),
            str(len(row.plan.sites)),
            f"{row.plan.trainable_parameters:,}",
            f"{row.plan.trainable_percent:.2f} %",
            megabytes(4 * row.plan.stored_parameters),
            megabytes(row.memory) if row.memory else "",
        )
    out.print(table)


def show_jobs(jobs: Sequence[Job]) -> None:
    """Plan every job, and show them; nothing is loaded, and none is kept from being run."""
    if any(job.config and job.config.dry_run for job in jobs):
        return  # each shows its own plan
    out, cache = console(), PlanningCache()
    with waiting(out, "planning all runs"):
        for job in jobs:
            job.make_plan(cache)
    table = _table("run", *_right("parameters", "memory"), "")
    for job in jobs:
        target = job.plan.target if job.plan else None
        parameters = f"{target.trainable_parameters:,}" if target else "-"
        memory = job.plan.memory_text if job.plan else "-"
        state = job.error.problem if job.error else "done" if job.done else ""
        table.add_row(*map(Text, (job.overrides, parameters, memory, state)))
    done, bad = sum(job.done for job in jobs), sum(job.error is not None for job in jobs)
    counts = [f"{done} done" if done else "", f"{bad} cannot be run" if bad else ""]
    out.print(f"[bold]{len(jobs)} runs[/]   {', '.join(filter(None, counts))}".rstrip())
    out.print(table)


SMALLER = "shorten train.max_length, take quantization=nf4, or a smaller model."


def show_ways(out: Console, ways: Sequence[Suggestion], gpu: int) -> None:
    """Ways to make the same step on a GPU of so many bytes, best first."""
    out.print()
    fitting = [way for way in ways if way.fits]
    if not fitting:
        least = min(ways, key=lambda way: way.predicted_bytes)
        out.print(
            f"nothing fits {megabytes(gpu)}: {least.overrides} needs {megabytes(least.predicted_bytes)}. "
            f"{SMALLER.capitalize()}"
        )
        return
    out.print(f"what fits {megabytes(gpu)}, with the same effective batch, fastest first:")
    for way in fitting[:4]:
        mark = "   (as it is)" if way.current else ""
        out.print(f"  {way.overrides}   ~ {megabytes(way.predicted_bytes)}{mark}")
    if not any(way.current for way in fitting):
        out.print("[yellow]as it is, it does not fit[/]")


def _range(ranks: set[int]) -> str:
    return "-".join(map(str, sorted({min(ranks), max(ranks)}))) if ranks else "."


def _table(*columns: str | Column) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _right(*titles: str) -> list[Column]:
    return [Column(title, justify="right") for title in titles]


def _show_head(out: Console, modules: ModuleMap) -> None:
    """One line of what the model is, and where that was read."""
    parts = [f"{modules.layers} layers"]
    parts += [f"{name} {value}" for name, value in (("hidden", modules.hidden), ("FFN", modules.intermediate)) if value]
    if modules.heads:
        shared = f" ({modules.kv_heads} KV)" if modules.kv_heads != modules.heads else ""
        parts.append(f"{modules.heads} heads{shared}")
    out.print(f"[bold]{modules.name}[/]   {', '.join(parts)}   architecture from {modules.origin}")


def _by_layer(modules: ModuleMap, cells: Mapping[tuple[int, str], str]) -> Table:
    """A table of layers x roles, in which layers that look the same share a row."""
    rows: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for layer in range(modules.layers):
        rows[tuple(cells.get((layer, role), " ") for role in modules.roles)].append(layer)
    table = _table("", *_right(*modules.roles))
    for row, layers in rows.items():
        table.add_row(f"layers {spans(layers)}", *row)
    return table


def show_modules(out: Console, modules: ModuleMap) -> None:
    """Layers x roles with shapes, the modules behind them, and what rank 8 costs."""
    _show_head(out, modules)
    tied = "tied to the embeddings" if modules.tied_embeddings else "not tied"
    out.print(f"{count(modules.parameters)} parameters, vocabulary {modules.vocabulary or '?'}, lm_head {tied}\n")
    shapes: defaultdict[tuple[int, str], dict[str, None]] = defaultdict(dict)  # each once, in their order
    for one in modules.projections:
        times = f"{one.experts}x" if one.experts > 1 else ""
        shapes[one.layer, one.role][f"{times}{one.d_in}>{one.d_out or '?'}"] = None
    out.print(_by_layer(modules, {place: " ".join(those) for place, those in shapes.items()}))
    out.print()
    titles = ("group", "role", "module (first layer)", "layers")
    table = _table(*(Column(title, no_wrap=True) for title in titles), *_right("rank 8, a layer", "rank 8, all"))
    for those in _alike(modules):
        first = those[0]
        extra = f"   fused: {' '.join(first.fused_with)}" if first.fused_with else ""
        extra += f"   {first.experts} experts" if first.experts > 1 else ""
        name = first.module + (f".{first.parameter}" if first.experts > 1 else "")
        known = all(projection.d_out is not None for projection in those)
        table.add_row(
            group_of(first.role),
            first.role,
            name + extra,
            str(len({projection.layer for projection in those})),
            f"{first.parameters_at(8):,}" if known else "?",
            f"{sum(projection.parameters_at(8) for projection in those):,}" if known else "?",
        )
    out.print(table)
    for role in modules.roles:
        if holes := modules.missing(role):
            out.print(f"[yellow]{role} is missing on layers {spans(holes)}[/]")
    if modules.unmapped:
        names = ", ".join(modules.unmapped[:6]) + (" …" if len(modules.unmapped) > 6 else "")
        out.print(f"linear modules without a role ({len(modules.unmapped)}): {names}")


def _alike(modules: ModuleMap) -> Iterable[list[Projection]]:
    """The projections of each role, those of one name, width and number of experts together."""
    found: defaultdict[tuple[Any, ...], list[Projection]] = defaultdict(list)
    for role in modules.roles:
        for one in modules.of_role(role):
            leaf = one.module.rpartition(".")[2]
            found[role, leaf, one.parameter, one.experts, one.d_in, one.width].append(one)
    return found.values()


def lines(memory: MemoryEstimate, compute: ComputeEstimate) -> list[str]:
    """Memory with its parts in GiB, and the arithmetic, a line each."""
    step = memory.step
    always = {
        f"weights {step.dtype if step.scheme is Scheme.none else step.scheme}": memory.weights,
        "adapter+optimizer": memory.adapter + memory.gradients + memory.optimizer,
        "activations": memory.activations,
    }
    where_large = {"logits": memory.logits, "mapped file": memory.mapped, "libraries": memory.baseline}
    shown = always | {name: size for name, size in where_large.items() if size >= SMALLEST}
    parts = ", ".join(f"{name} {gibibytes(size)}" for name, size in shown.items())
    checkpointing = ", checkpointing" if step.checkpointing else ", no checkpointing" if step.on_cuda else ""
    batch = f"batch {step.batch_size} x {step.length}{checkpointing}"
    run = "" if compute.run is None else f", {flop(compute.run)} this run"
    return [
        f"memory                 ~ {gibibytes(memory.total)} GiB    {parts} ({batch})",
        f"compute                ~ {flop(compute.total)} a token{run}",
    ]
