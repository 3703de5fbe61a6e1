"""Simulated studies, judged as real ones are: how often any verdict of a study is false, how often a true one is found.

    python benchmarks/simulated_studies.py            2,000 studies a line: under a minute

Each study has a reference and five arms. The unit is the standard deviation, between seeds, of an arm's difference
from the reference; the margin is two of them where nothing else is said. A verdict is false where it says better or
worse of a true difference of none or of the other sign, or equivalent of a true difference as large as the margin.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from lorascope.stats.contrasts import paired
from lorascope.stats.verdicts import FEWEST, POWER, Verdict, adjusted, decide, difference_power, equivalence_power

LEVEL = 0.05
SCENARIOS: dict[str, tuple[float, tuple[float, ...]]] = {  # the margin, and the arms' true differences
    "no difference": (2, (0, 0, 0, 0, 0)),
    "half the margin": (2, (1, 1, 1, -1, -1)),
    "exactly the margin": (2, (2, 2, 2, -2, -2)),
    "twice the margin": (2, (4, 4, 4, -4, -4)),
    "none and the margin": (2, (0, 0, 0, 2, 2)),
    "all of them": (2, (0, 0, 1, -2, 4)),
    "no difference, margin 0.2": (0.2, (0, 0, 0, 0, 0)),
    "none and the margin 1": (1, (0, 1, 1, 1, 1)),
}
NOISES = ("normal", "heavy tails", "seed effects", "rare collapse")


@dataclass(frozen=True)
class Outcome:
    """Shares of studies, and of arms."""

    false: int  # studies with any false verdict
    studies: int
    found: float  # of the arms that differ: better or worse, rightly
    equivalent: float  # of all arms
    inconclusive: float
    covered: float  # of all arms: the interval holds the true difference


def draw(noise: str, differences: tuple[float, ...], studies: int, seeds: int, rng: Any) -> tuple[Any, Any]:
    """Values of arms (studies, arms, seeds) and of the reference (studies, 1, seeds).

    heavy tails: Student's t with 3 degrees of freedom. seed effects: what a seed gives or takes from all arms alike,
    ten times as wide as their differences. rare collapse: one training of an arm in ten ends far below, none of the
    reference's, and everything else hardly varies; the true difference is the mean over all trainings. All have the
    same deviation of differences, 1.
    """
    import numpy

    arms, shape = len(differences), (studies, len(differences) + 1, seeds)
    values = rng.standard_t(3, shape) / math.sqrt(3) if noise == "heavy tails" else rng.standard_normal(shape)
    if noise == "seed effects":
        values += 10 * math.sqrt(2) * rng.standard_normal((studies, 1, seeds))
    values /= math.sqrt(2)
    if noise == "rare collapse":
        share, rest = 0.1, 0.3
        depth = math.sqrt((1 - rest**2) / (share * (1 - share)))
        values *= rest
        values[:, 1:] -= depth * ((rng.random((studies, arms, seeds)) < share) - share)
    return values[:, 1:] + numpy.array(differences)[:, None], values[:, :1]


Adjust = Callable[[Sequence[float], Sequence[float]], Sequence[Sequence[float]]]


def judge(arms: Any, reference: Any, margin: float, adjust: Adjust = adjusted) -> list[list[Verdict]]:
    """The verdicts of every study, by the product's own tests and decisions."""
    tests = paired(arms, reference, margin)
    verdicts = []
    for means, *both in zip(tests.mean.tolist(), tests.p.tolist(), tests.p_equivalence.tolist(), strict=True):
        of_family = zip(means, *adjust(*both), strict=True)
        verdicts.append([decide(mean, p, same, better="higher", level=LEVEL) for mean, p, same in of_family])
    return verdicts


def is_false(verdict: Verdict, difference: float, margin: float) -> bool:
    """Whether a verdict is denied by the true difference; a higher value is better."""
    return {
        Verdict.better: difference <= 0, Verdict.worse: difference >= 0, Verdict.equivalent: abs(difference) >= margin
    }.get(verdict, False)  # fmt: skip


def wrong(verdicts: list[list[Verdict]], differences: Sequence[float], margin: float) -> int:
    """Studies with any false verdict."""
    return sum(any(is_false(*pair, margin) for pair in zip(study, differences, strict=True)) for study in verdicts)


def simulate(scenario: str, noise: str, seeds: int, studies: int) -> Outcome:
    """Draw and judge studies of a scenario; the same ones every time."""
    import numpy
    from scipy import stats

    rng = numpy.random.default_rng([list(SCENARIOS).index(scenario), NOISES.index(noise), seeds])
    margin, differences = SCENARIOS[scenario]
    arms, reference = draw(noise, differences, studies, seeds, rng)
    verdicts = judge(arms, reference, margin)
    pairs = [pair for study in verdicts for pair in zip(study, differences, strict=True)]
    tests = paired(arms, reference, margin)
    reach = stats.t.ppf(1 - LEVEL / 2, seeds - 1) * tests.sd / math.sqrt(seeds)
    different = [verdict for verdict, difference in pairs if difference and not is_false(verdict, difference, margin)]
    sure = sum(verdict in (Verdict.better, Verdict.worse) for verdict in different)
    return Outcome(
        false=wrong(verdicts, differences, margin),
        studies=studies,
        found=sure / (studies * sum(map(bool, differences))) if any(differences) else math.nan,
        equivalent=sum(verdict is Verdict.equivalent for verdict, _ in pairs) / len(pairs),
        inconclusive=sum(verdict is Verdict.inconclusive for verdict, _ in pairs) / len(pairs),
        covered=float((numpy.abs(tests.mean - numpy.array(differences)) <= reach).mean()),
    )


def table(seeds: int, studies: int) -> list[str]:
    """A scenario's lines, in Markdown."""
    lines = [
        "| true differences | between seeds | any false verdict | found | equivalent | inconclusive | interval holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for noise in NOISES:
        for scenario in SCENARIOS:
            one = simulate(scenario, noise, seeds, studies)
            shares = (one.found, one.equivalent, one.inconclusive, one.covered)
            told = " | ".join("" if math.isnan(share) else f"{100 * share:.1f} %" for share in shares)
            lines.append(f"| {scenario} | {noise} | {share_told(one.false, studies)} | {told} |")
    return lines


def two_holms(shares: float) -> Adjust:
    """Holm's procedure for the differences and another for equivalence, each at so many shares of the level."""

    def holm(p: Sequence[float]) -> list[float]:
        # statsmodels' multipletests collects garbage at every call: 0.2 s
        steps = list(accumulate((sorted(p)[rank] * (len(p) - rank) for rank in range(len(p))), max))
        return [steps[sorted(p).index(value)] / shares for value in p]

    return lambda p, p_equivalence: (holm(p), holm(p_equivalence))


def procedures(studies: int) -> list[str]:
    """What else could have been chosen, where it shows: ten seeds, a margin of one deviation, four arms at it."""
    import numpy

    margin, differences = SCENARIOS["none and the margin 1"]
    arms, reference = draw("normal", differences, studies, 10, numpy.random.default_rng(1))
    lines = ["| procedure | any false verdict | found | equivalent, rightly |", "|---|---|---|---|"]
    chosen = {
        "two of Holm, each at the level": two_holms(1.0),
        "two of Holm, each at half the level": two_holms(0.5),
        "one for both": adjusted,
    }
    for name, adjust in chosen.items():
        verdicts = judge(arms, reference, margin, adjust)
        found = sum(study[1:].count(Verdict.better) for study in verdicts) / (4 * studies)
        same = sum(study[0] is Verdict.equivalent for study in verdicts) / studies
        false = share_told(wrong(verdicts, differences, margin), studies)
        lines.append(f"| {name} | {false} | {100 * found:.1f} % | {100 * same:.1f} % |")
    return lines


def second_looks(studies: int) -> list[str]:
    """Five seeds, and ten where any arm was inconclusive at five: each look is at the whole level."""
    import numpy

    lines = ["| true differences | arms | any false verdict at last |", "|---|---|---|"]
    for scenario in ("no difference, margin 0.2", "exactly the margin"):
        for arms in (1, 5):
            margin, differences = SCENARIOS[scenario][0], SCENARIOS[scenario][1][:arms]
            values, reference = draw("normal", differences, studies, 10, numpy.random.default_rng(2))
            looks = zip(
                judge(values[..., :5], reference[..., :5], margin), judge(values, reference, margin), strict=True
            )
            last = [second if Verdict.inconclusive in first else first for first, second in looks]
            lines.append(f"| {scenario} | {arms} | {share_told(wrong(last, differences, margin), studies)} |")
    return lines


def share_told(count: int, total: int) -> str:
    """A share in percent with its 95 % Wilson interval."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, total, method="wilson")
    return f"{100 * count / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def reach(seeds: int, arms: int) -> tuple[float, float]:
    """With 80 % power, in deviations: the smallest difference found, the smallest margin within which none is shown."""
    from scipy.optimize import brentq

    level = LEVEL / arms
    difference = brentq(lambda effect: difference_power(seeds, effect, level) - POWER, 0.01, 50)
    margin = brentq(lambda margin: equivalence_power(seeds, 0.0, margin, level) - POWER, 0.01, 50)
    return difference, margin


def reaches() -> list[str]:
    """The reach of some numbers of seeds, for some numbers of arms beside the reference."""
    lines = [
        "| seeds | 1 arm: difference | margin | 3 arms: difference | margin | 5 arms: difference | margin |",
        "|---|---|---|---|---|---|---|",
    ]
    for seeds in (5, 6, 8, 10, 15, 20, 50):
        found = [f"{value:.2f}" for arms in (1, 3, 5) for value in reach(seeds, arms)]
        lines.append(" | ".join([f"| {seeds}", *found]) + " |")
    return lines


def main() -> int:
    """Print a table for each number of seeds, and what each number can tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    options = parser.parse_args()
    for seeds in options.seeds:
        note = f", were verdicts given at fewer than {FEWEST}" if seeds < FEWEST else ""
        print(f"### {seeds} seeds, {options.studies:,} studies a line{note}\n")
        print("\n".join(table(seeds, options.studies)) + "\n")
    print("### What a number of seeds can tell, in deviations\n")
    print("\n".join(reaches()) + "\n")
    print(f"### Other procedures, {5 * options.studies:,} studies\n")
    print("\n".join(procedures(5 * options.studies)) + "\n")
    print(f"### Ten seeds where five were inconclusive, {5 * options.studies:,} studies a line\n")
    print("\n".join(second_looks(5 * options.studies)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
