"""A study as one HTML file, from Jinja2 templates and Vega-Lite charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from lorascope.reports.findings import Findings, as_dict
from lorascope.reports.page.charts import CONFIG, SHAPES
from lorascope.reports.page.sections import sections
from lorascope.reports.page.values import looks_of, source
from lorascope.reports.run_table import plain
from lorascope.reports.text_tables import heading

TEMPLATES = Path(__file__).parent / "templates"
VEGA_LITE = "6.4"  # of those that vl-convert holds


def page_of(found: Findings, page: Path | None = None) -> str:
    """The whole page; the same findings give the same text.

    Args:
        found: what it shows.
        page: where it will be written, so that its links lead to the runs; by default the study's folder.
    """
    looks = looks_of(found.study)
    made = sections(source(found, looks, page))
    blocks = [block for one in made for block in (*one.blocks, *(card for _, cards in one.cards for card in cards))]
    figures = [figure for block in blocks for figure in block.figures]
    specs = [dict(figure.spec) | {"description": figure.label} for figure in figures]
    return str(
        _environment()
        .get_template("page.html.j2")
        .render(
            study=found.study,
            title=found.study.title or found.study.name,
            about=heading(found),
            sections=made,
            numbers={id(figure): number for number, figure in enumerate(figures)},
            looks=looks,
            shapes=SHAPES,
            charts=plain({"config": CONFIG, "specs": specs}),
            report=plain(as_dict(found)),
            vega=_vega(),
        )
    )


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


def _vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script.

    Why not Plotly: its script is 4.8 MB in each page, Vega's is 0.9 MB (reports have to stay below 2 MiB), and its
    colors cannot be CSS variables, which change with the theme. vl-convert takes 84 MB on the disk, plotly 64 MB; the
    script takes 1.4 s to make, once in a process.
    """
    import vl_convert

    # nothing in it ends the element today
    script = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # its stub asks for more than it
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
