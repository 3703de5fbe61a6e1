import csv
import importlib
import inspect
from importlib.resources import files

import pytest

from lorascope.compose import compose
from lorascope.data.builtin import airports, home_intents
from lorascope.data.rows import shared_prompts
from lorascope.data.sources import SOURCES, load_rows
from lorascope.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def intents():
    return load_rows(compose(["dataset=home_intents"]).dataset)


def test_home_intents_has_19_intents_on_both_sides(intents):
    assert len({row.completion for row in intents.train}) == 19
    assert {row.completion for row in intents.eval} == {row.completion for row in intents.train}


def test_home_intents_never_shares_a_template_or_a_sentence_between_the_halves(intents):
    assert not {row.group for row in intents.train} & {row.group for row in intents.eval}
    sentences = [row.prompt for half in (intents.train, intents.eval) for row in half]
    assert len(sentences) == len(set(sentences))


def test_home_intents_are_sentences_that_hassil_recognises_as_their_intent(intents):
    """The library's own recogniser, given the same words, finds the intent back, wherever it finds any.

    It finds none where a template wants to know more of the home than the sentence says (the kind of device).
    """
    import json

    from hassil import recognize_all
    from hassil.intents import Intents, TextSlotList

    raw = json.loads((files("home_assistant_intents") / "data" / "en.json").read_text())
    lists = {name: TextSlotList.from_strings(words) for name, words in home_intents.WORDS.items()}
    book = Intents.from_dict(raw)
    recognised = 0
    rows = intents.eval[::5]
    for row in rows:
        found = {
            result.intent.name.removeprefix("Hass") for result in recognize_all(row.prompt, book, slot_lists=lists)
        }
        assert not found or row.completion in found, (row, found)
        recognised += bool(found)
    assert recognised > len(rows) / 2


def test_home_intents_name_their_labels_and_what_divides_them(intents):
    assert intents.labels == tuple(sorted({row.completion for row in intents.train}))
    assert (intents.license, "template" in intents.split) == ("Apache-2.0", True)


def test_home_intents_are_the_same_every_time(intents):
    assert home_intents.load.__wrapped__() == intents


def airports_table():
    text = (files("airportsdata") / "airports.csv").read_text(encoding="utf-8")
    return [row for row in csv.DictReader(text.splitlines()) if row["iata"]]


def test_airport_facts_agree_with_the_packages_table():
    codes = {(row["city"], row["country"]): row["iata"] for row in airports_table()}
    facts = airports.known_facts()
    assert len(facts) > 2000
    for fact in facts:
        assert codes[fact.city, fact.country] == fact.code
        assert fact.country not in ("US", "CA")


def test_airports_ask_the_taught_facts_in_a_phrasing_that_was_not_trained():
    rows = airports.load(facts=50)
    assert len(rows.train) == 150
    assert len(rows.eval) == 50
    assert not {row.group for row in rows.train} & {row.group for row in rows.eval}
    assert {row.completion for row in rows.eval} == {row.completion for row in rows.train}


def test_airports_reversed_ask_for_the_city_of_every_taught_code():
    rows = airports.load(facts=50)
    codes = {(row["iata"], row["city"]) for row in airports_table()}
    assert {row.prompt.removesuffix("?")[-3:] for row in rows.probes["reversed"]} == {r.completion for r in rows.eval}
    for row in rows.probes["reversed"]:
        assert (row.prompt.removesuffix("?")[-3:], row.completion) in codes


def test_airports_control_are_airports_that_training_never_names():
    rows = airports.load(facts=50, control=40)
    control = {row.completion for row in rows.probes["control"]}
    assert len(control) == 40
    assert not control & {row.completion for row in rows.train}
    assert {row.group for row in rows.probes["control"]} == {airports.EVAL_PHRASING}
    with pytest.raises(DataError, match=r"options\.control.*\n.*there are 1"):
        airports.load(control=10**6)


def test_caps_take_the_same_rows_every_time():
    words = ["dataset=airports", "dataset.max_train_samples=20", "dataset.max_eval_samples=5"]
    rows = load_rows(compose(words).dataset)
    assert (len(rows.train), len(rows.eval)) == (20, 5)
    assert load_rows(compose([*words, "seed=7"]).dataset) == rows


def test_more_facts_than_there_are_is_an_error():
    with pytest.raises(DataError, match="There are 2"):
        airports.load(facts=10**6)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("dataset.options.fact=3", "Did you mean dataset.options.facts"),
        ("dataset.options.facts=many", "must be of type int"),
        ("dataset.options.facts=true", "must be of type int"),
        ("dataset.options.facts=0", "must be > 0"),
        ("dataset.source=nope", "There are: home_intents, airports"),
    ],
)
def test_options_are_checked_at_the_door(word, says):
    with pytest.raises(ConfigError, match=says):
        compose(["dataset=airports", word])


def test_a_missing_package_of_data_is_named_with_the_remedy(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "airportsdata" else real(name, *a)
    )
    with pytest.raises(DataError, match=r"airportsdata, which is not installed.\n  Run: pip install"):
        load_rows(compose(["dataset=airports"]).dataset)


EMBEDDED = ["home_intents", "airports", "fictional_world", "kjv_style", "arithmetic"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_embedded_set_tells_its_license_split_and_metrics_and_shares_no_prompt(name):
    dataset = compose([f"dataset={name}"]).dataset
    rows = load_rows(dataset)
    assert dataset.metrics
    assert rows.license
    assert rows.split
    assert shared_prompts(rows) == []
    for probe in rows.probes.values():
        assert probe
        assert not {row.prompt for row in probe} & {row.prompt for row in rows.train}


def test_options_of_each_config_file_are_the_defaults_of_its_source():
    for name in (*EMBEDDED, "sms_spam"):
        dataset = compose([f"dataset={name}"]).dataset
        parameters = inspect.signature(importlib.import_module(SOURCES[dataset.source][0]).load).parameters
        assert dataset.options == {option: parameter.default for option, parameter in parameters.items()}
