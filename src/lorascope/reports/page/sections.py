"""The page's sections in their order; one that has nothing to show is left out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from lorascope.formats import Quantity, duration, quantity
from lorascope.records.study_record import PILOT, Task
from lorascope.reports.findings import Findings, stages
from lorascope.reports.page import charts, tables
from lorascope.reports.page.tables import Table, minus
from lorascope.reports.page.values import Source, Spot, coverages, words
from lorascope.reports.plots import front, points
from lorascope.reports.seed_groups import EVAL, edge, learning_curves, sampled_curves, tried
from lorascope.reports.standings import REFERENCE, Line, TaskComparison
from lorascope.stats.verdicts import FEWEST, Verdict

FORGOTTEN = "forgetting_kl"
LATER = ("train_loss", "best_eval_loss")  # metrics that no panel needs


@dataclass(frozen=True)
class Figure:
    """A chart under its name; `label` says in words what it shows."""

    name: str
    note: str
    label: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class SectionPart:
    """A part of a section, of whatever it has."""

    title: str = ""
    note: str = ""
    sentences: Sequence[Markup] = ()
    warnings: Sequence[str] = ()
    table: Table | None = None
    figures: Sequence[Figure] = ()
    kind: str = ""  # of the grid of figures
    code: str = ""
    folded: bool = False
    links: Sequence[tuple[str, str]] = ()  # texts and addresses; where one is already, there is no address


@dataclass(frozen=True)
class Section:
    """A section with its heading, and its name in the page's menu."""

    id: str
    menu: str
    title: str
    lead: str
    blocks: Sequence[SectionPart]
    legend: bool = False
    cards: Sequence[tuple[str, Sequence[SectionPart]]] = ()  # by view


def sections(source: Source) -> list[Section]:
    """All that have something to show."""
    made = (verdict, results, sizes, learning, rates, metrics, forgetting, plans, cost, environment)
    return [one for part in made if (one := part(source)) is not None]


def axis_title(name: str, measured: Quantity, better: str = "") -> str:
    """What an axis shows: exact_match (%, higher is better)."""
    inside = ", ".join(filter(None, ("%" if measured.share else measured.unit, better and f"{better} is better")))
    return f"{name} ({inside})" if inside else name


def verdict(source: Source) -> Section:
    """What was found, in sentences and as differences."""
    study = source.found.study
    lead = (
        f"Differences to {study.reference} over paired seeds, with {100 * (1 - study.level):g} % intervals of each arm "
        f"alone. The chance of any false verdict on a task in a view is at most {100 * study.level:g} %. Fewer than "
        f"{FEWEST} seeds have no verdict. Shaded: the margin. Small dots: seeds, which lead to their runs."
    )
    cards = []
    for view in study.views:
        found = [_card(source, one) for one in source.found.comparisons if one.view == view]
        cards.append((view[:1].upper() + view[1:] if len(study.views) > 1 else "", found))
    return Section("verdict", "Verdict", "Verdict", lead, [SectionPart(warnings=source.found.notes)], cards=cards)


def _card(source: Source, one: TaskComparison) -> SectionPart:
    note = axis_title(one.task.metric, one.quantity, one.task.better)
    return SectionPart(one.task.name, note, sentences(one), one.notes, figures=_differences(source, one))


def _differences(source: Source, one: TaskComparison) -> list[Figure]:
    lines = [line for line in one.lines if line.difference is not None and line.verdict != REFERENCE]
    if not lines:
        return []
    reference, spots, dots = lines[0].reference, [], []
    values = {(dot.arm, dot.seed): dot for dot in source.dots(one.task.name, one.task.metric)}
    for line in lines:
        low, high = line.difference_low, line.difference_high
        between = "" if low is None else f"\ninterval {low!r} to {high!r}"
        tip = f"{line.arm}\n{_by(one, line)} {line.words}\nexactly {line.difference!r}{between}"
        spots.append(Spot(line.arm, line.difference or 0.0, low, high, tip))
    for (arm, seed), dot in values.items():
        if (other := values.get((reference, seed))) and arm in {line.arm for line in lines}:
            more = f"\n{dot.value!r} against {other.value!r}"
            dots.append(replace(dot, value=dot.value - other.value, more=more))
    unit = f" ({one.quantity.of_differences})" if one.quantity.of_differences else ""
    label = f"{one.task.name}, {one.view}: differences to {reference} in {one.task.metric} with intervals"
    spec = charts.intervals(spots, dots, one.quantity, source.looks, margin=one.task.margin)
    return [Figure("", f"Difference to {reference}{unit}", label, spec)]


def sentences(one: TaskComparison) -> list[Markup]:
    """A sentence for each kind of verdict, and for the arms of which nothing can be said."""
    made = []
    by = {verdict: [line for line in one.lines if line.verdict == verdict] for verdict in Verdict}
    for verdict in (Verdict.better, Verdict.worse, Verdict.equivalent):
        lines = sorted(by[verdict], key=lambda line: -abs(line.difference or 0.0))
        if lines:
            text = "{} {} <strong>{} {}</strong> {}."
            named = _listed([Markup("{} ({})").format(_name(line.arm), _by(one, line)) for line in lines])
            than = "to" if verdict is Verdict.equivalent else "than"
            be = "is" if len(lines) == 1 else "are"
            made.append(Markup(text).format(named, be, verdict, than, lines[0].reference))
    for line in by[Verdict.inconclusive]:
        more = f"about {line.more_seeds} seeds more might tell" if line.more_seeds else "more seeds would hardly tell"
        text = "{} ({}) is <strong>inconclusive</strong>: {}."
        made.append(Markup(text).format(_name(line.arm), _by(one, line), more))
    for line in by[Verdict.too_few]:
        measured = f" ({_by(one, line)})" if line.difference is not None else ""
        text = "{}{} has <strong>too few seeds for a verdict</strong>: {}."
        made.append(Markup(text).format(_name(line.arm), measured, line.reason or f"{FEWEST} are needed"))
    for line in one.lines:
        if line.verdict == REFERENCE and line.reason:
            made.append(Markup("The reference {} has only {}.").format(_name(line.arm), line.reason))
    return made or [Markup("There is no arm to compare.")]


def _by(one: TaskComparison, line: Line) -> str:
    told = one.quantity.difference(line.difference, line.difference_low, line.difference_high)
    return minus(told).replace(" ", "\u00a0")  # an interval is read as one word


def _name(arm: str) -> Markup:
    return Markup('<b dir="auto">{}</b>').format(arm)  # a name that reads from the right turns nothing else around


def _listed(items: Sequence[Markup]) -> Markup:
    """a, b and c."""
    *most, last = items
    return Markup(", ").join(most) + Markup(" and ") + last if most else last


def results(source: Source) -> Section:
    """The tables."""
    study, blocks = source.found.study, []
    for one in source.found.comparisons:
        view = f", {one.view}" if len(study.views) > 1 else ""
        margin = f"margin {minus(one.quantity.digits(one.task.margin))} {one.quantity.of_differences}".rstrip()
        blocks.append(SectionPart(f"{one.task.name}{view}", margin, table=tables.results(source.found, one)))
    lead = f"Means over seeds ± half of their {100 * (1 - study.level):g} % interval (Student's t)."
    return Section("results", "Results", "Results", lead, blocks)


def sizes(source: Source) -> Section | None:
    """The Pareto front of each task."""
    drawn = []
    for task, measured in _tasks(source.found):
        lines = points(source.found.comparisons, task.name)
        if not lines:
            continue
        size = {line.arm: line.parameters or 0 for line in lines}
        best = [line.arm for line in front(lines, task.better)]
        spots, dots = source.spots(task.name, task.metric), source.dots(task.name, task.metric)
        dots = [replace(dot, x=size[dot.arm]) for dot in dots if dot.arm in size]
        placed = {}
        for spot in spots:
            if spot.arm in size:
                tip = f"{spot.tip}\n{size[spot.arm]:,} parameters" + ("\non the front" if spot.arm in best else "")
                placed[spot.arm] = replace(spot, x=size[spot.arm], hollow=spot.arm not in best, tip=tip)
        label = f"{task.name}: {task.metric} against trainable parameters; on the front: {', '.join(best)}"
        line = [placed[arm] for arm in best]
        spec = charts.scatter([*placed.values()], dots, charts.SIZE, measured, source.looks, front=line)
        drawn.append(Figure(task.name, axis_title(task.metric, measured, task.better), label, spec))
    lead = "On the line lie the arms that no other beats in one of both without losing in the other. Others are hollow."
    title = "Quality against trainable parameters"
    return Section("front", "Size", title, lead, [SectionPart(figures=drawn)], legend=True) if drawn else None


def _tasks(found: Findings) -> list[tuple[Task, Quantity]]:
    """Each task with how its metric reads."""
    reads = {one.task.name: one.quantity for one in reversed(found.comparisons)}
    return [(task, reads[task.name]) for task in found.study.tasks if task.name in reads]


def learning(source: Source) -> Section | None:
    """How the loss fell."""
    drawn, found = [], source.found
    for task in found.study.tasks:
        key, curves = learning_curves(found.study, found.records, found.folder, task.name)
        if curves:
            kind = "eval loss" if key == EVAL else "training loss"
            label = f"{task.name}: {kind} by step, a curve for each arm"
            drawn.append(Figure(task.name, f"{kind} (nats/token)", label, charts.learning(kind, curves, source.looks)))
        drawn += _sampled(source, task.name)
    lead = (
        "Means over seeds; the bands reach from the lowest seed to the highest. Metrics while training are of a fixed "
        "sample of the eval half."
    )
    blocks = [SectionPart(figures=drawn)]
    return Section("learning", "Learning", "Learning curves", lead, blocks, legend=True) if drawn else None


def _sampled(source: Source, task: str) -> list[Figure]:
    """The metrics that were measured while training, and what was learned against what was forgotten."""
    found = source.found
    curves = sampled_curves(found.study, found.records, found.folder, task)
    drawn = [
        Figure(task, f"{name}, on a sample", f"{task}: {name} by step", charts.learning(name, those, source.looks))
        for name, those in curves.items()
    ]
    lost = curves.get(FORGOTTEN, [])
    for name, those in curves.items():
        if lost and not name.startswith("forgetting"):
            label = f"{task}: {name} against {FORGOTTEN} from step to step, a path for each arm"
            spec = charts.path(name, those, lost, source.looks)
            drawn.append(Figure(task, f"{name} against forgetting, step by step", label, spec))
    return drawn


def rates(source: Source) -> Section | None:
    """How the pilot chose."""
    blocks, study = [], source.found.study
    for task in study.tasks:
        every = tried(study, source.found.records, task.name)
        drawn = []
        for arm in study.arms:
            own = [one for one in every if one.arm == arm.name]
            if any(one.loss is not None for one in own):
                chosen = study.rates.get(task.name, {}).get(arm.name)
                end = edge(own, arm.name, chosen)
                told = "none chosen yet" if chosen is None else f"{chosen:g}"
                told += f", the {end} that was tried" if end else ""
                spec = charts.rates(own, every, chosen, source.looks)
                drawn.append(Figure(arm.name, told, f"{arm.name}: eval loss by learning rate; {told}", spec))
        if drawn:
            blocks.append(SectionPart(task.name, figures=drawn, kind="small"))
    lead = (
        "The pilot's eval loss by learning rate (logarithmic), of runs of its own. Pale: shorter rungs, which decide "
        "what is tried longer. The dashed line is the rate that the final runs have."
    )
    return Section("rates", "Rates", "Learning rates", lead, blocks) if blocks else None


def metrics(source: Source) -> Section | None:
    """Every metric of every task."""
    blocks = []
    for task in source.found.study.tasks:
        entries: dict[str, list[Mapping[str, Any]]] = {}
        for _, record in source.done(task.name):
            for name, entry in record.metrics.items():
                entries.setdefault(name, []).append(entry)
        names = sorted(entries.keys() - {*LATER}, key=lambda name: (name != task.metric, [*entries].index(name)))
        drawn = [one for name in names if (one := _panel(source, task, name, entries[name]))]
        if drawn:
            blocks.append(SectionPart(task.name, figures=drawn))
    lead = (
        "Means with intervals over seeds; where there is one seed, the interval is the record's, over items. Small "
        "dots are seeds and lead to their runs. Dashed: the base model before training. A name with a slash is "
        "measured on a set of its own, which was not trained."
    )
    return Section("metrics", "Metrics", "What was measured", lead, blocks, legend=True) if blocks else None


def _panel(source: Source, task: Task, metric: str, entries: Sequence[Mapping[str, Any]]) -> Figure | None:
    spots = source.spots(task.name, metric)
    if not spots:
        return None
    halves = [(spot.high - spot.low) / 2 for spot in spots if spot.low is not None and spot.high is not None]
    measured = quantity(str(entries[0].get("unit") or ""), halves)
    bases = [float(one["base"]) for one in entries if one.get("base") is not None and math.isfinite(one["base"])]
    base = statistics.fmean(bases) if bases else None
    note = axis_title("", measured, str(entries[0].get("better") or "")).strip(" ()")
    near = base is not None and not _far(base, [end for spot in spots for end in (spot.value, spot.low, spot.high)])
    if base is not None:
        note += f"; base {minus(measured.value(base))}{'' if near else ', beyond the axis'}"
    dots, shown = source.dots(task.name, metric), base if near else None
    spec = charts.intervals(spots, dots, measured, source.looks, base=shown)
    return Figure(metric, note, f"{task.name}: {metric} of each arm, with intervals", spec)


def _far(base: float, ends: Sequence[float | None]) -> bool:
    """Whether the base's value would press those of the arms together."""
    known = [end for end in ends if end is not None]
    low, high = min(known), max(known)
    return high > low and max(low - base, base - high) > 4 * (high - low)


def forgetting(source: Source) -> Section | None:
    """What the learning cost of what the base knew."""
    drawn = []
    for task, measured in _tasks(source.found):
        lost = {spot.arm: spot for spot in source.spots(task.name, FORGOTTEN)}
        seeds = {(dot.arm, dot.seed): dot.value for dot in source.dots(task.name, FORGOTTEN)}
        spots = [
            replace(one, x=bad.value, x_low=bad.low, x_high=bad.high, tip=f"{one.tip}\n{FORGOTTEN} {bad.value!r}")
            for one in source.spots(task.name, task.metric)
            if (bad := lost.get(one.arm))
        ]
        if not spots:
            continue
        dots = [
            replace(dot, x=kl, more=f"\n{FORGOTTEN} {kl!r}")
            for dot in source.dots(task.name, task.metric)
            if (kl := seeds.get((dot.arm, dot.seed))) is not None
        ]
        spec = charts.scatter(spots, dots, charts.FORGETTING, measured, source.looks)
        note = axis_title(task.metric, measured, task.better)
        drawn.append(Figure(task.name, note, f"{task.name}: {task.metric} against forgetting", spec))
    lead = "forgetting_kl is KL(base || adapted) on texts that have nothing to do with the task: less is better."
    title, blocks = "Forgetting against learning", [SectionPart(figures=drawn)]
    return Section("forgetting", "Forgetting", title, lead, blocks, legend=True) if drawn else None


def plans(source: Source) -> Section | None:
    """Where the adapters sit."""
    every = coverages(source.found.study, source.found.records)
    drawn = [Figure(one.arm, one.caption, words(one), charts.plan(one, every)) for one in every]
    lead = "Layers from the top, roles from left to right, the rank in each; what is empty is not adapted."
    blocks = [SectionPart(figures=drawn, kind="plans")]
    return Section("plans", "Plans", "Where the adapters sit", lead, blocks) if drawn else None


def cost(source: Source) -> Section | None:
    """Time and memory."""
    found = source.found
    if not any(one.runs for one in found.costs):
        return None
    spent = stages(found.study, found.records)
    total = sum(spent.values())
    lead = f"All runs took {duration(total)}"
    if spent[PILOT] and total:
        lead += f", of which the pilot {duration(spent[PILOT])} ({spent[PILOT] / total:.0%})"
    sizes = [(one.memory_predicted_bytes, one.memory_peak_bytes) for one in found.costs]
    ratios = [predicted / peak for predicted, peak in sizes if predicted and peak]
    if ratios:
        lead += f". The predicted memory was {statistics.median(ratios):.2f} of the measured peak (median)"
    return Section("cost", "Cost", "Cost", f"{lead}.", [SectionPart(table=tables.costs(found))])


def environment(source: Source) -> Section:
    """Command, settings, runs, machine, versions and fingerprints."""
    found = source.found
    missing, runs = tables.not_done(found, source.link), tables.runs(found, source.link)
    blocks = [
        SectionPart("Command", code=found.study.command),
        SectionPart("Study", table=tables.settings(found)),
        SectionPart("Arms", table=tables.arms(found)),
        SectionPart("Tasks", table=tables.tasks(found)),
    ]
    if missing.rows:
        blocks.append(SectionPart("Runs that are not done", table=missing))
    if runs.rows:
        blocks.append(SectionPart(f"All {len(runs.rows)} runs", table=runs, folded=True))
        blocks.append(SectionPart("Machine and versions", table=tables.machine(found.records.values())))
        blocks.append(SectionPart("Fingerprints", table=tables.fingerprints(found)))
    return Section("environment", "Environment", "Environment", "", blocks)
