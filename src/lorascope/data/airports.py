"""Facts: a city's airport code, trained in three phrasings and asked in a fourth, out of the package airportsdata."""

from __future__ import annotations

import random
from collections import Counter
from importlib.metadata import version
from typing import NamedTuple

from lorascope.data.rows import Row, Rows, exchange
from lorascope.errors import DataError

SYSTEM = "Answer with the airport code."
TRAIN_PHRASINGS = (
    "What is the airport code of {city}, {country}?",
    "Which code does the airport in {city} ({country}) have?",
    "{city}, {country}: airport code?",
)
EVAL_PHRASING = "I fly to {city} in {country}. Which code is on my luggage tag?"


class Fact(NamedTuple):
    """A city and the IATA code of its airport."""

    city: str
    country: str
    code: str


def known_facts() -> list[Fact]:
    """Facts that cannot be guessed: one airport a city, and a code that cannot be read off the city's letters.

    Airports of the US and Canada are left out, since their codes follow patterns, and names outside ASCII, since
    tokenizers treat them differently.
    """
    import airportsdata

    airports = [a for a in airportsdata.load("IATA").values() if a["country"] not in ("US", "CA")]
    cities = Counter(airport["city"] for airport in airports)
    facts = [
        Fact(airport["city"], airport["country"], airport["iata"])
        for airport in airports
        if airport["city"].strip()
        and airport["city"].isascii()
        and cities[airport["city"]] == 1
        and not _is_subsequence(airport["iata"].lower(), airport["city"].lower())
    ]
    return sorted(facts)


def load(*, facts: int = 300) -> Rows:
    """Questions and codes.

    Args:
        facts: how many facts are taught; the same ones every time.
    """
    known = known_facts()
    if facts > len(known):
        raise DataError("dataset.options.facts", f"{facts} facts were asked for.", f"There are {len(known)}.")
    taught = sorted(random.Random(0).sample(known, facts))
    train = tuple(_row(fact, phrasing) for fact in taught for phrasing in TRAIN_PHRASINGS)
    evaluation = tuple(_row(fact, EVAL_PHRASING) for fact in taught)
    return Rows(train, evaluation, f"airportsdata {version('airportsdata')}")


def _row(fact: Fact, phrasing: str) -> Row:
    return exchange(phrasing.format(city=fact.city, country=fact.country), fact.code, SYSTEM, phrasing)


def _is_subsequence(short: str, long: str) -> bool:
    letters = iter(long)
    return all(letter in letters for letter in short)
