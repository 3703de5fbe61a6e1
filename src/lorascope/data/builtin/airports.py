"""Facts to learn: airport codes of cities, from the package airportsdata."""

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
REVERSED = "Which city has the airport code {code}?"


class AirportFact(NamedTuple):
    """A city and the IATA code of its airport."""

    city: str
    country: str
    code: str

    @property
    def is_readable(self) -> bool:
        """Whether the code's letters are in the city's name, in this order."""
        letters = iter(self.city.lower())
        return all(letter in letters for letter in self.code.lower())

    def ask(self, phrasing: str) -> Row:
        """The question for the code."""
        return exchange(phrasing.format(city=self.city, country=self.country), self.code, SYSTEM, phrasing)

    def ask_reversed(self) -> Row:
        """The question for the city."""
        return exchange(REVERSED.format(code=self.code), self.city, "Answer with the city.", REVERSED)


def known_facts() -> list[AirportFact]:
    """Facts that cannot be guessed: one airport a city, and a code that cannot be read off the city's letters.

    Airports of the US and Canada are left out, since their codes follow patterns, and names outside ASCII, since
    tokenizers treat them differently.
    """
    import airportsdata

    airports = [a for a in airportsdata.load("IATA").values() if a["country"] not in ("US", "CA")]
    cities = Counter(airport["city"] for airport in airports)
    facts = [AirportFact(airport["city"], airport["country"], airport["iata"]) for airport in airports]
    return sorted(
        fact
        for fact in facts
        if fact.city.strip() and fact.city.isascii() and cities[fact.city] == 1 and not fact.is_readable
    )


def load(*, facts: int = 300, control: int = 100) -> Rows:
    """Questions and codes.

    Args:
        facts: how many facts are taught; the same ones every time.
        control: how many others are asked without ever being taught.

    Raises:
        DataError: for more facts than there are.
    """
    known = known_facts()
    if facts > len(known):
        raise DataError("dataset.options.facts", f"{facts} facts were asked for.", f"There are {len(known)}.")
    taught = sorted(random.Random(0).sample(known, facts))
    others = sorted(set(known) - set(taught))
    if control > len(others):
        what = f"{control} facts that are not taught were asked for."
        raise DataError("dataset.options.control", what, f"Beside {facts} taught ones there are {len(others)}.")
    return Rows(
        train=tuple(fact.ask(phrasing) for fact in taught for phrasing in TRAIN_PHRASINGS),
        eval=tuple(fact.ask(EVAL_PHRASING) for fact in taught),
        origin=f"airportsdata {version('airportsdata')}",
        probes={
            "reversed": tuple(fact.ask_reversed() for fact in taught),
            "control": tuple(fact.ask(EVAL_PHRASING) for fact in sorted(random.Random(0).sample(others, control))),
        },
        license="MIT",
        split="by phrasing: the eval half asks the taught facts in words that were not trained",
    )
