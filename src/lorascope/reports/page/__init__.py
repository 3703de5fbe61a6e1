"""A study as one HTML file, from Jinja2 templates and Vega-Lite charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lorascope.records.study_record import Study
from lorascope.reports.findings import Findings, as_dict
from lorascope.reports.page.charts import CONFIG, SHAPES
from lorascope.reports.page.sections import Figure, Section, sections
from lorascope.reports.page.values import looks_of, source
from lorascope.reports.run_table import plain
from lorascope.reports.text_tables import heading

TEMPLATES = Path(__file__).parent / "templates"
VEGA_LITE = "6.4"  # of those that vl-convert holds


@dataclass(frozen=True)
class Served:
    """What a page has that is served while its study runs; a written one has none of it."""

    version: str  # of the content
    state: str  # where the page asks for the newest version, relative to its own address
    nonce: str  # of its scripts, without which a browser runs none
    back: bool = False  # the page is of one run


def page_of(
    found: Findings, page: Path | None = None, *, live: Served | None = None, before: Sequence[Section] = ()
) -> str:  # fmt: skip
    """The whole page; the same findings give the same text.

    Args:
        found: what it shows.
        page: where it will be written, so that its links lead to the runs; by default the study's folder.
        live: of a page that is served.
        before: sections that come first.
    """
    looks, study = looks_of(found.study), found.study
    made = [*before, *sections(source(found, looks, page))]
    about = f"{heading(found)}. Reference: {study.reference}."
    about += "" if study.finished else " The study is not finished."
    title = study.title or study.name
    return render(study, title, about, made, ("verdict", "the verdict"), plain(as_dict(found)), live=live)


def render(
    study: Study, title: str, about: str, made: Sequence[Section], first: tuple[str, str], report: Any, *,
    live: Served | None = None,
) -> str:  # fmt: skip
    """A page of these sections.

    Args:
        study: whose arms have their looks in it.
        title: of the page.
        about: a line below it.
        made: the sections.
        first: the section that a keyboard can jump to, and its name.
        report: the numbers as JSON.
        live: of a page that is served.
    """
    figures = _figures(made)
    specs = [dict(figure.spec) | {"description": figure.label} for figure in figures]
    looks = looks_of(study)
    return str(
        _environment()
        .get_template("page.html.j2")
        .render(
            study=study,
            title=title,
            about=about,
            sections=made,
            first=first,
            numbers={id(figure): number for number, figure in enumerate(figures)},
            looks=looks,
            shapes=SHAPES,
            charts=plain({"config": CONFIG, "specs": specs}),
            report=report,
            live=live,
            vega=vega(),
        )
    )


def render_section(study: Study, section: Section) -> str:
    """One section without charts, to stand in for its former self in a page that is served."""
    template = _environment().from_string('{% import "parts.html.j2" as parts with context %}{{ parts.section(one) }}')
    return str(template.render(study=study, looks=looks_of(study), numbers={}, one=section))


def _figures(made: Sequence[Section]) -> list[Figure]:
    blocks = [block for one in made for block in (*one.blocks, *(card for _, cards in one.cards for card in cards))]
    return [figure for block in blocks for figure in block.figures]


@cache
def _environment() -> Any:
    """Jinja2 with every text escaped and every name known."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.globals |= {
        "file": _file,
        "id": id,
    }
    return made


def _file(name: str) -> Markup:
    """A file of ours, which needs no escape."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


@cache
def vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script.

    Why not Plotly: its script is 4.8 MB in each page, Vega's is 0.9 MB (reports have to stay below 2 MiB), and its
    colors cannot be CSS variables, which change with the theme. vl-convert takes 84 MB on the disk, plotly 64 MB; the
    script takes 1.4 s to make, once in a process.
    """
    import vl_convert

    # nothing in it ends the element today
    script = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # its stub asks for more than it
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
