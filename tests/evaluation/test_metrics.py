import math
import random

import pytest

from lorascope.evaluation.metrics import TASK_METRICS, Answer, Needs, TaskMetric, interval, value_of


def f1_by_hand(pairs: list[tuple[str, str]]) -> float:
    """Per label 2 TP / (2 TP + FP + FN), averaged over the labels that are right somewhere."""
    labels = {gold for gold, _ in pairs}
    found = []
    for label in labels:
        hit = sum(gold == label == chosen for gold, chosen in pairs)
        wrong = sum((gold == label) != (chosen == label) for gold, chosen in pairs)
        found.append(2 * hit / (2 * hit + wrong))
    return sum(found) / len(found)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_the_mean_of_the_labels_f1(seed):
    draw = random.Random(seed)
    pairs = [(draw.choice("abbbc"), draw.choice("abcd")) for _ in range(40)]
    answers = [Answer("", gold, choice=chosen) for gold, chosen in pairs]
    assert value_of(TASK_METRICS["macro_f1"], answers) == pytest.approx(f1_by_hand(pairs))
    right = sum(gold == chosen for gold, chosen in pairs) / len(pairs)
    assert value_of(TASK_METRICS["accuracy"], answers) == pytest.approx(right)


@pytest.mark.parametrize(
    ("written", "right", "score"),
    [
        ("LIS", ("LIS",), 1), (" lis.\n", ("LIS",), 1), ("LIS is it", ("LIS",), 0), ("", ("LIS",), 0),
        ("New  York", ("Paris", "new york"), 1), ("7.", ("7",), 1), ("77", ("7",), 0),
    ],
)  # fmt: skip
def test_exact_match_forgives_case_spaces_and_a_full_stop(written, right, score):
    answer = Answer("", right[0], right[1:], text=written)
    assert TASK_METRICS["exact_match"].score(answer) == score


@pytest.mark.parametrize(
    ("written", "right", "score"),
    [
        ("so 3 + 4 = 7", "#### 7", 1), ("1,250 dollars", "a\n#### 1250", 1), ("7.0", "7", 1), ("-3", "3", 0),
        ("none", "3", 0), ("3 then 4", "3", 0),
    ],
)  # fmt: skip
def test_the_final_number_is_the_last_one(written, right, score):
    assert TASK_METRICS["final_number"].score(Answer("", right, text=written)) == score


def chrf_by_hand(text: str, right: str) -> float:
    """Popović (2015) with sacrebleu's defaults: characters 1 to 6 without spaces, beta 2, mean of the orders' F."""
    one, other, found = text.replace(" ", ""), right.replace(" ", ""), []
    for order in range(1, 7):
        left = [one[i : i + order] for i in range(len(one) - order + 1)]
        rest = [other[i : i + order] for i in range(len(other) - order + 1)]
        if not left or not rest:
            continue
        hits = sum(min(left.count(gram), rest.count(gram)) for gram in set(left))
        precision, recall = hits / len(left), hits / len(rest)
        found.append((precision, recall))
    precision = sum(p for p, _ in found) / len(found)
    recall = sum(r for _, r in found) / len(found)
    return 100 * 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


def test_chrf_is_the_published_formula_and_its_gain_is_over_copying():
    modern, archaic = "you have spoken to your father", "thou hast spoken unto thy father"
    answer = Answer(modern, archaic, text="thou hast spoken to thy father")
    written, copied = chrf_by_hand(answer.text, archaic), chrf_by_hand(modern, archaic)
    assert TASK_METRICS["chrf"].score(answer) == pytest.approx(written, abs=1e-6)
    assert TASK_METRICS["chrf_gain"].score(answer) == pytest.approx(written - copied, abs=1e-6)


def test_the_gold_log_probability_is_minus_the_loss_of_an_answer():
    answers = [Answer("", "x", nats=2.0, tokens=3), Answer("", "y", nats=5.0, tokens=1)]
    assert value_of(TASK_METRICS["gold_logprob"], answers) == -3.5


def test_a_share_has_wilsons_interval_at_none_and_all_too():
    z = 1.959963984540054
    for hits, items in ((0, 40), (13, 40), (40, 40)):
        answers = [Answer("", "a", choice="a" if index < hits else "b") for index in range(items)]
        share = hits / items
        middle = (share + z * z / (2 * items)) / (1 + z * z / items)
        half = z / (1 + z * z / items) * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
        low, high = interval(TASK_METRICS["accuracy"], answers)
        assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_a_means_interval_holds_the_truth_in_about_95_of_100_samples():
    """Coverage, counted: the percentile bootstrap of 60 items falls a little short of its promise."""
    held = 0
    for seed in range(200):
        draw = random.Random(seed)
        answers = [Answer("", "a", nats=draw.expovariate(1.0)) for _ in range(60)]
        low, high = interval(TASK_METRICS["gold_logprob"], answers)
        held += low <= -1.0 <= high
    assert 178 <= held <= 200


def test_f1s_interval_holds_its_value_and_is_the_same_every_time():
    draw = random.Random(3)
    answers = [Answer("", draw.choice("ab"), choice=draw.choice("ab")) for _ in range(50)]
    metric = TASK_METRICS["macro_f1"]
    low, high = interval(metric, answers)
    assert low < value_of(metric, answers) < high
    assert interval(metric, answers) == (low, high)


def test_what_tells_nothing_has_no_interval():
    one = [Answer("", "a", nats=1.0)]
    assert interval(TASK_METRICS["gold_logprob"], one) is None
    strange = TaskMetric("strange", "higher", "", Needs.text, lambda answer: math.nan)
    assert interval(strange, one * 5) is None
