"""Time and memory over many runs in one session: what a further run costs beside its own training.

    python benchmarks/growth.py                sixteen runs of one strategy and seed, two steps each
    python benchmarks/growth.py --mixed        four strategies, another seed each: other batches, other widths

`start` is from the end of the run before to the first training step: planning, the base's own answers (remembered from
the first run on), the adapter, the trainer; in seconds, and in the processor's, which do not see who else is at work.
`resident` is the process's memory after the run, without what the allocator holds free. oneDNN keeps a kernel for each
new width of a batch, so that with `--mixed` it grows until its cache is full; with the same batches it must not.
`--profile N` shows in what the start of run N is spent.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

STRATEGIES = ("q_v", "qkvo", "ffn", "qv_ffn")
SHOWN = (1, 2, 4, 8, 16)


class Watch:
    """When runs end, and when their first step begins."""

    def __init__(self, profiled: int) -> None:
        self.starts: list[tuple[float, float]] = []  # seconds, processor seconds
        self.profile = cProfile.Profile()
        self.profiled = profiled

    def begin(self, number: int) -> None:
        """The run before has ended."""
        self.ended = time.perf_counter(), time.process_time()
        if number == self.profiled:
            self.profile.enable()

    def first_step(self) -> None:
        """The trainer is about to make its first step."""
        self.starts.append((time.perf_counter() - self.ended[0], time.process_time() - self.ended[1]))
        self.profile.disable()


def watching(watch: Watch) -> None:
    """Tell `watch` of every training's first step."""
    from lorascope.training import sft_trainer

    kind = sft_trainer.trainer_class()
    step = kind.training_step

    def training_step(self: Any, *words: Any, **named: Any) -> Any:
        if not getattr(self, "stepped", False):
            self.stepped = True
            watch.first_step()
        return step(self, *words, **named)

    kind.training_step = training_step


def resident() -> float:
    """MiB of the process, without what the allocator holds free."""
    from lorascope.records.environment import reset_peak

    reset_peak("cpu")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def living() -> float:
    """MiB of all tensors that are alive."""
    import torch

    seen = {}
    for one in gc.get_objects():
        with suppress(ReferenceError):
            if isinstance(one, torch.Tensor) and one.device.type != "meta":
                storage = one.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values()) / 2**20


def main() -> int:
    """Make the runs, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--mixed", action="store_true", help="four strategies in turn, each run with a seed of its own")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="profile the start of run N")
    parser.add_argument("words", nargs="*", help="further words of each run")
    options = parser.parse_args()

    from lorascope.console import whole_process

    with tempfile.TemporaryDirectory(prefix="lorascope-growth-") as name, whole_process():
        grow(options, Path(name))
    return 0


def grow(options: argparse.Namespace, folder: Path) -> None:
    """The runs, one after another in one session."""
    from rich.console import Console

    from lorascope.compose import compose
    from lorascope.console import importing
    from lorascope.run import execute
    from lorascope.session import Session

    began = time.perf_counter()
    with importing():
        import peft  # noqa: F401
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        watch = Watch(options.profile)
        watching(watch)
    print(f"imports {time.perf_counter() - began:.1f} s; {torch.get_num_threads()} threads")
    words = [
        "dataset=home_intents", "evaluation=none", "logger=none", "device=cpu", "train.batch_size=4", "overwrite=true",
        "dataset.max_train_samples=100", "dataset.max_eval_samples=20", f"train.max_steps={options.steps}",
        "train.save_minutes=null", f"runs_dir={folder}", *options.words,
    ]  # fmt: skip
    session, kept = Session(), []
    print(
        " run  strategy   start s  processor s   whole s  adapter+optimizer  resident   growth  tensors  training peak"
    )
    for number in range(1, options.runs + 1):
        target, seed = (STRATEGIES[(number - 1) % 4], number) if options.mixed else (STRATEGIES[0], 1)
        watch.begin(number)
        config = compose([*words, f"target={target}", f"seed={seed}"])
        record = execute(config, Console(quiet=True), session)
        assert record is not None
        whole = time.perf_counter() - watch.ended[0]
        kept.append(resident())
        held = 12 * record.plan["trainable_parameters"] / 2**20  # weight and two moments in float32
        print(
            f"{number:4d}  {target:<8} {watch.starts[-1][0]:9.2f} {watch.starts[-1][1]:12.2f} {whole:9.2f} "
            f"{held:14.1f} MiB {kept[-1]:5.0f} MiB {kept[-1] - kept[0]:+4.0f} MiB {living():4.0f} MiB "
            f"{record.memory['peak_bytes'] / 2**20:13.0f} MiB",
            flush=True,
        )
    told(watch, kept)


def told(watch: Watch, kept: list[float]) -> None:
    """What the runs come to."""
    for place, name in enumerate(("seconds", "processor seconds")):
        if later := [start[place] for start in watch.starts[1:]]:
            spread = f"{min(later):.2f} to {max(later):.2f}"
            print(f"start of later runs: median {statistics.median(later):.2f} {name}, {spread}")
    at = [(number, kept[number - 1]) for number in SHOWN if number <= len(kept)]
    print("resident after K runs: " + ", ".join(f"K={number} {value:.0f} MiB" for number, value in at))
    if watch.profiled:
        pstats.Stats(watch.profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    sys.exit(main())
