"""Show a model and a plan as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from lorascope.config.schema import ROLES, Bias, Scheme, TargetConfig
from lorascope.formats import SMALLEST, count, flop, gibibytes, megabytes, short, spans
from lorascope.planning.compute import ComputeEstimate
from lorascope.planning.memory import MemoryEstimate
from lorascope.targets.module_map import ModuleMap, Projection
from lorascope.targets.plan import PlannedModule, TargetPlan
from lorascope.targets.roles import group_of

if TYPE_CHECKING:
    from lorascope.planning.fit import Suggestion
    from lorascope.planning.run_plan import RunPlan


def show_run_plan(out: Console, plan: RunPlan) -> None:
    """What a run will train and take; or that only the base's weights can decide it."""
    if plan.target is None or plan.memory is None or plan.compute is None:
        show_undecided(out, plan.config.target, plan.modules)
        return
    show_plan(out, plan.target, plan.modules)
    for line in lines(plan.memory, plan.compute):
        out.print(line)


def show_plan(out: Console, plan: TargetPlan, modules: ModuleMap) -> None:
    """Which layers and roles get which rank, and what is trained."""
    show_head(out, modules)
    out.print()
    out.print(_rank_table(plan, modules))
    scales = " and ".join(f"{short(scale)} (r{rank})" for rank, scale in plan.scales.items())
    alphas = sorted({planned.alpha for planned in plan.modules}, reverse=True)
    out.print(
        f"alpha {', '.join(map(short, alphas))} ({plan.alpha_policy}), scale {scales}, dropout {plan.lora_dropout}"
    )
    for line in plan_lines(plan):
        out.print(line)
    share = f"{plan.trainable_percent:.2f} % of {count(modules.parameters)}, in {len(plan.sites)} modules"
    size = megabytes(4 * plan.stored_parameters)  # saved in float32
    out.print(f"trainable parameters  [bold]{plan.trainable_parameters:,}[/]   {share}   adapter file {size}")


def show_undecided(out: Console, strategy: TargetConfig, modules: ModuleMap) -> None:
    """The model, and that the base's weights will place the adapter: there is no plan without them."""
    show_head(out, modules)
    out.print()
    out.print(
        f"target={strategy.name}: {strategy.auto.method} places the adapter by the base's weights, at the budget of "
        f"{strategy.budget}; the run shows and records where."
    )


def plan_lines(plan: TargetPlan) -> list[str]:
    """What a plan is beyond roles and ranks, a line each: names, budget, what is missing, how it starts."""
    lines = []
    for name, those in _by_name(plan).items():
        cost = sum(planned.parameters for planned in those)
        where = f" on layers {spans(layers)}" if (layers := [one.layer for one in those if one.layer >= 0]) else ""
        lines.append(f"{name}  rank {those[0].rank}{where}, {cost:,} parameters")
    if budget := plan.notes.get("budget"):
        of = f" (that of {budget['of']})" if budget["of"] else ""
        lines.append(f"budget {budget['asked']:,}{of}, nearest reachable {budget['reached']:,}")
    for role, holes in plan.notes.get("missing", {}).items():
        lines.append(f"[yellow]{role} is missing on layers {spans(holes)}[/], and allowed to be")
    if plan.notes.get("fused") == "native":
        lines.append("fused modules are adapted whole, one A for all their parts (fused=native)")
    if plan.bias is not Bias.none:
        kept = sum(term.size for term in plan.biases) - plan.bias_parameters
        beside = f"; {kept:,} of parts that are not adapted stay as they are" if kept else ""
        lines.append(f"bias {plan.bias}: {len(plan.biases)} biases, {plan.bias_parameters:,} parameters{beside}")
    kinds = [f"init {plan.init}"] * (str(plan.init) != "lora") + ["DoRA"] * plan.dora
    if kinds:
        lines.append(", ".join(kinds))
    if zeros := sum(site.parameters for site in plan.sites) - sum(planned.parameters for planned in plan.modules):
        lines.append(
            f"stored parameters {plan.stored_parameters:,}: {zeros:,} stay zero, for parts that are not adapted"
        )
    return lines


def _by_name(plan: TargetPlan) -> dict[str, list[PlannedModule]]:
    """The planned modules that play no role, by their leaf's name."""
    named: dict[str, list[PlannedModule]] = {}
    for planned in plan.modules:
        if not set(planned.role.split("+")) <= set(ROLES):
            named.setdefault(planned.role, []).append(planned)
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
        show_head(out, modules)
    out.print()
    roles = [role for role in ROLES if any(role in row.modules.roles for row in rows)]
    others = any(row.plan and _by_name(row.plan) for row in rows)
    table = Table(box=None, pad_edge=False)
    for title in varying:
        table.add_column(title)
    for title in (*roles, *["others"] * others, "modules", "parameters", "of base", "adapter file", "memory"):
        table.add_column(title, justify="right")
    for row in rows:
        if row.plan is None:
            table.add_row(*row.values, *["?"] * len(roles), *[""] * others, "", "by the weights")
            continue
        ranks: dict[str, set[int]] = {}
        for planned in row.plan.modules:
            for role in planned.role.split("+"):
                ranks.setdefault(role, set()).add(planned.rank)
        named = [f"{name} {min(ranks[name])}" for name in _by_name(row.plan)]
        table.add_row(
            *row.values,
            *(_range(ranks.get(role)) for role in roles),
            *[" ".join(named)] * others,
            str(len(row.plan.sites)),
            f"{row.plan.trainable_parameters:,}",
            f"{row.plan.trainable_percent:.2f} %",
            megabytes(4 * row.plan.stored_parameters),
            megabytes(row.memory) if row.memory else "",
        )
    out.print(table)


def show_ways(out: Console, ways: Sequence[Suggestion], gpu: int) -> None:
    """Ways to make the same step on a GPU of so many bytes, best first."""
    out.print()
    fitting = [way for way in ways if way.fits]
    if not fitting:
        least = min(ways, key=lambda way: way.predicted_bytes)
        out.print(
            f"nothing fits {megabytes(gpu)}: {least.overrides} needs {megabytes(least.predicted_bytes)}. Shorten "
            "train.max_length, take quantization=nf4, or a smaller model."
        )
        return
    out.print(f"what fits {megabytes(gpu)}, with the same effective batch, fastest first:")
    for way in fitting[:4]:
        mark = "   (as it is)" if way.current else ""
        out.print(f"  {way.overrides}   ~ {megabytes(way.predicted_bytes)}{mark}")
    if not any(way.current for way in fitting):
        out.print("[yellow]as it is, it does not fit[/]")


def _range(ranks: set[int] | None) -> str:
    if not ranks:
        return "."
    return str(min(ranks)) if len(ranks) == 1 else f"{min(ranks)}-{max(ranks)}"


def show_head(out: Console, modules: ModuleMap) -> None:
    """One line of what the model is, and where that was read."""
    parts = [f"{modules.layers} layers"]
    for name, value in (("hidden", modules.hidden), ("FFN", modules.intermediate)):
        if value:
            parts.append(f"{name} {value}")
    if modules.heads:
        parts.append(
            f"{modules.heads} heads" + (f" ({modules.kv_heads} KV)" if modules.kv_heads != modules.heads else "")
        )
    out.print(f"[bold]{modules.name}[/]   {', '.join(parts)}   architecture from {modules.origin}")


def _rank_table(plan: TargetPlan, modules: ModuleMap) -> Table:
    ranks: dict[int, dict[str, str]] = {layer: {} for layer in range(modules.layers)}
    for projection in modules.projections:
        ranks[projection.layer][projection.role] = "."
    found: dict[tuple[int, str], set[int]] = {}
    for planned in plan.modules:
        for role in planned.role.split("+"):  # a fused module as a whole
            if planned.layer >= 0 and role in modules.roles:
                found.setdefault((planned.layer, role), set()).add(planned.rank)
    for (layer, role), those in found.items():
        ranks[layer][role] = _range(those)
    return _by_layer(modules, ranks)


def _by_layer(modules: ModuleMap, cells: dict[int, dict[str, str]]) -> Table:
    """A table of layers x roles, in which layers that look the same share a row."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for role in modules.roles:
        table.add_column(role, justify="right")
    rows: dict[tuple[str, ...], list[int]] = {}
    for layer, roles in cells.items():
        rows.setdefault(tuple(roles.get(role, " ") for role in modules.roles), []).append(layer)
    for row, layers in rows.items():
        table.add_row(f"layers {spans(layers)}", *row)
    return table


def show_modules(out: Console, modules: ModuleMap) -> None:
    """Layers x roles with shapes, the modules behind them, and what rank 8 costs."""
    show_head(out, modules)
    tied = "tied to the embeddings" if modules.tied_embeddings else "not tied"
    out.print(f"{count(modules.parameters)} parameters, vocabulary {modules.vocabulary or '?'}, lm_head {tied}")
    out.print()
    cells: dict[int, dict[str, str]] = {layer: {} for layer in range(modules.layers)}
    for projection in modules.projections:
        shapes = cells[projection.layer].setdefault(projection.role, "").split()
        cells[projection.layer][projection.role] = " ".join(dict.fromkeys([*shapes, _shape(projection)]))
    out.print(_by_layer(modules, cells))
    out.print()
    table = Table(box=None, pad_edge=False)
    for title in ("group", "role", "module (first layer)", "layers"):
        table.add_column(title, no_wrap=True)
    table.add_column("rank 8, a layer", justify="right")
    table.add_column("rank 8, all", justify="right")
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


def _alike(modules: ModuleMap) -> list[list[Projection]]:
    """The projections of each role, those of one name, width and number of experts together."""
    found: dict[tuple[Any, ...], list[Projection]] = {}
    for role in modules.roles:
        for one in modules.of_role(role):
            leaf = one.module.rpartition(".")[2]
            found.setdefault((role, leaf, one.parameter, one.experts, one.d_in, one.width), []).append(one)
    return list(found.values())


def _shape(projection: Projection) -> str:
    times = f"{projection.experts}x" if projection.experts > 1 else ""
    return f"{times}{projection.d_in}>{projection.d_out or '?'}"


LABEL = 23


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
        f"{'memory':<{LABEL}}~ {gibibytes(memory.total)} GiB    {parts} ({batch})",
        f"{'compute':<{LABEL}}~ {flop(compute.total)} a token{run}",
    ]
