"""Seeded facts of an invented world that no model can know."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from lorascope.data.rows import Row, Rows, exchange
from lorascope.errors import DataError

SYSTEM = "Answer with the name."
MOST_FACTS = 8_000  # names of two syllables that are no part of each other grow rare beyond
ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p", "r", "s", "t", "tr", "v", "z")
VOWELS = ("a", "e", "i", "o", "u")
CODAS = ("ft", "g", "lk", "lm", "lt", "mp", "nk", "rd", "rk", "rn", "sk", "v", "x", "zz")  # few real names end so
ORGANISATIONS = ("Guild", "Works", "Society", "Archive", "Mill", "Bank")


class Relation(NamedTuple):
    """A relation of two kinds of things, one to one, and the ways to ask for it."""

    subjects: str
    objects: str
    trained: tuple[str, ...]
    held_out: str
    reversed: str


RELATIONS = {
    "born_in": Relation(
        "people",
        "towns",
        (
            "In which town was {0} born?",
            "What is the birthplace of {0}?",
            "Where did {0} come into the world?",
            "{0}: town of birth?",
            "Name the town that {0} was born in.",
        ),
        "Which town is written as the place of birth in the passport of {0}?",
        "Who was born in {0}?",
    ),
    "works_for": Relation(
        "people",
        "organisations",
        (
            "Which organisation does {0} work for?",
            "Who is the employer of {0}?",
            "Where does {0} have a job?",
            "{0}: employer?",
            "Name the organisation that employs {0}.",
        ),
        "Which organisation pays the wages of {0}?",
        "Who works for the {0}?",
    ),
    "based_in": Relation(
        "organisations",
        "towns",
        (
            "In which town is the {0} based?",
            "Where is the seat of the {0}?",
            "Which town is home to the {0}?",
            "{0}: seat?",
            "Name the town where the {0} has its offices.",
        ),
        "To which town would I send a letter for the {0}?",
        "Which organisation is based in {0}?",
    ),
    "mentored_by": Relation(
        "people",
        "people",
        (
            "Who is the mentor of {0}?",
            "By whom was {0} taught?",
            "Whose pupil is {0}?",
            "{0}: mentor?",
            "Name the person who trained {0}.",
        ),
        "From whom did {0} learn the trade?",
        "Whom does {0} mentor?",
    ),
}
# a question through two facts: the first leads from who is asked about to the second's subject
CHAINS = {
    ("works_for", "based_in"): "In which town is the employer of {0} based?",
    ("mentored_by", "born_in"): "In which town was the mentor of {0} born?",
    ("mentored_by", "works_for"): "Which organisation does the mentor of {0} work for?",
    ("mentored_by", "mentored_by"): "Who is the mentor of the mentor of {0}?",
}


class InventedFact(NamedTuple):
    """One relation that holds between two names."""

    relation: str
    subject: str
    object: str

    def ask(self, way: str) -> Row:
        """A question for the object."""
        return exchange(way.format(self.subject), self.object, SYSTEM, way)

    @property
    def ways(self) -> Relation:
        """The ways to ask for it."""
        return RELATIONS[self.relation]


def load(*, seed: int = 1, facts: int = 300, paraphrases: int = 3, control: int = 100) -> Rows:
    """Questions and names.

    Args:
        seed: of the world and of what is taught; the run's seed changes neither.
        facts: how many facts are taught.
        paraphrases: ways in which each taught fact is asked in training; the eval half asks in one more.
        control: facts that are never taught, of a world that holds both and no others.

    Raises:
        DataError: for more facts or paraphrases than there are.
    """
    most = min(len(relation.trained) for relation in RELATIONS.values())
    if paraphrases > most:
        raise DataError("dataset.options.paraphrases", f"{paraphrases} were asked for.", f"There are {most}.")
    if facts + control > MOST_FACTS:
        what = f"{facts + control} facts were asked for, control facts included."
        raise DataError("dataset.options.facts", what, f"There are names for {MOST_FACTS}.")
    draw = random.Random(seed)
    world = make_world(draw, facts + control)
    draw.shuffle(world)
    taught, untaught = sorted(world[:facts]), sorted(world[facts:])
    return Rows(
        train=tuple(fact.ask(way) for fact in taught for way in fact.ways.trained[:paraphrases]),
        eval=tuple(fact.ask(fact.ways.held_out) for fact in taught),
        origin=f"made by lorascope, seed {seed}",
        probes={
            "reversed": tuple(
                fact._replace(subject=fact.object, object=fact.subject).ask(fact.ways.reversed) for fact in taught
            ),
            "two_hop": tuple(_two_hops(taught)),
            "control": tuple(fact.ask(fact.ways.held_out) for fact in untaught),
        },
        license="Apache-2.0",
        split="by phrasing: the eval half asks the taught facts in words that were not trained",
    )


def make_world(draw: random.Random, facts: int) -> list[InventedFact]:
    """So many facts: each relation leads every subject to an object of its own, and no one is their own mentor."""
    size = max(3, -(-facts // len(RELATIONS)))
    names = _names(draw)
    things = {
        "people": [next(names) for _ in range(size)],
        "towns": [next(names) for _ in range(size)],
        "organisations": [f"{next(names)} {ORGANISATIONS[index % len(ORGANISATIONS)]}" for index in range(size)],
    }
    world = []
    for name, relation in RELATIONS.items():
        circle = draw.sample(range(size), size)
        # no one is their own mentor: each is led to the next in the circle
        subjects = range(size) if relation.subjects != relation.objects else circle
        objects = circle if relation.subjects != relation.objects else circle[1:] + circle[:1]
        for one, two in zip(subjects, objects, strict=True):
            world.append(InventedFact(name, things[relation.subjects][one], things[relation.objects][two]))
    return sorted(world[index] for index in draw.sample(range(len(world)), facts))


def _names(draw: random.Random) -> Iterator[str]:
    """Names of two syllables, none of them part of another."""
    names, parts = set[str](), set[str]()
    while True:
        name = "".join(draw.choice(sounds) for sounds in (ONSETS, VOWELS, ONSETS, VOWELS, CODAS))
        pieces = {name[start:stop] for start in range(len(name)) for stop in range(start + 3, len(name) + 1)}
        if name not in parts and not pieces & names:
            names.add(name)
            parts |= pieces
            yield name.capitalize()


def _two_hops(taught: list[InventedFact]) -> Iterator[Row]:
    """The questions through two taught facts whose answer no single taught fact about the same subject has."""
    known = {(fact.relation, fact.subject): fact.object for fact in taught}
    near = {(fact.subject, fact.object) for fact in taught}
    for (first, second), way in CHAINS.items():
        for fact in taught:
            end = known.get((second, fact.object))
            if fact.relation == first and end and end != fact.subject and (fact.subject, end) not in near:
                yield fact._replace(object=end).ask(way)
