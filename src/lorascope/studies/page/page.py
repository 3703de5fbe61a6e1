"""A study as one HTML page: findings come in, a text that needs no other file and no server goes out."""

from __future__ import annotations

from pathlib import Path

from lorascope.studies.findings import Findings, as_dict
from lorascope.studies.page import ending, measured, sections
from lorascope.studies.page.looks import Looks, looks_of
from lorascope.studies.page.markup import Markup, element, join, script_json
from lorascope.studies.settings import plain
from lorascope.studies.study_view import heading

DATA = "study-data"  # the id under which the page holds report.json
THEMES = ("auto", "light", "dark")


def page_of(found: Findings) -> str:
    """The whole page."""
    looks = looks_of(found.study)
    made = everything(found, looks)
    title = found.study.title or found.study.name
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content="lorascope"),
        element("title", f"{title} · lorascope"),
        element("style", _file("style.css")),
    )
    links = [element("li", element("a", name, href=f"#{_identity(one)}")) for name, one in made]
    body = element(
        "body",
        element("a", "Skip to the verdict", href="#verdict", class_="skip"),
        element(
            "header",
            element("div", element("h1", title), _themes(), class_="top"),
            element("p", _about(found), class_="about"),
        ),
        element("nav", element("ul", *links), aria_label="sections"),
        element("main", *(one for _, one in made)),
        element(
            "footer", element("p", "Made by lorascope. The numbers of this page are in it as JSON, and in report.json.")
        ),
        element("div", id="tip", role="status", hidden="hidden"),
        script_json(DATA, plain(as_dict(found))),
        element("script", _file("page.js")),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def everything(found: Findings, looks: Looks) -> list[tuple[str, Markup]]:
    """All sections that have something to show, with the words for the page's own list of them."""
    made = (
        ("Verdict", sections.verdicts), ("Results", sections.results), ("Size", sections.quality),
        ("Learning", sections.learning), ("Rates", sections.rates), ("Metrics", measured.panels),
        ("Forgetting", measured.forgetting), ("Plans", sections.plans), ("Cost", ending.cost),
        ("Environment", ending.environment),
    )  # fmt: skip
    return [(name, one) for name, part in made if (one := part(found, looks)) is not None]


def _about(found: Findings) -> str:
    state = "" if found.study.finished else " The study is not finished."
    return f"{heading(found)}. Reference: {found.study.reference}.{state}"


def _identity(one: Markup) -> str:
    return one.partition(' id="')[2].partition('"')[0]


def _themes() -> Markup:
    """The choice between light and dark; it shows itself where scripts run."""
    buttons = [element("button", name, type="button", data_theme_choice=name, aria_pressed="false") for name in THEMES]
    return element("div", join(buttons), class_="themes", role="group", aria_label="colours", hidden="hidden")


def _file(name: str) -> Markup:
    """A file of this folder, which is ours and needs no escape."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))
