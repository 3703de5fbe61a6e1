"""Less work below the adapter: the same training with and without each saving, in turns, on one shared base.

    python benchmarks/lower_layers.py            the embedded model, three rounds, about ten minutes on one core

Seconds are of the process's own CPU, steadier than a clock's on a machine that others use as well. They go from the
trainer's construction to its last step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

WORDS = [
    "dataset=home_intents", "evaluation=none", "logger=none", "dataset.max_eval_samples=8", "train.eval_steps=null",
    "train.save_minutes=null", "train.learning_rate=1e-3", "overwrite=true",
]  # fmt: skip
CHECKPOINTING = "train.sft.activation_checkpointing=true"
GROUPED_ROWS = 480


class Bench:
    """Trainings on one base."""

    def __init__(self, folder: Path, rows: int, epochs: int) -> None:
        from lorascope.session import Session

        self.session = Session()
        self.words = [*WORDS, f"runs_dir={folder}", f"dataset.max_train_samples={rows}", f"train.epochs={epochs}"]
        self.spent = 0.0

    def run(self, *words: str) -> tuple[float, Any]:
        """Seconds of one training, and its record."""
        from rich.console import Console

        from lorascope import run
        from lorascope.compose import compose

        train = run.train_adapter

        def timed(*these: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return train(*these, **named)
            finally:
                self.spent = time.process_time() - began

        with patch.object(run, "train_adapter", timed):
            record = run.execute(compose([*self.words, *words]), Console(quiet=True), self.session)
        return self.spent, record

    def gradient(self) -> dict[str, float]:
        """Checkpointing, last half: with a gradient for the embeddings, as the libraries have it, and without."""
        from lorascope.training import trainer

        words = ("target=q_v", "target.layers=last_half", CHECKPOINTING)
        with patch.object(trainer, "is_reentrant", lambda train: True):
            every, before = self.run(*words)
        spared, after = self.run(*words)
        assert before.metrics["eval_loss"] == after.metrics["eval_loss"], "the result must be the same"
        return {"gradient of the embeddings": every, "none below the adapter": spared}

    def grouped(self) -> dict[str, float]:
        """Rows as they come, and rows of like length together: one epoch of more rows, for more to choose from."""
        words = ("target=q_v", f"dataset.max_train_samples={GROUPED_ROWS}", "train.epochs=1")
        every, _ = self.run(*words)
        like, _ = self.run(*words, "train.group_by_length=true")
        return {"rows as they come": every, "rows of like length": like}


def padded(rows: int, grouped: bool) -> tuple[int, int]:
    """Tokens of an epoch's batches of eight, and those of them that are padding."""
    import torch

    from lorascope.base.loading import load_tokenizer
    from lorascope.compose import compose
    from lorascope.data.sources import load_rows
    from lorascope.data.tokenization import encode
    from lorascope.training.batching import by_length

    config = compose([*WORDS, f"dataset.max_train_samples={rows}"])
    data = encode(load_rows(config.dataset).train, load_tokenizer(config.model), config.train.max_length, "train")
    lengths = [len(ids) for ids in data.input_ids]
    torch.manual_seed(0)
    order = list(by_length(lengths, 8, 0)) if grouped else torch.randperm(len(lengths)).tolist()
    batches = [[lengths[row] for row in order[start : start + 8]] for start in range(0, len(order), 8)]
    whole = sum(len(batch) * max(batch) for batch in batches)
    return whole, whole - sum(lengths)


def main() -> int:
    """Print seconds and ratios of each saving, by round and their median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", default="", help="of the cases, those with this in their title")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorascope-lower-") as name:
        bench = Bench(Path(name), options.rows, options.epochs)
        bench.run("target=q_v", "train.max_steps=2")  # imports, kernels, the base
        cases = {
            "checkpointing, last half": bench.gradient,
            "batches": bench.grouped,
        }
        cases = {title: case for title, case in cases.items() if options.only in title}
        found: dict[str, list[list[float]]] = {title: [] for title in cases}
        for number in range(options.rounds):
            for title, case in cases.items():
                seconds = case()
                found[title].append([next(iter(seconds.values())) / value for value in seconds.values()])
                shown = "   ".join(f"{what} {value:.1f} s" for what, value in seconds.items())
                print(f"round {number + 1}  {title}: {shown}", flush=True)
        for title, ratios in found.items():
            medians = [statistics.median(column) for column in zip(*ratios, strict=True)][1:]
            spans = [(min(column), max(column)) for column in zip(*ratios, strict=True)][1:]
            said = ", ".join(
                f"{one:.2f} ({low:.2f} to {high:.2f})" for one, (low, high) in zip(medians, spans, strict=True)
            )
            print(f"{title:<28} {said} times as fast")
    for grouped in (False, True):
        whole, padding = padded(GROUPED_ROWS, grouped)
        print(f"padding, {'like length' if grouped else 'as they come'}: {padding:,} of {whole:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
