"""Faults on purpose: runs are killed, starved and disturbed, resumed, and held bit by bit against undisturbed ones.

    python scripts/faults.py --kills 54          the long form, about a quarter of an hour on two cores
    python scripts/faults.py --kills 3 --short   what the tests run

Every run is forked from one process that has imported everything, so that a fault costs seconds. Prints a table of
faults and outcomes; exits with 1 where a record was lost, a resume was wrong, or something hung.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

PATIENCE = 180  # seconds after which a run hangs
KINDS = {
    "fp32": [
        "model.dtype=float32",
        "quantization=none",
        "evaluation.forgetting.texts=2",
        "evaluation.forgetting.tokens=8",
    ],
    "bf16": ["model.dtype=bfloat16", "quantization=none", "train.gradient_accumulation=2", "evaluation=none"],
    "nf4": ["model.dtype=float32", "quantization=nf4", "evaluation=none"],
    "packed": [
        "model.dtype=float32",
        "quantization=none",
        "train.packing=true",
        "train.max_length=256",
        "evaluation=none",
    ],
}
COMMON = [
    "model=hf", "model.name=tiny", "device=cpu", "dataset=airports", "dataset.max_train_samples=72",
    "dataset.max_eval_samples=10", "train.batch_size=4", "train.epochs=2", "train.save_steps=2",
    "train.logging_steps=5", "train.eval_steps=4", "train.learning_rate=5e-3", "target.lora_dropout=0.1", "logger=none",
]  # fmt: skip
# what a tiny model's training does in a blink is given time to be disturbed in
PACE = 0.02


@dataclass
class Outcome:
    """What became of the runs that had one kind of fault."""

    fault: str
    runs: int = 0
    resumed: int = 0
    exact: int = 0
    told: int = 0
    notes: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


class Bench:
    """Runs in processes of their own, forked from this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.references: dict[str, dict[str, Any]] = {}
        self.count = 0

    def words(self, kind: str, runs: Path) -> list[str]:
        """The command of one kind of run."""
        return [*COMMON, *KINDS[kind], f"model.path={self.model}", f"runs_dir={runs}"]

    def start(self, kind: str, runs: Path, *extra: str, change: Callable[[], None] | None = None) -> Child:
        """A run in a new process."""
        self.count += 1
        log = self.folder / f"log-{self.count}.txt"
        process = os.fork()
        if process == 0:
            _child([*self.words(kind, runs), *extra], log, change)
        return Child(process, log)

    def reference(self, kind: str) -> dict[str, Any]:
        """What an undisturbed run of this kind leaves."""
        if kind not in self.references:
            runs = self.folder / f"reference-{kind}"
            child = self.start(kind, runs)
            if (code := child.wait()) != 0:
                raise SystemExit(f"the undisturbed run of kind {kind} failed: {code}\n{child.text}")
            self.references[kind] = left(runs)
        return self.references[kind]

    def fresh(self, name: str) -> Path:
        """A folder for runs."""
        self.count += 1
        return self.folder / f"{name}-{self.count}"

    def finish(self, kind: str, runs: Path, outcome: Outcome, **options: Any) -> None:
        """Run the same command again, and compare what it leaves."""
        child = self.start(kind, runs, **options)
        code = child.wait()
        text = child.text
        outcome.resumed += "resuming from the checkpoint of step" in text
        if code != 0:
            outcome.bad.append(f"{kind}: the command ended with {code}: {text[-300:]}")
            return
        differs = [name for name, value in self.reference(kind).items() if left(runs).get(name) != value]
        if differs:
            outcome.bad.append(f"{kind}: {', '.join(differs)} differ in {runs.name}")
        else:
            outcome.exact += 1


@dataclass
class Child:
    """A run's process."""

    process: int
    log: Path

    def evaluating(self) -> bool:
        """Whether it measures a loss, or did when it was killed."""
        return self.log.with_suffix(".evaluating").exists()

    @property
    def text(self) -> str:
        """What it has said."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        try:
            done, status = os.waitpid(self.process, os.WNOHANG)
        except ChildProcessError:
            return 0
        return os.waitstatus_to_exitcode(status) if done else None

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code; a run that hangs is killed, and -99."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if (code := self.poll()) is not None:
                return code
            time.sleep(0.01)
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return -99

    def when(self, seen: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Wait for something; False where the process ended before."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if seen():
                return True
            if os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return False
            time.sleep(0.0005)
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)


def _child(words: list[str], log: Path, change: Callable[[], None] | None) -> None:
    """One run, as train.py makes it; never returns."""
    code = 99
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        _slow_down(log.with_suffix(".evaluating"))
        if change:
            change()
        code = _run(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _run(words: list[str]) -> int:
    from lorascope.cli.main import train

    sys.argv = ["train.py", *words]
    try:
        train()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _slow_down(evaluating: Path) -> None:
    """Give what a tiny model does in a blink time to be disturbed in; the file is there while a loss is measured."""
    from lorascope.evaluation import loss
    from lorascope.training import sft_trainer

    kind = sft_trainer.trainer_class()
    step, batches = kind.training_step, loss.batches

    def slow_step(self: Any, *words: Any, **named: Any) -> Any:
        time.sleep(PACE)
        return step(self, *words, **named)

    def slow_batches(*words: Any, **named: Any) -> Iterator[Any]:
        evaluating.touch()
        for batch in batches(*words, **named):
            time.sleep(PACE)
            yield batch
        evaluating.unlink()

    kind.training_step, loss.batches = slow_step, slow_batches


def left(runs: Path) -> dict[str, Any]:
    """What of a run must not depend on how often it was cut."""
    folders = [path.parent for path in runs.glob("*/run.json")]
    if len(folders) != 1:
        return {"folders": len(folders)}
    record = json.loads((folders[0] / "run.json").read_text())
    return {
        "adapter": (folders[0] / "adapter" / "adapter_model.safetensors").read_bytes(),
        "metrics": record["metrics"],
        "steps": record["timing"]["steps"],
        "history": (folders[0] / "history.jsonl").read_text(),
        "status": record["status"],
        "plan": record["plan"],
    }


def status_of(runs: Path) -> str:
    """What the record of the one run below says."""
    found = list(runs.glob("*/run.json"))
    return str(json.loads(found[0].read_text())["status"]) if found else "nothing: there is none"


def checkpoints(runs: Path) -> list[Path]:
    """The checkpoints of the run below, oldest first."""
    found = runs.glob("*/checkpoints/checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def kills(bench: Bench, count: int, chance: random.Random) -> Outcome:
    """kill -9 at random moments after the first checkpoint, while one is written and while the loss is measured."""
    outcome = Outcome("kill -9, then the same command")
    where = {"any": 0, "mid-save": 0, "mid-eval": 0}
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        moment = list(where)[(number // len(KINDS)) % 3]
        bench.reference(kind)
        runs = bench.fresh("kill")
        child = bench.start(kind, runs)
        outcome.runs += 1
        if child.when(partial(_saved, runs)):
            time.sleep(chance.uniform(0, 1.2 if moment == "any" else 0.5))
            if moment == "mid-save":
                child.when(partial(_writing, runs), 2)
            elif moment == "mid-eval":
                child.when(child.evaluating, 2)
                time.sleep(chance.uniform(0, PACE))
        child.kill()
        if child.wait() == -signal.SIGKILL:
            where["mid-save" if _writing(runs) else "mid-eval" if child.evaluating() else "any"] += 1
        bench.finish(kind, runs, outcome)
    outcome.notes.append(", ".join(f"{name} {times}" for name, times in where.items()))
    return outcome


def _saved(runs: Path) -> bool:
    return bool(checkpoints(runs))


def _writing(runs: Path) -> bool:
    return any(runs.glob("*/checkpoints/.writing-*/adapter*"))


def storms(bench: Bench, count: int, chance: random.Random) -> Outcome:
    """Twenty signals in a row: the run saves, says preempted, leaves with its own code, and goes on."""
    outcome = Outcome("a storm of SIGTERM, SIGUSR1, SIGUSR2")
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        runs = bench.fresh("storm")
        child = bench.start(kind, runs)
        outcome.runs += 1
        child.when(partial(_saved, runs))
        time.sleep(chance.uniform(0, 0.6))
        for _ in range(20):
            child.kill(chance.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]))
            time.sleep(0.003)
        code = child.wait()
        if code not in (75, 0):
            outcome.bad.append(f"{kind}: left with {code}: {child.text[-300:]}")
        status = status_of(runs)
        outcome.told += status == "preempted"
        if status not in ("preempted", "done"):
            outcome.bad.append(f"{kind}: the record says {status}: {child.text[-300:]}")
        bench.finish(kind, runs, outcome)
    return outcome


def broken(bench: Bench, every: bool) -> Outcome:
    """Each file of the latest checkpoint truncated, emptied, removed: it is named, and the one before is taken."""
    outcome = Outcome("a checkpoint's file truncated, emptied, removed")
    kind = "fp32"
    bench.reference(kind)
    template = bench.fresh("broken")
    child = bench.start(kind, template)
    child.when(lambda: len(checkpoints(template)) == 2)
    child.kill()
    child.wait()
    names = sorted(path.name for path in checkpoints(template)[-1].iterdir())
    changes = ("truncated", "emptied", "removed")
    for index, name in enumerate(names):
        if not every and index % 4:
            continue
        for change in changes if every else changes[index // 4 % 3 :][:1]:
            runs = bench.fresh("broken")
            shutil.copytree(template, runs)
            path = checkpoints(runs)[-1] / name
            data = path.read_bytes()
            if change == "removed":
                path.unlink()
            else:
                path.write_bytes(b"" if change == "emptied" else data[: len(data) // 2])
            outcome.runs += 1
            before = bench.count
            bench.finish(kind, runs, outcome)
            outcome.told += "passed over" in (bench.folder / f"log-{before + 1}.txt").read_text()
    if outcome.told != outcome.runs:
        outcome.bad.append(f"{outcome.runs - outcome.told} broken checkpoints were not told of")
    return outcome


def full_disk(bench: Bench) -> Outcome:
    """A small disk that fills up: what was good stays, the run says so, and goes on when there is room."""
    outcome = Outcome("the disk is full")
    place = bench.fresh("disk")
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=67600k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        outcome.notes.append("skipped: no tmpfs can be mounted here")
        return outcome
    try:
        kind, runs = "fp32", place / "runs"
        bench.reference(kind)
        child = bench.start(kind, runs)
        outcome.runs += 1
        child.when(lambda: bool(checkpoints(runs)))
        child.kill(signal.SIGSTOP)
        free = shutil.disk_usage(place).free
        (place / "ballast").write_bytes(b"x" * max(0, free - 20_000))
        child.kill(signal.SIGCONT)
        code = child.wait()
        outcome.told += "could not be written" in child.text or "No space left" in child.text
        if "Traceback" in child.text:
            outcome.bad.append(f"a traceback: {child.text[-400:]}")
        if not checkpoints(runs) and code != 0:
            outcome.bad.append("the last good checkpoint is gone")
        (place / "ballast").unlink()
        bench.finish(kind, runs, outcome)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
    return outcome


def two_writers(bench: Bench) -> Outcome:
    """The same command twice at once: the second is told, the first goes on undisturbed."""
    outcome = Outcome("two writers")
    kind = "fp32"
    bench.reference(kind)
    runs = bench.fresh("twice")
    first = bench.start(kind, runs)
    outcome.runs += 1
    first.when(lambda: any(runs.glob("*/run.json")))
    second = bench.start(kind, runs)
    code = second.wait()
    outcome.told += "another process is at work" in second.text
    if code != 1 or not outcome.told:
        outcome.bad.append(f"the second writer left with {code}: {second.text[-300:]}")
    if first.wait() != 0:
        outcome.bad.append("the first writer was disturbed")
    elif left(runs) != bench.reference(kind):
        outcome.bad.append("the first writer's result differs")
    else:
        outcome.exact += 1
    return outcome


def control(bench: Bench) -> Outcome:
    """Without the fix for 4-bit dtypes a resumed run must differ: else the comparison could not fail."""
    outcome = Outcome("control: 4 bits without the fix")
    bench.reference("nf4")
    runs = bench.fresh("control")
    child = bench.start("nf4", runs, change=_without_the_fix)
    outcome.runs += 1
    child.when(lambda: len(checkpoints(runs)) > 1)
    child.kill()
    child.wait()
    undisturbed = bench.fresh("control")
    bench.start("nf4", undisturbed, change=_without_the_fix).wait()
    bench.start("nf4", runs, change=_without_the_fix).wait()
    if left(runs).get("adapter") == left(undisturbed).get("adapter"):
        outcome.bad.append("it did not differ: the comparison cannot be trusted")
    else:
        outcome.notes.append("differs, as it must")
    return outcome


def _without_the_fix() -> None:
    """transformers' own way back, and no adapter dtype of ours."""
    from trl import SFTTrainer

    from lorascope.training import sft_trainer, trainer

    sft_trainer.trainer_class()._load_from_checkpoint = SFTTrainer._load_from_checkpoint
    trainer.keep_adapter_in_float32 = lambda model: None


def make_model(folder: Path) -> None:
    """A two-layer LLaMA with a byte tokenizer, as the tests have."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import helpers  # type: ignore[import-not-found]

    helpers.make_model().save_pretrained(folder)
    helpers.make_tokenizer().save_pretrained(folder)


def warm_up() -> None:
    """Import what a run needs, and compute nothing: threads do not survive a fork."""
    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch
    import trl  # noqa: F401

    from lorascope import run  # noqa: F401
    from lorascope.training import sft_trainer

    sft_trainer.trainer_class()
    torch.set_num_threads(1)


HEAD = f"{'fault':<48}{'runs':>5}{'resumed':>9}{'exact':>7}{'told':>6}{'wrong':>7}"


def line(one: Outcome) -> str:
    """A line of the table of faults and outcomes, and what there is to say of it."""
    first = f"{one.fault:<48}{one.runs:>5}{one.resumed:>9}{one.exact:>7}{one.told:>6}{len(one.bad):>7}"
    return "\n".join([first, *(f"    {note}" for note in (*one.notes, *one.bad))])


def main() -> int:
    """Make the faults, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=54)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="lorascope-faults-") as name:
        bench = Bench(Path(name))
        maker = os.fork()
        if maker == 0:
            make_model(bench.model)
            os._exit(0)
        os.waitpid(maker, 0)
        warm_up()
        faults: list[Callable[[], Outcome]] = [
            lambda: kills(bench, options.kills, chance),
            lambda: storms(bench, 1 if options.short else 12, chance),
            lambda: broken(bench, not options.short),
            lambda: full_disk(bench),
            lambda: two_writers(bench),
            lambda: control(bench),
        ]
        print(HEAD, flush=True)
        outcomes = []
        for fault in faults:
            outcomes.append(fault())
            print(line(outcomes[-1]), flush=True)
    wrong = sum(len(one.bad) for one in outcomes)
    print(f"{wrong} wrong; 0 are allowed" if wrong else "nothing lost, nothing wrong, nothing hung")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
