"""What checkpoints and guards cost: the same training with and without them, in turns, in one process.

    python benchmarks/overhead.py            six pairs of 30 steps on the embedded model, about ten minutes on two cores

A pair's ratio is noisy on a busy machine; the seconds spent in guards and while checkpoints are written are not,
and are printed beside it as a share of the run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

WORDS = ["dataset=airports", "evaluation=none", "logger=none", "train.batch_size=8", "overwrite=true"]


class Spent:
    """Seconds inside a function."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*words: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*words, **named)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def train(folder: Path, steps: int, *words: str) -> float:
    """Seconds of one run's training."""
    from rich.console import Console

    from lorascope.compose import compose
    from lorascope.run import execute

    config = compose([*WORDS, f"train.max_steps={steps}", f"runs_dir={folder}", *words])
    record = execute(config, Console(quiet=True))
    assert record is not None
    return float(record.timing["train_loop_seconds"])


def pair(folder: Path, steps: int, minutes: float) -> tuple[float, float, float, float]:
    """Seconds with, seconds without, and of the first those in guards and in checkpoints."""
    from lorascope.training import sft_trainer

    guards, saving = Spent(), Spent()
    kind = sft_trainer.trainer_class()
    with (
        patch.object(sft_trainer, "check_finite", guards.around(sft_trainer.check_finite)),
        patch.object(kind, "_save_checkpoint", saving.around(kind._save_checkpoint)),
    ):
        guarded = train(folder, steps, f"train.save_minutes={minutes}")
    with patch.object(sft_trainer, "check_finite", lambda *_: None):
        bare = train(folder, steps, "train.save_minutes=null")
    return guarded, bare, guards.seconds, saving.seconds


def main() -> int:
    """Print the pairs and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=10.0, help="between two checkpoints (train.save_minutes)")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="lorascope-overhead-") as name:
        train(Path(name), 2)  # imports and caches
        for number in range(options.pairs):
            found.append(pair(Path(name), options.steps, options.minutes))
            guarded, bare, guards, saving = found[-1]
            print(
                f"pair {number + 1}  with {guarded:6.2f} s  without {bare:6.2f} s  ratio {guarded / bare:.3f}   "
                f"guards {100 * guards / guarded:.2f} %  checkpoints {100 * saving / guarded:.2f} %",
                flush=True,
            )
    ratios = [guarded / bare for guarded, bare, _, _ in found]
    inside = [100 * (guards + saving) / guarded for guarded, _, guards, saving in found]
    print(
        f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}   "
        f"inside guards and checkpoints: median {statistics.median(inside):.2f} %, at most {max(inside):.2f} %"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
