import hashlib
import itertools
import json
import random
import re

import airportsdata
import pytest

from lorascope.compose import compose
from lorascope.data.builtin import fictional_world
from lorascope.data.builtin.fictional_world import CHAINS, RELATIONS
from lorascope.data.sources import load_rows
from lorascope.errors import DataError

WAYS = {way: name for name, relation in RELATIONS.items() for way in (*relation.trained, relation.held_out)}


def asked(row):
    """Who a question is about, read back out of its words."""
    before, after = row.group.split("{0}")
    return re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", row.prompt)[1]


def facts(rows):
    return {(WAYS[row.group], asked(row), row.completion) for row in rows}


@pytest.fixture(scope="module")
def world():
    return fictional_world.load()


def test_each_fact_is_trained_in_its_paraphrases_and_asked_in_one_more(world):
    assert (len(world.train), len(world.eval)) == (900, 300)
    assert facts(world.train) == facts(world.eval)
    assert len(facts(world.eval)) == 300
    assert not {row.group for row in world.train} & {row.group for row in world.eval}


def test_every_question_has_one_answer_in_the_whole_world(world):
    every = facts(world.train) | facts(world.probes["control"])
    assert len({(relation, subject) for relation, subject, _ in every}) == len(every)
    assert len({(relation, thing) for relation, _, thing in every}) == len(every)


def test_the_reversed_probe_asks_every_taught_fact_from_its_other_end(world):
    relations = {relation.reversed: name for name, relation in RELATIONS.items()}
    back = {(relations[row.group], row.completion, asked(row)) for row in world.probes["reversed"]}
    assert back == facts(world.train)


def test_control_facts_are_of_the_same_things_and_never_taught(world):
    control = facts(world.probes["control"])
    assert len(control) == 100
    assert not control & facts(world.train)
    named = {name for _, subject, thing in facts(world.train) for name in (subject, thing)}
    assert sum({subject, thing} <= named for _, subject, thing in control) > 60


def test_two_hops_are_all_pairs_of_taught_facts_whose_end_no_taught_fact_tells(world):
    taught = facts(world.train)
    expected = set()
    for one, two in itertools.product(taught, taught):
        told = {thing for _, subject, thing in taught if subject == one[1]}
        if one[2] == two[1] and (one[0], two[0]) in CHAINS and two[2] not in {*told, one[1]}:
            expected.add((CHAINS[one[0], two[0]].format(one[1]), two[2]))
    found = [(row.prompt, row.completion) for row in world.probes["two_hop"]]
    assert set(found) == expected
    assert len(found) == len(expected) > 100


def test_two_hop_questions_are_never_trained(world):
    trained = {(row.prompt, row.completion) for row in world.train}
    assert not trained & {(row.prompt, row.completion) for row in world.probes["two_hop"]}
    assert not {row.group for row in world.train} & set(CHAINS.values())


def test_names_are_all_different_and_no_part_of_another_and_no_real_town():
    draw = fictional_world._names(random.Random(5))
    names = [next(draw) for _ in range(600)]
    for one, two in itertools.permutations(names, 2):
        assert one.lower() not in two.lower()
    real = {
        word for a in airportsdata.load("IATA").values() for word in re.findall(r"\w+", a["city"] + " " + a["name"])
    }
    assert not real & set(names)


def test_no_one_is_their_own_mentor():
    for seed in range(1, 30):
        rows = fictional_world.load(seed=seed, facts=8, control=1)
        for relation, subject, thing in facts((*rows.train, *rows.probes["control"])):
            assert relation != "mentored_by" or subject != thing


def test_a_seed_makes_the_same_world_on_every_machine(world):
    assert fictional_world.load() == world
    assert fictional_world.load(seed=2) != world
    told = json.dumps([[row.prompt, row.completion] for row in (*world.train, *world.probes["two_hop"])])
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "cf5cbd94c9b33932"


@pytest.mark.parametrize("paraphrases", [1, 5])
def test_paraphrases_are_as_many_as_asked_for(paraphrases):
    rows = load_rows(compose(["dataset=fictional_world", f"dataset.options.paraphrases={paraphrases}"]).dataset)
    assert len(rows.train) == 300 * paraphrases
    assert facts(rows.train) == facts(rows.eval)


@pytest.mark.parametrize(
    ("options", "says"), [({"paraphrases": 6}, "There are 5"), ({"facts": 30_000}, "names for 8000")]
)
def test_more_than_there_is_is_an_error(options, says):
    with pytest.raises(DataError, match=says):
        fictional_world.load(**options)


def test_the_largest_world_has_names_for_all():
    rows = fictional_world.load(facts=fictional_world.MOST_FACTS - 1, control=1, paraphrases=1)
    assert len(facts(rows.train)) == fictional_world.MOST_FACTS - 1
