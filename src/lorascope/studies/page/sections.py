"""The page's sections in their order: findings come in, a section each goes out, or nothing where there is nothing."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.studies.curves import learning_curves
from lorascope.studies.findings import Findings
from lorascope.studies.front import points
from lorascope.studies.page import charts, coverage, small, tables
from lorascope.studies.page.charts import minus
from lorascope.studies.page.looks import Looks, legend
from lorascope.studies.page.markup import Markup, element
from lorascope.studies.page.parts import even, figures, section
from lorascope.studies.pilot import edge, tried
from lorascope.studies.standings import REFERENCE, Comparison, Line
from lorascope.studies.verdicts import FEWEST, Verdict


def arms_of(found: Findings, looks: Looks) -> Markup:
    """The legend of all arms."""
    return legend(looks, [arm.name for arm in found.study.arms], found.study.reference)


def verdicts(found: Findings, looks: Looks) -> Markup:
    """What was found, in sentences and as differences."""
    parts: list[object] = []
    if found.notes:
        parts.append(element("ul", *(element("li", note) for note in found.notes), class_="notes"))
    for view in found.study.views:
        cards = [_card(one, looks) for one in found.comparisons if one.view == view]
        if len(found.study.views) > 1:
            parts.append(element("h3", view[:1].upper() + view[1:]))
        parts.append(element("div", *cards, class_=f"cards {even(len(cards))}".strip()))
    level = 100 * (1 - found.study.level)
    lead = (
        f"Differences to {found.study.reference} over paired seeds, with {level:g} % intervals of each arm alone. The "
        f"chance of any false verdict on a task in a view is at most {100 * found.study.level:g} %. Fewer than "
        f"{FEWEST} seeds have no verdict."
    )
    return section("verdict", "Verdict", *parts, lead=lead)


def _card(one: Comparison, looks: Looks) -> Markup:
    head = element(
        "h4", one.task.name, " ", element("small", charts.axis_title(one.task.metric, one.quantity, one.task.better))
    )
    said = [element("p", *words, class_="said") for words in sentences(one)]
    notes = [element("p", note, class_="warning") for note in one.notes]
    return element("article", head, *said, *notes, charts.differences(one, looks))


def sentences(one: Comparison) -> list[list[object]]:
    """A sentence for each kind of verdict, and for the arms of which nothing can be said."""
    made: list[list[object]] = []
    for verdict, words in (
        (Verdict.better, "better than"), (Verdict.worse, "worse than"), (Verdict.equivalent, "equivalent to"),
    ):  # fmt: skip
        lines = [line for line in one.lines if line.verdict == verdict]
        lines.sort(key=lambda line: -abs(line.difference or 0.0))
        if lines:
            named = _listed([[_name(line.arm), f" ({_by(one, line)})"] for line in lines])
            made.append([*named, f" {_be(lines)} ", element("strong", words), f" {lines[0].reference}."])
    for line in (line for line in one.lines if line.verdict == Verdict.inconclusive):
        more = f"about {line.more_seeds} seeds more might tell" if line.more_seeds else "more seeds would hardly tell"
        made.append([_name(line.arm), f" ({_by(one, line)}) is ", element("strong", "inconclusive"), f": {more}."])
    for line in (line for line in one.lines if line.verdict == Verdict.too_few):
        why = f": {line.reason}" if line.reason else f": {FEWEST} are needed"
        by = f" ({_by(one, line)})" if line.difference is not None else ""
        made.append([_name(line.arm), by, " has ", element("strong", "too few seeds for a verdict"), f"{why}."])
    for line in (line for line in one.lines if line.verdict == REFERENCE and line.reason):
        made.append(["The reference ", _name(line.arm), f" has only {line.reason}."])
    return made or [["There is no arm to compare."]]


def _by(one: Comparison, line: Line) -> str:
    told = one.quantity.difference(line.difference, line.difference_low, line.difference_high)
    return minus(told).replace(" ", "\u00a0")  # an interval is read as one word


def _name(arm: str) -> Markup:
    return element("b", arm, dir="auto")  # a name that reads from the right turns nothing else around


def _be(lines: Sequence[Line]) -> str:
    return "is" if len(lines) == 1 else "are"


def _listed(items: Sequence[Sequence[object]]) -> list[object]:
    """a, b and c."""
    made: list[object] = []
    for index, item in enumerate(items):
        if index:
            made.append(" and " if index == len(items) - 1 else ", ")
        made.extend(item)
    return made


def results(found: Findings, looks: Looks) -> Markup:
    """The tables."""
    parts: list[object] = []
    for one in found.comparisons:
        view = f", {one.view}" if len(found.study.views) > 1 else ""
        margin = minus(one.quantity.digits(one.task.margin))
        small = element("small", f"margin {margin} {one.quantity.of_differences}".rstrip())
        parts += [element("h3", f"{one.task.name}{view} ", small), tables.results(found.study, one, looks)]
    level = 100 * (1 - found.study.level)
    lead = f"Means over seeds ± half of their {level:g} % interval (Student's t)."
    return section("results", "Results", *parts, lead=lead)


def quality(found: Findings, looks: Looks) -> Markup | None:
    """The Pareto front of each task."""
    drawn = []
    for task in found.study.tasks:
        lines = points(found.comparisons, task.name)
        one = next((one for one in found.comparisons if one.task.name == task.name), None)
        if lines and one:
            drawn.append((task.name, charts.fronts(task, lines, one.quantity, looks)))
    if not drawn:
        return None
    lead = "On the line lie the arms that no other beats in one of both without losing in the other. Others are hollow."
    return section("front", "Quality against trainable parameters", arms_of(found, looks), figures(drawn), lead=lead)


def learning(found: Findings, looks: Looks) -> Markup | None:
    """How the loss fell."""
    drawn = []
    for task in found.study.tasks:
        key, curves = learning_curves(found.study, found.records, found.folder, task.name)
        if curves:
            drawn.append((task.name, charts.learning(task.name, key, curves, looks)))
    if not drawn:
        return None
    lead = "Means over seeds; the bands reach from the lowest seed to the highest."
    return section("learning", "Learning curves", arms_of(found, looks), figures(drawn), lead=lead)


def rates(found: Findings, looks: Looks) -> Markup | None:
    """How the pilot chose."""
    parts: list[object] = []
    for task in found.study.tasks:
        every = tried(found.study, found.records, task.name)
        drawn = []
        for arm in found.study.arms:
            own = [one for one in every if one.arm == arm.name]
            if any(one.loss is not None for one in own):
                chosen = found.study.rates.get(task.name, {}).get(arm.name)
                end = edge(own, arm.name, chosen)
                words = "none chosen yet" if chosen is None else f"{chosen:g}"
                words += f", the {end} that was tried" if end else ""
                name = element("span", element("b", arm.name), f" {words}")
                drawn.append((name, small.rates(arm.name, own, every, chosen, looks)))
        if drawn:
            parts += [element("h3", task.name), figures(drawn, "small")]
    if not parts:
        return None
    lead = (
        "The pilot's eval loss by learning rate (logarithmic), of runs of its own. Pale: shorter rungs, which decide "
        "what is tried longer. The dashed line is the rate that the final runs have."
    )
    return section("rates", "Learning rates", *parts, lead=lead)


def plans(found: Findings, looks: Looks) -> Markup | None:
    """Where the adapters sit."""
    every = coverage.coverages(found.study, found.records)
    if not every:
        return None
    drawn = [(coverage.caption(one), coverage.picture(one, every)) for one in every]
    lead = "Layers from the top, roles from left to right, the rank in each; what is empty is not adapted."
    return section("plans", "Where the adapters sit", figures(drawn, "plans"), lead=lead)
