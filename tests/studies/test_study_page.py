"""The page of a study, read as a browser would: it is whole, asks for nothing, and no name in it is markup."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import check_report
from lorascope.studies.curves import learning_curves, thinned
from lorascope.studies.findings import as_dict, find
from lorascope.studies.page.axes import Scale, linear_ticks, log_ticks, plain_number, scale
from lorascope.studies.page.coverage import coverages
from lorascope.studies.page.looks import DASHES, SHAPES, label_places, looks_of
from lorascope.studies.page.markup import VOID, element
from lorascope.studies.page.page import DATA, page_of
from lorascope.studies.pilot import edge, tried
from lorascope.studies.settings import plain
from studies.made_studies import HOSTILE, a_record, around, history, hostile, keep, make, ordinary

REQUESTS = {"src", "srcset", "action", "data", "poster", "background", "xlink:href", "formaction", "ping"}


class Page(HTMLParser):
    """What a page holds; elements that are not closed in their order fail."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        (self.scripts if inside == "script" else self.words).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(folder) -> Page:
    return Page(page_of(find(folder)))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    ordinary(folder)
    return folder


@pytest.fixture(scope="module")
def harmful(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    hostile(folder)
    return folder


@pytest.fixture(params=["usual", "harmful"])
def folder(request):
    return request.getfixturevalue(request.param)


def test_the_page_is_whole_and_every_name_in_it_is_once_there(folder):
    found = page(folder)
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(names) == len(set(names))
    for link in found.all("a"):
        assert str(link["href"]).removeprefix("#") in names
    assert [attributes["id"] for attributes in found.all("section")] == [
        *("verdict", "results", "front", "learning", "rates", "metrics", "forgetting", "plans", "cost", "environment"),
    ]
    assert all(picture.get("aria-label") or picture.get("aria-hidden") for picture in found.all("svg"))


def test_the_page_asks_nobody_for_anything(folder):
    text = page_of(find(folder))
    found = Page(text)
    for tag, attributes in found.elements:
        assert not REQUESTS & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#")
        assert "url(" not in str(attributes.get("style"))
    assert {tag for tag, _ in found.elements}.isdisjoint({"img", "iframe", "object", "embed", "base", "form"})
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    ours = found.scripts[-1]
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|https?:", ours)


def test_hostile_names_are_text_and_nothing_else(harmful):
    found = page(harmful)
    assert [attributes.get("type") for attributes in found.all("script")] == ["application/json", None]
    words = " ".join(found.words)
    for name in HOSTILE:
        assert name in words
    told = json.loads(found.scripts[0])
    assert [arm["name"] for arm in told["study"]["arms"]] == [*HOSTILE, "broken"]
    assert not found.all("b") or all(set(attributes) <= {"dir"} for attributes in found.all("b"))


def test_the_data_in_the_page_is_the_report(usual):
    found = page(usual)
    (data,) = (attributes for attributes in found.all("script") if attributes.get("id"))
    assert data["id"] == DATA
    assert json.loads(found.scripts[0]) == json.loads(json.dumps(plain(as_dict(find(usual)))))


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
    from lorascope.studies.page.measured import spots

    found = [(one.arm, one.value, one.low, one.high) for one in spots(find(tmp_path), "airports", "exact_match")]
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
    labels = [attributes.get("aria-label") for attributes in page(usual).all("svg")]
    assert "q_v: q rank 8 in layers 0 to 2; v rank 8 in layers 0 to 2" in labels


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
@settings(max_examples=300, deadline=None)
def test_ticks_are_round_few_and_within_the_range(low, wide, most):
    high = low + wide
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        return
    found = linear_ticks(low, high, most)
    assert len(found) <= most
    assert found == sorted(set(found))
    assert all(low - 1e-6 * wide <= one <= high + 1e-6 * wide for one in found)
    if len(found) > 1:
        step = (found[-1] - found[0]) / (len(found) - 1)
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 3) in (1, 2, 5, 10)


@given(st.floats(1e-9, 1e9), st.floats(1.2, 1e6), st.integers(2, 8))
@settings(max_examples=300, deadline=None)
def test_logarithmic_ticks_are_few_and_within_the_range(low, factor, most):
    found = log_ticks(low, low * factor, most)
    assert len(found) <= most
    assert all(low <= one <= low * factor for one in found)


def test_a_scale_holds_all_values_and_nothing_leaves_it():
    one = scale([1.0, None, math.nan, 3.0], 10, 110)
    assert 10 < one(1.0) < one(2.0) < one(3.0) < 110
    assert one(2.0) == pytest.approx(60)
    assert one(1e9) == 110
    log = Scale(1, 100, 0, 10, log=True)
    assert log(10) == pytest.approx(5)
    assert log(0) == 0
    assert scale([], 0, 1).low < scale([], 0, 1).high
    assert plain_number([0.05, 0.1, 0.15])(0.1) == "0.10"
    assert plain_number([-20.0, 0.0, 20.0])(-20.0) == "−20"


@given(st.lists(st.tuples(st.floats(50, 340), st.floats(30, 200), st.text(min_size=1, max_size=30)), max_size=8))
@settings(max_examples=100, deadline=None)
def test_names_beside_points_never_lie_on_each_other(points):
    boxes = []
    for label in label_places(points, 46, 358, 20, 210):
        x, y = (float(re.search(rf' {key}="([-\d.]+)"', label)[1]) for key in "xy")
        boxes.append((x, y))
    assert len(boxes) <= len(points)
    for index, (x, y) in enumerate(boxes):
        assert 46 - 1 <= x <= 358
        assert all(abs(y - other) > 11 or abs(x - beside) > 6 for beside, other in boxes[:index])


def test_curves_are_thinned_evenly_and_keep_their_ends():
    steps = list(range(0, 5000, 7))
    found = thinned(steps, 60)
    assert len(found) == 60
    assert (found[0], found[-1]) == (steps[0], steps[-1])
    gaps = [b - a for a, b in pairwise(found)]
    assert max(gaps) - min(gaps) <= 7
    assert thinned([1, 2], 60) == [1, 2]


def test_arms_differ_in_colour_shape_or_dashes(tmp_path):
    make(tmp_path, {"airports": {f"arm{number}": {1: 0.1} for number in range(30)}})
    looks = looks_of(find(tmp_path).study)
    assert (
        len({(place and 1 + (place - 1) % 7, place % len(SHAPES), place % len(DASHES)) for place in looks.values()})
        == 30
    )


def test_texts_are_escaped_and_markup_is_not():
    made = element("p", "<&>", element("b", "x"), None, class_="a\"b'", data_x=1.25, hidden=None)
    assert made == '<p class="a&quot;b&#x27;" data-x="1.2">&lt;&amp;&gt;<b>x</b></p>'


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
        "<svg class=chart viewBox='0 0 10 10' width=10 aria-label=a><text x=5 y=5>far too long</text></svg>"
    )
    monkeypatch.setattr(sys, "argv", ["check_report.py", str(bad)])
    with pytest.raises(SystemExit) as end:
        check_report.main()
    assert end.value.code == 1
    err = capsys.readouterr().err
    for word in ("hello", "TypeError", "x.png", "px wide", "cut off: far too long", "its paper is"):
        assert word in err


def test_without_a_browser_the_check_says_so_and_passes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_report.py"])
    monkeypatch.setattr(check_report.shutil, "which", lambda name: None)
    check_report.main()
    assert capsys.readouterr().out.startswith("skipped: none of chromium")
