import ast
import operator

import pytest

from lorascope.compose import compose
from lorascope.data.builtin import arithmetic
from lorascope.data.sources import load_rows
from lorascope.errors import ConfigError, DataError

DO = {"+": operator.add, "-": operator.sub, "×": operator.mul}


def problem(row):
    left, sign, right, equals, question = row.prompt.split()
    assert (equals, question) == ("=", "?")
    return sign, int(left), int(right)


def either_way(rows):
    return {(sign, *sorted(numbers)) for sign, *numbers in map(problem, rows)}


@pytest.fixture(scope="module", params=["+-", "*", "+-*"])
def rows(request):
    return arithmetic.load(operations=request.param)


def test_answers_are_what_python_computes(rows):
    for row in (*rows.train, *rows.eval, *rows.probes["longer"]):
        sign, left, right = problem(row)
        assert ast.literal_eval(row.completion) == DO[sign](left, right) >= 0


def test_no_problem_is_there_twice_nor_with_its_numbers_swapped(rows):
    every = (*rows.train, *rows.eval, *rows.probes["longer"])
    assert len(either_way(every)) == len(every) == 1200 + 200 + 100


def test_the_probe_has_longer_numbers_than_training_and_the_eval_half_the_same(rows):
    def lengths(half):
        return {len(str(number)) for row in half for number in problem(row)[1:]}

    assert lengths(rows.train) == lengths(rows.eval) == {1, 2}
    assert lengths(rows.probes["longer"]) == {3}


def test_operations_come_about_as_often_as_each_other():
    rows = load_rows(compose(["dataset=arithmetic", "dataset.options.operations=+-*"]).dataset)
    signs = [problem(row)[0] for row in rows.train]
    assert all(300 < signs.count(sign) < 500 for sign in DO)


def test_a_seed_makes_the_same_problems():
    assert arithmetic.load() == arithmetic.load()
    assert arithmetic.load() != arithmetic.load(seed=2)
    assert [row.prompt for row in arithmetic.load().train[:2]] == ["74 - 2 = ?", "80 + 77 = ?"]


def test_the_number_of_problems_is_that_of_counting_them():
    for signs in ("+", "+*"):
        count = len({(sign, *sorted((a, b))) for sign in signs for a in range(10) for b in range(10)})
        half = arithmetic.load(digits=1, operations=signs, rows=count // 2 - 3, eval_rows=3, longer=5)
        assert len(half.train) == count // 2 - 3
        with pytest.raises(DataError, match=f"make {count}"):
            arithmetic.load(digits=1, operations=signs, rows=count // 2 - 2, eval_rows=3, longer=5)


def test_what_cannot_be_made_is_an_error():
    with pytest.raises(ConfigError, match="not made of"):
        arithmetic.load(operations="+/")
    with pytest.raises(DataError, match="longer: 6000"):
        arithmetic.load(operations="+", longer=6000)
