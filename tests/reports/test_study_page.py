"""The page of a study, read as a browser would: it is whole, asks for nothing, and no name in it is markup."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
import vl_convert
from rich.console import Console

import check_report
from lorascope.reports.findings import as_dict, find
from lorascope.reports.page import page_of
from lorascope.reports.page.values import coverages, looks_of, source
from lorascope.reports.run_table import plain
from lorascope.reports.seed_groups import edge, learning_curves, sampled_curves, thinned, tried
from lorascope.reports.study_report import write_report
from reports.made_studies import HOSTILE, a_record, around, history, hostile, keep, make, ordinary

REQUESTS = {"src", "srcset", "action", "data", "poster", "background", "xlink:href", "formaction", "ping"}
VOID = {"meta"}


class Page(HTMLParser):
    """What a page holds; elements that are not closed in their order fail."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}  # label -> rows of texts and data-sort
        self.label = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        named = dict(attrs)
        self.elements.append((tag, named))
        self.label = str(named["aria-label"]) if named.get("class") == "scroll" else self.label
        if tag == "tr":
            self.tables.setdefault(self.label, []).append([])
        elif tag in ("th", "td"):
            self.tables[self.label][-1].append(("", named.get("data-sort")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        (self.scripts if inside == "script" else self.words).append(data)
        if "th" in self.open or "td" in self.open:
            text, sort = self.tables[self.label][-1][-1]
            self.tables[self.label][-1][-1] = (text + data, sort)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self, identity: str):
        names = [attributes.get("id") for attributes in self.all("script")]
        return json.loads(self.scripts[names.index(identity)])

    @property
    def charts(self) -> dict[str, dict]:
        """Each chart's specification, by what it says it shows."""
        return {spec["description"]: spec for spec in self.data("charts")["specs"]}


def page(folder) -> Page:
    return Page(page_of(find(folder)))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    ordinary(folder)
    write_report(folder, Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def harmful(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    hostile(folder)
    return folder


@pytest.fixture(params=["usual", "harmful"])
def folder(request):
    return request.getfixturevalue(request.param)


def table(folder, name):
    with (folder / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_is_whole_and_every_name_in_it_is_once_there(folder):
    found = page(folder)
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(names) == len(set(names))
    links = [str(link["href"]) for link in found.all("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(names)
    assert all((folder / unquote(link)).is_dir() for link in links if not link.startswith("#"))
    assert sum(not link.startswith("#") for link in links) >= len(find(folder).records)
    assert [attributes["id"] for attributes in found.all("section")] == [
        *("verdict", "results", "front", "learning", "rates", "metrics", "forgetting", "plans", "cost", "environment"),
    ]
    assert all(picture.get("aria-hidden") for picture in found.all("svg"))
    assert all(figure.get("aria-label") for figure in found.all("figure"))
    charts = [place["data-chart"] for place in found.all("div") if "data-chart" in place]
    assert charts == [str(number) for number in range(len(found.data("charts")["specs"]))]


def test_the_page_asks_nobody_for_anything(folder):
    text = page_of(find(folder))
    found = Page(text)
    for tag, attributes in found.elements:
        assert not REQUESTS & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert str(attributes.get("href", "#")).startswith(("#", "./"))
        assert "url(" not in str(attributes.get("style"))
    assert {tag for tag, _ in found.elements}.isdisjoint({"img", "iframe", "object", "embed", "base", "form"})
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "url" not in keys_of(found.data("charts"))
    ours = found.scripts[-1]
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|https?:", ours)


def keys_of(value) -> set[str]:
    """Every key in it, at any depth."""
    if isinstance(value, dict):
        return set(value) | {key for one in value.values() for key in keys_of(one)}
    return {key for one in value for key in keys_of(one)} if isinstance(value, list) else set()


def test_hostile_names_are_text_and_nothing_else(harmful):
    found = page(harmful)
    assert [one.get("type") for one in found.all("script")] == [*["application/json"] * 3, None, None]
    assert {tag for tag, _ in found.elements}.isdisjoint({"img", "object"})
    words = " ".join(found.words)
    for name in HOSTILE:
        assert name in words
    assert [arm["name"] for arm in found.data("study-data")["study"]["arms"]] == [*HOSTILE, "broken"]
    assert found.data("arms") == [*HOSTILE, "broken"]
    drawn = {row["arm"] for spec in found.charts.values() for row in spec.get("datasets", {}).get("arms", [])}
    assert drawn >= set(HOSTILE)
    assert not found.all("b") or all(set(attributes) <= {"dir"} for attributes in found.all("b"))


def test_a_run_whose_name_is_an_address_leads_nowhere_else(usual):
    made = source(find(usual), {}, None)
    for name in ("javascript:alert(1)", "//example.com", "https://example.com", "a b#c?d"):
        link = made.link(name)
        assert link == "./" + link.removeprefix("./")
        assert not set(":#? ") & set(link)
        assert unquote(link) == f"./{name}/"


def test_links_lead_to_the_runs_from_wherever_the_page_lies(usual, tmp_path):
    text = page_of(find(usual), tmp_path / "deep" / "page.html")
    (tmp_path / "deep").mkdir()
    links = [str(link["href"]) for link in Page(text).all("a") if not str(link["href"]).startswith("#")]
    assert links
    assert all((tmp_path / "deep" / unquote(link)).is_dir() for link in links)


def test_the_data_in_the_page_is_the_report(usual):
    found = page(usual)
    assert found.data("study-data") == json.loads(json.dumps(plain(as_dict(find(usual)))))
    assert found.data("study-data") == json.loads((usual / "report.json").read_text())


def test_charts_hold_the_values_of_results_csv_and_seeds_those_of_runs_csv(usual):
    charts, runs = page(usual).charts, table(usual, "runs.csv")
    for task in ("airports", "arithmetic"):
        rows = [row for row in table(usual, "results.csv") if row["task"] == task]
        panel = charts[f"{task}: exact_match of each arm, with intervals"]["datasets"]
        wanted = {row["arm"]: float(row["mean"]) for row in rows if row["mean"]}
        assert {row["arm"]: row["value"] for row in panel["arms"]} == wanted
        low = {row["arm"]: float(row["low"]) for row in rows if row["low"]}
        assert {row["arm"]: row["low"] for row in panel["arms"]} == low
        of = charts[f"{task}, as given: differences to q_v in exact_match with intervals"]["datasets"]
        wanted = {row["arm"]: float(row["difference"]) for row in rows if row["difference"]}
        assert {row["arm"]: row["value"] for row in of["arms"]} == wanted
        seeds = {row["href"]: (row["arm"], row["seed"], row["value"]) for row in panel["seeds"]}
        done = [row for row in runs if (row["task"], row["stage"], row["status"]) == (task, "final", "done")]
        assert seeds == {
            f"./{row['name']}/": (row["arm"], int(row["seed"]), float(row["metrics.exact_match"])) for row in done
        }
        for arm, difference in wanted.items():
            values = [row["value"] for row in of["seeds"] if row["arm"] == arm]
            assert statistics.fmean(values) == pytest.approx(difference)


def test_the_front_is_drawn_through_its_arms_and_the_others_are_hollow(usual):
    found = page(usual)
    name = "airports: exact_match against trainable parameters; on the front: q_v, ffn"
    rows = {row["arm"]: (row["x"], row["hollow"]) for row in found.charts[name]["datasets"]["arms"]}
    assert rows == {"q_v": (1000, False), "ffn": (2000, False), "qkvo": (3000, True), "late": (5000, True)}


def test_vega_lite_draws_every_chart_with_a_link_for_every_seed(folder):
    found = page(folder)
    config = found.data("charts")["config"]
    assert found.charts
    for name, spec in found.charts.items():
        drawn = vl_convert.vegalite_to_svg(spec | {"width": 300}, vl_version="6.4", config=config)
        links = Counter(re.findall(r'<a (?:xlink:)?href="[^"]*?(\./[^"]*)"', drawn))
        assert links == Counter(row["href"] for row in spec.get("datasets", {}).get("seeds", [])), name


def test_an_arm_looks_the_same_in_every_chart_and_no_chart_ignores_the_legend(usual):
    looks = set()
    for spec in page(usual).charts.values():
        for layer in spec["layer"]:
            if layer["data"].get("name") in ("arms", "seeds"):
                assert layer["transform"][0] == {"filter": "indexof(hidden, datum.arm) < 0"}
                scales = [layer["encoding"].get(key, {}).get("scale") for key in ("color", "stroke")]
                looks |= {json.dumps(scale) for scale in scales if scale}
    assert len(looks) == 1


def test_tables_sort_by_the_exact_numbers(usual):
    head, *rows = page(usual).tables["airports, as given: results"]
    names = [name for name, _ in head]
    found = {row[0][0].strip(): dict(zip(names, row, strict=True)) for row in rows}
    for row in (row for row in table(usual, "results.csv") if row["task"] == "airports"):
        one = found[row["arm"]]
        for column, field in (("exact_match", "mean"), ("parameters", "parameters"), ("seeds", "n")):
            sort = one[column][1]
            assert (float(sort) if sort else None) == (float(row[field]) if row[field] else None)


def test_every_arm_is_in_the_results_with_its_verdict(usual):
    text = page_of(find(usual))
    results = text[text.index('id="results"') : text.index('id="front"')]
    for arm in ("q_v", "ffn", "qkvo", "broken", "late"):
        assert results.count(f"<bdi>{arm}</bdi>") == 2
    words = "".join(Page(f"<p>{results[results.index('>') + 1 :].partition('</section>')[0]}</p>").words)
    assert "5 failed (ValueError: no)" in words


def test_the_verdict_is_said_in_sentences(usual):
    text = page_of(find(usual))
    begin = text.index('id="verdict"')
    words = "".join(Page(f"<p>{text[text.index('>', begin) + 1 : text.index('</section>', begin)]}</p>").words)
    words = words.replace("\u00a0", " ")
    assert "ffn (+30.0 [29.4, 30.6]) is better than q_v." in words
    assert "qkvo (0.0 [−0.1, 0.1]) is equivalent to q_v." in words
    assert "broken has too few seeds for a verdict: 0 of 5 seeds: 5 failed" in words
    assert "ffn (−20.0 [−20.0, −20.0]) is worse than q_v." in words


def test_a_study_of_one_seed_shows_the_records_intervals(tmp_path):
    make(tmp_path, {"airports": {"q_v": {1: 0.4}, "ffn": {1: 0.6}}})
    rows = page(tmp_path).charts["airports: exact_match of each arm, with intervals"]["datasets"]["arms"]
    found = [(row["arm"], row["value"], row["low"], row["high"]) for row in rows]
    assert found == [("q_v", 0.4, 0.4 - 0.1, 0.4 + 0.1), ("ffn", 0.6, 0.6 - 0.1, 0.6 + 0.1)]
    assert "too few seeds for a verdict" in "".join(page(tmp_path).words)


def test_curves_are_means_over_seeds_between_the_lowest_and_the_highest(tmp_path):
    make(tmp_path, {"airports": {"q_v": around(0.3, 3)}})
    ends = [0.1, 0.5, 0.9]
    for index, end in enumerate(ends):
        keep(tmp_path, a_record("q_v", "airports", index + 1, 0.3), f"{index}-s{index + 1}", history(end, 10 + index))
    found = find(tmp_path)
    key, (curve,) = learning_curves(found.study, found.records, tmp_path, "airports")
    losses = [{row["step"]: row["loss"] for row in history(end, 10 + index)} for index, end in enumerate(ends)]
    assert key == "loss"
    assert curve.steps == list(range(1, 11))  # the later steps are not of all seeds
    assert curve.mean == pytest.approx([statistics.fmean(one[step] for one in losses) for step in curve.steps])
    assert curve.low == pytest.approx([min(one[step] for one in losses) for step in curve.steps])
    assert curve.high == pytest.approx([max(one[step] for one in losses) for step in curve.steps])


def test_the_eval_loss_is_shown_where_it_was_measured_while_training(tmp_path):
    made = make(tmp_path, {"airports": {"q_v": around(0.3)}})
    for run in made.runs:
        rows = [{"step": step, "eval_loss": 3 - step / 10} for step in range(0, 20, 4)]
        keep(tmp_path, a_record("q_v", "airports", run.seed, 0.3), run.name, [*history(1.0), *rows, {"step": 21}])
    found = find(tmp_path)
    key, (curve,) = learning_curves(found.study, found.records, tmp_path, "airports")
    assert (key, curve.steps) == ("eval_loss", [0, 4, 8, 12, 16])


def test_the_pilots_losses_and_its_edges(usual):
    found = find(usual)
    every = tried(found.study, found.records, "airports")
    assert [(one.arm, one.rate, pytest.approx(one.loss)) for one in every] == [
        *(("q_v", rate, loss) for rate, loss in ((1e-3, 0.9), (2e-3, 0.7), (4e-3, 0.8))),
        *(("ffn", rate, loss) for rate, loss in ((1e-3, 0.5), (2e-3, 0.4))),
    ]
    assert edge(every, "q_v", 2e-3) == ""
    assert edge(every, "ffn", 2e-3) == "highest"
    assert edge(every, "q_v", 1e-3) == "lowest"
    assert edge(every, "qkvo", None) == ""
    assert "0.002, the highest that was tried" in "".join(page(usual).words)


def test_the_plans_are_pictured_with_their_ranks(usual):
    found = find(usual)
    by_arm = {one.arm: one.ranks for one in coverages(found.study, found.records)}
    assert by_arm["q_v"] == {(layer, role): "8" for layer in range(3) for role in ("q", "v")}
    assert set(by_arm) == {"q_v", "ffn", "qkvo", "broken", "late"}
    drawn = page(usual).charts["q_v: q rank 8 in layers 0 to 2; v rank 8 in layers 0 to 2"]
    blocks = drawn["layer"][1]["data"]["values"]
    assert [(one["role"], one["from"], one["to"], one["rank"]) for one in blocks] == [
        ("q", 0, 3, "8"),
        ("v", 0, 3, "8"),
    ]


def test_curves_are_thinned_evenly_and_keep_their_ends():
    steps = list(range(0, 5000, 7))
    found = thinned(steps, 60)
    assert len(found) == 60
    assert (found[0], found[-1]) == (steps[0], steps[-1])
    gaps = [b - a for a, b in pairwise(found)]
    assert max(gaps) - min(gaps) <= 7
    assert thinned([1, 2], 60) == [1, 2]


def test_arms_differ_in_color_or_shape(tmp_path):
    make(tmp_path, {"airports": {f"arm{number}": {1: 0.1} for number in range(42)}})
    looks = looks_of(find(tmp_path).study)
    assert len({(look.color, look.shape) for look in looks.values()}) == 42
    assert looks["arm0"].color == 0
    assert all(look.color for name, look in looks.items() if name != "arm0")


def test_another_process_makes_the_same_bytes(usual):
    code = (
        "import sys; from pathlib import Path; from lorascope.reports.findings import find; "
        "from lorascope.reports.page import page_of; "
        "sys.stdout.buffer.write(page_of(find(Path(sys.argv[1]))).encode())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(usual)], capture_output=True, check=True, timeout=120)
    assert done.stdout == (usual / "report.html").read_bytes()


def test_the_templates_are_in_the_wheel(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=Path(__file__).parents[2], check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    held = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "/page/templates/" in name}
    assert held == {"page.html.j2", "parts.html.j2", "page.js", "live.js", "style.css"}


def contrast(first: str, second: str) -> float:
    """WCAG's ratio of two colours, 1 to 21."""

    def light(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dark = sorted((light(first), light(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_texts_and_marks_stand_out_from_their_ground_in_both_themes(usual):
    style = re.search(r"<style>(.*?)</style>", page_of(find(usual)), re.DOTALL)[1]
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r"\{([^{}]*--paper: [^{}]*)\}", style)
    ]
    assert len(themes) == 3
    assert themes[1] == themes[2]  # dark because of the system, and because of the button
    for theme in themes:
        for text in ("ink", "soft", "link"):
            assert contrast(theme[text], theme["paper"]) >= 4.5
            assert contrast(theme[text], theme["sheet"]) >= 4.5
        for badge in ("good", "bad", "same", "open", "warn"):
            assert contrast(theme[badge], theme[f"{badge}-on"]) >= 4.5
        for index in range(8):
            assert contrast(theme[f"c{index}"], theme["paper"]) >= 3
            assert contrast(theme[f"c{index}"], theme["sheet"]) >= 3


CHROMIUM = next(filter(None, map(shutil.which, check_report.BROWSERS)), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_browser_check_finds_what_is_wrong(tmp_path, monkeypatch, capsys):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><img src='http://127.0.0.1:9/x.png'>"
        "<div style='width:3000px'>wide</div><script>console.log('hello'); null.x</script>"
        "<div class=chart style='width:10px' data-chart=0>"
        "<svg viewBox='0 0 10 10' width=10><text x=5 y=5>far too long</text></svg></div>"
    )
    monkeypatch.setattr(sys, "argv", ["check_report.py", str(bad)])
    monkeypatch.setattr(check_report, "DRAWING", 0.5)
    with pytest.raises(SystemExit) as end:
        check_report.main()
    assert end.value.code == 1
    err = capsys.readouterr().err
    for word in (
        "hello",
        "TypeError",
        "x.png",
        "px wide",
        "cut off: far too long",
        "its paper is",
        "there is no dot",
        "0 of 1 charts",
    ):
        assert word in err


def test_without_a_browser_the_check_says_so_and_passes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_report.py"])
    monkeypatch.setattr(check_report.shutil, "which", lambda name: None)
    check_report.main()
    assert capsys.readouterr().out.startswith("skipped: none of chromium")


def test_metrics_while_training_are_drawn_by_step_and_against_what_is_forgotten(tmp_path):
    study = make(tmp_path, {"airports": {"q_v": {1: 0.5, 2: 0.6}, "ffn": {1: 0.7, 2: 0.8}}})
    for run in study.runs:
        rows = [
            {
                "step": step,
                "loss": 1.0,
                "sample/exact_match": 0.1 * step + run.seed,
                "sample/forgetting_kl": 0.01 * step,
            }
            for step in (2, 4, 6)
        ]
        (tmp_path / run.name / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = find(tmp_path)
    curves = sampled_curves(study, found.records, tmp_path, "airports")
    assert list(curves) == ["exact_match", "forgetting_kl"]
    for curve in curves["exact_match"]:
        assert curve.steps == [2, 4, 6]
        assert curve.mean == pytest.approx([1.7, 1.9, 2.1])
        assert (curve.low[0], curve.high[0]) == pytest.approx((1.2, 2.2))
    charts = page(tmp_path).charts
    path = charts["airports: exact_match against forgetting_kl from step to step, a path for each arm"]
    rows = [row for row in path["datasets"]["arms"] if row["arm"] == "ffn"]
    assert [(row["step"], row["lost"], row["last"]) for row in rows] == [
        (2, pytest.approx(0.02), False), (4, pytest.approx(0.04), False), (6, pytest.approx(0.06), True),
    ]  # fmt: skip
    assert "airports: exact_match by step" in charts
