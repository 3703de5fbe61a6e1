"""What the user sees: plans, module maps, progress and results as lines and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lorascope.config import ROLES
from lorascope.targets.layers import spans
from lorascope.targets.module_map import ModuleMap, Projection
from lorascope.targets.plan import PlannedModule, TargetPlan
from lorascope.targets.roles import group_of

WIDTH = 118  # of what is piped into a file, where rich would assume 80


def console() -> Console:
    """The terminal, or whatever stands in for it."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)


def show_plan(out: Console, plan: TargetPlan, modules: ModuleMap) -> None:
    """Which layers and roles get which rank, and what is trained."""
    show_head(out, modules)
    out.print()
    out.print(_rank_table(plan, modules))
    scales = " and ".join(f"{_short(scale)} (r{rank})" for rank, scale in plan.scales.items())
    alphas = sorted({planned.alpha for planned in plan.modules}, reverse=True)
    out.print(
        f"alpha {', '.join(map(_short, alphas))} ({plan.alpha_policy}), scale {scales}, dropout {plan.lora_dropout}"
    )
    for line in plan_lines(plan):
        out.print(line)
    share = f"{plan.trainable_percent:.2f} % of {count(modules.parameters)}, in {len(plan.sites)} modules"
    size = megabytes(4 * plan.stored_parameters)  # saved in float32
    out.print(f"trainable parameters  [bold]{plan.trainable_parameters:,}[/]   {share}   adapter file {size}")


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
    kinds = [f"init {plan.init}"] * (str(plan.init) != "lora") + ["DoRA"] * plan.dora
    if kinds:
        lines.append(", ".join(kinds))
    if plan.stored_parameters != plan.trainable_parameters:
        zeros = plan.stored_parameters - plan.trainable_parameters
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


def show_plans(
    out: Console, varying: Sequence[str], rows: Sequence[tuple[Sequence[str], ModuleMap, TargetPlan]]
) -> None:
    """A row for each plan; `varying` names the settings that differ, with their values in each row."""
    for modules in {id(modules): modules for _, modules, _ in rows}.values():
        show_head(out, modules)
    out.print()
    roles = [role for role in ROLES if any(role in modules.roles for _, modules, _ in rows)]
    table = Table(box=None, pad_edge=False)
    for title in varying:
        table.add_column(title)
    others = any(_by_name(plan) for _, _, plan in rows)
    for title in (*roles, *(["others"] if others else []), "modules", "parameters", "of base", "adapter file"):
        table.add_column(title, justify="right")
    for values, _, plan in rows:
        ranks: dict[str, set[int]] = {}
        for planned in plan.modules:
            for role in planned.role.split("+"):
                ranks.setdefault(role, set()).add(planned.rank)
        named = [f"{name} {min(ranks[name])}" for name in _by_name(plan)]
        table.add_row(
            *values,
            *(_range(ranks.get(role)) for role in roles),
            *([" ".join(named)] if others else []),
            str(len(plan.sites)),
            f"{plan.trainable_parameters:,}",
            f"{plan.trainable_percent:.2f} %",
            megabytes(4 * plan.stored_parameters),
        )
    out.print(table)


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
        cells[projection.layer][projection.role] = _shape(projection)
    out.print(_by_layer(modules, cells))
    out.print()
    table = Table(box=None, pad_edge=False)
    for title in ("group", "role", "module (first layer)", "layers"):
        table.add_column(title)
    table.add_column("rank 8, a layer", justify="right")
    table.add_column("rank 8, all", justify="right")
    for role in modules.roles:
        every = modules.of_role(role)
        first = every[0]
        known = all(projection.d_out is not None for projection in every)
        table.add_row(
            group_of(role),
            role,
            first.module + (f"   fused: {' '.join(first.fused_with)}" if first.fused_with else ""),
            str(len(every)),
            f"{first.parameters(8):,}" if known else "?",
            f"{sum(projection.parameters(8) for projection in every):,}" if known else "?",
        )
    out.print(table)
    for role in modules.roles:
        if holes := modules.missing(role):
            out.print(f"[yellow]{role} is missing on layers {spans(holes)}[/]")
    if modules.unmapped:
        names = ", ".join(modules.unmapped[:6]) + (" …" if len(modules.unmapped) > 6 else "")
        out.print(f"linear modules without a role ({len(modules.unmapped)}): {names}")


def _shape(projection: Projection) -> str:
    return f"{projection.d_in}>{projection.d_out or '?'}"


def count(parameters: int) -> str:
    """A number of parameters for reading: 7.24 B, 134.5 M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters / size:.{2 if letter == 'B' else 1}f} {letter}"
    return str(parameters)


def megabytes(size: float) -> str:
    """A number of bytes for reading."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _short(number: float) -> str:
    return f"{number:.4g}"


class Bar:
    """Progress over a known number of steps: a bar in a terminal, five lines elsewhere."""

    def __init__(self, out: Console, title: str, total: int) -> None:
        self.out, self.title, self.total = out, title, max(total, 1)
        self.done, self.note, self.began, self.told = 0, "", time.perf_counter(), 0
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeRemainingColumn(), console=out, transient=True,
            disable=not out.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task(f"{title:<10}", total=self.total, note="")

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if error is None and self.told < 4:
            self._tell()

    def step(self, steps: int = 1, note: str | None = None, *, tell: bool = True) -> None:
        """So many steps further; `tell` may print a line where there is no bar."""
        self.done += steps
        self.note = self.note if note is None else note
        self.bar.update(self.task, completed=self.done, note=self.note)
        if tell and self.done * 4 // self.total > self.told:
            self._tell()

    def _tell(self) -> None:
        self.told = self.done * 4 // self.total
        if not self.out.is_terminal:
            seconds = time.perf_counter() - self.began
            self.out.print(f"{self.title:<10} {self.done}/{self.total}  {seconds:.0f} s  {self.note}".rstrip())


@contextmanager
def waiting(out: Console, what: str) -> Iterator[None]:
    """Shows that something takes its time."""
    if out.is_terminal:
        with out.status(what):
            yield
    else:
        yield


def warn(text: Any) -> None:
    """A notice that does not end the run."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[yellow]note[/]  {text}")
