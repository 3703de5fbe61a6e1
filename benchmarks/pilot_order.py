"""Whether a pilot's choice depends on the order in which its trainings end: optuna's pruner, and lorascope's.

    pip install optuna==5.0.0; python benchmarks/pilot_order.py

Five rates, the same losses in each of the 120 orders; which rates go on after the first round is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import permutations

from lorascope.config.schema import PilotConfig
from lorascope.study.schedule import Trial, grid, next_trials

SETTINGS = PilotConfig(points=5, shares=[0.5, 1.0])
MIDDLE = 1e-3
BEST = MIDDLE * 2**1.4


def loss(rate: float) -> float:
    """Any loss with one lowest rate, between two of the grid."""
    return abs(math.log2(rate / BEST))


def by_optuna(order: Sequence[int]) -> tuple[float, ...]:
    """The rates that go on when trials report in this order, each asked at once, as optuna's pruners are."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(pruner=pruner)
    trials = {step: study.ask() for step in order}
    going = []
    for step in order:
        rate = Trial(0, step).rate(MIDDLE)
        trials[step].report(loss(rate), 1)
        if trials[step].should_prune():
            study.tell(trials[step], state=optuna.trial.TrialState.PRUNED)
        else:
            going.append(rate)
    return tuple(sorted(going))


def by_lorascope(order: Sequence[int]) -> tuple[float, ...]:
    """The rates of the round after the one whose losses came in this order."""
    losses = {trial: loss(trial.rate(MIDDLE)) for trial in (Trial(0, step) for step in order)}
    return tuple(sorted(trial.rate(MIDDLE) for trial in next_trials(SETTINGS, losses)))


def main() -> None:
    """Print how often each set of rates went on."""
    for name, choose in (("lorascope", by_lorascope), ("optuna", by_optuna)):
        try:
            found = Counter(choose(order) for order in permutations(grid(SETTINGS)))
        except ImportError:
            print(f"{name} is not installed: pip install optuna==5.0.0")
            continue
        print(f"{name}: {len(found)} different outcomes of {found.total()} orders")
        for rates, times in found.most_common():
            print(f"  {times:>3} x  {', '.join(f'{rate:g}' for rate in rates)}")


if __name__ == "__main__":
    main()
