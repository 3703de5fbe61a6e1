import csv
from importlib.resources import files

import pytest

from lorascope.compose import compose
from lorascope.data import airports, home_intents
from lorascope.data.sources import load_rows
from lorascope.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def intents():
    return home_intents.load()


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


def test_home_intents_are_the_same_every_time(intents):
    assert home_intents.load.__wrapped__() == intents


def test_airport_facts_agree_with_the_packages_table():
    text = (files("airportsdata") / "airports.csv").read_text(encoding="utf-8")
    table = list(csv.DictReader(text.splitlines()))
    codes = {(row["city"], row["country"]): row["iata"] for row in table if row["iata"]}
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
        ("dataset.options.facts=many", "It takes int"),
        ("dataset.options.facts=true", "It takes int"),
        ("dataset.options.facts=0", "too small"),
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
