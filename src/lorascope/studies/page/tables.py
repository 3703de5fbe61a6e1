"""The page's tables: comparisons, costs and settings come in, tables that scroll within their own box go out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorascope.studies.cost import Cost
from lorascope.studies.findings import Findings
from lorascope.studies.page.charts import minus
from lorascope.studies.page.looks import Looks, mark
from lorascope.studies.page.markup import Markup, element
from lorascope.studies.quantity import NONE
from lorascope.studies.standings import LOSS, Comparison, Line
from lorascope.studies.study import Study
from lorascope.wording import megabytes

KINDS = {"better": "good", "worse": "bad", "equivalent": "same"}


def table(label: str, heads: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> Markup:
    """A table; of its columns, `numbers` are aligned to the right. The first cell of a row is its heading."""
    kinds = ["number" if index in numbers else None for index in range(len(heads))]
    head = element(
        "tr", *(element("th", name, scope="col", class_=kind) for name, kind in zip(heads, kinds, strict=True))
    )
    body = []
    for first, *rest in rows:
        cells = [element("td", cell, class_=kind) for cell, kind in zip(rest, kinds[1:], strict=True)]
        body.append(element("tr", element("th", first, scope="row", class_=kinds[0]), *cells))
    whole = element("table", element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def results(study: Study, one: Comparison, looks: Looks) -> Markup:
    """All arms of a view on one task."""
    to = f"to {study.reference} ({100 * (1 - study.level):g} %)"
    loss = [] if one.task.metric == LOSS else ["eval loss"]
    heads = ["arm", one.task.metric, to, "verdict", *loss, "rank", "parameters", "rate", "seeds"]
    rows = [_result(one, line, looks, bool(loss)) for line in one.lines]
    numbers = [index for index, name in enumerate(heads) if name in (*loss, "parameters", "rate", "seeds")]
    return table(f"{one.task.name}, {one.view}: results", heads, rows, [1, *numbers])


def _result(one: Comparison, line: Line, looks: Looks, loss: bool) -> list[object]:
    size = NONE if line.parameters is None else f"{line.parameters:,}"
    rate = NONE if line.learning_rate is None else f"{line.learning_rate:g}"
    mean = minus(one.quantity.value(line.mean, line.half))
    loss_cell = [minus(one.loss_quantity.value(line.eval_loss, line.eval_loss_half))] if loss else []
    to = minus(one.quantity.difference(line.difference, line.difference_low, line.difference_high))
    return [named(looks, line.arm), mean, to, _verdict(line), *loss_cell, line.ranks or NONE, size, rate, line.n]


def _verdict(line: Line) -> Markup:
    badge = element("span", line.verdict, class_=f"badge {KINDS.get(line.verdict, 'open')}")
    more = line.words.removeprefix(line.verdict).strip(" ()")
    told = "; ".join(filter(None, (more, line.reason)))
    return element("span", badge, element("span", told, class_="why")) if told else badge


def named(looks: Looks, arm: str) -> Markup:
    """An arm's name behind its mark."""
    picture = element("svg", mark(looks, arm, 7, 7), viewBox="0 0 14 14", class_="key", aria_hidden="true")
    return element("span", picture, element("bdi", arm), class_="arm")


def costs(found: Findings, looks: Looks) -> Markup:
    """Time and memory of each arm on each task."""
    heads = ["arm", "task", "runs", "seconds a run", "tokens/s", "peak memory", "predicted", "predicted / peak"]
    rows = [_cost(one, looks) for one in found.costs if one.runs]
    return table("time and memory", heads, rows, range(2, len(heads)))


def _cost(one: Cost, looks: Looks) -> list[object]:
    peak, predicted = one.memory_peak_bytes, one.memory_predicted_bytes
    ratio = f"{predicted / peak:.2f}" if peak and predicted else NONE
    return [
        named(looks, one.arm), one.task, one.runs,
        NONE if one.time_seconds is None else f"{one.time_seconds:,.0f}",
        NONE if one.time_tokens_per_second is None else f"{one.time_tokens_per_second:,.0f}",
        NONE if peak is None else megabytes(peak), NONE if predicted is None else megabytes(predicted), ratio,
    ]  # fmt: skip


def pairs(label: str, rows: Iterable[tuple[str, object]]) -> Markup:
    """Names and their values."""
    return table(label, ["", ""], rows)
