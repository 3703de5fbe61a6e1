"""Whole processes, timed from outside: what a command took, how two of them compare, and what both are given."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    seconds: float  # from its start to its end
    processor: float  # seconds of processors, over the process and its children
    peak: int  # bytes, of the largest of them
    output: str


def run(command: Sequence[str], environment: dict[str, str], folder: Path) -> Finished:
    """Start a command and wait for its end.

    Raises:
        SystemExit: when it fails, with the end of what it said.
    """
    said = folder / "output.txt"
    with said.open("w") as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    output = said.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{output[-4000:]}")
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)


def shared_environment(folder: Path, threads: int) -> dict[str, str]:
    """What both sides find: no network, so many threads, caches below `folder`, the unpacked model among them."""
    from lorascope.base.packaged import cache_dir

    (folder / "lorascope").mkdir(parents=True, exist_ok=True)
    for unpacked in cache_dir().glob("llm-*"):
        (folder / "lorascope" / unpacked.name).symlink_to(unpacked)
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "LORASCOPE_CACHE": str(folder / "lorascope"),
        "PYTHONPATH": str(ROOT / "src"),
    }


def forget_answers(folder: Path) -> None:
    """Let the next run measure its base itself."""
    for kind in ("answers", "texts"):
        shutil.rmtree(folder / "lorascope" / kind, ignore_errors=True)


@dataclass(frozen=True)
class Files:
    """The same rows for both: conversations, and the same as prompt and completion, of which TRL learns the latter."""

    folder: Path
    model: Path
    train_tokens: int
    rows: tuple[int, int]  # of the train half and of the eval half

    @property
    def words(self) -> tuple[str, ...]:
        """What lorascope is told of them."""
        folder = self.folder / "messages"
        return "dataset=file", f"dataset.path={folder}/train.jsonl", f"dataset.eval_path={folder}/test.jsonl"


def export_rows(dataset: str, most_eval: int, folder: Path) -> Files:
    """The halves of a data set as JSON Lines.

    Raises:
        SystemExit: when the two sides would read other token ids from them, or learn other ones.
    """
    from lorascope.base.loading import load_tokenizer
    from lorascope.base.packaged import unpack
    from lorascope.compose import compose
    from lorascope.console import hush
    from lorascope.data.sources import load_rows
    from lorascope.session import load_data

    hush()
    config = compose([f"dataset={dataset}", f"dataset.max_eval_samples={most_eval}"])
    rows = load_rows(config.dataset)
    for half, name in ((rows.train, "train"), (rows.eval, "test")):
        said = [[{"role": one.role, "content": one.content} for one in row.messages] for row in half]
        write_lines(folder / "messages" / f"{name}.jsonl", [{"messages": each} for each in said])
        write_lines(
            folder / "pairs" / f"{name}.jsonl", [{"prompt": each[:-1], "completion": each[-1:]} for each in said]
        )
    files = Files(folder, unpack(config.model), 0, (len(rows.train), len(rows.eval)))
    config, tokenizer = compose(files.words), load_tokenizer(config.model)
    data = load_data(config, tokenizer)
    for encoded, name in ((data.train, "train"), (data.evaluation, "test")):
        lines = (folder / "pairs" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        theirs = [as_trl_reads(json.loads(line), tokenizer) for line in lines]
        if theirs != list(zip(encoded.input_ids, encoded.labels, strict=True)):
            sys.exit(f"{dataset}, {name}: the two sides would not learn the same tokens")
    return dataclasses.replace(files, train_tokens=data.train.tokens)


def write_lines(file: Path, lines: Sequence[Any]) -> None:
    """Each a line of JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def as_trl_reads(line: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids and labels that TRL's `SFTTrainer` makes of a prompt and a completion, which alone is learned."""
    asked = tokenizer.apply_chat_template(line["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(line["prompt"] + line["completion"], return_dict=True)["input_ids"]
    same = next((place for place, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(asked))
    return whole, [-100] * same + whole[same:]


def in_turns(pairs: int, ours: Callable[[], Finished], theirs: Callable[[], Finished]) -> list[tuple[float, float]]:
    """Run both so many times, in the order ABBA, and print each pair.

    Returns:
        Of each pair, the ratio of seconds and that of processor seconds, ours over theirs.
    """
    ratios = []
    for number in range(pairs):
        if number % 2 == 0:
            first = ours()
            second = theirs()
        else:
            second = theirs()
            first = ours()
        ratios.append((first.seconds / second.seconds, first.processor / second.processor))
        print(
            f"  pair {number + 1}   {first.seconds:7.1f} s against {second.seconds:7.1f} s   "
            f"ratio {ratios[-1][0]:.3f}   processor {first.processor:.1f} against {second.processor:.1f} s, "
            f"{ratios[-1][1]:.3f}   peak {first.peak / 2**30:.2f} and {second.peak / 2**30:.2f} GiB",
            flush=True,
        )
    return ratios


def summary(ratios: Sequence[tuple[float, float]]) -> str:
    """Median and spread of the pairs."""
    parts = []
    for name, values in zip(("seconds", "processor"), zip(*ratios, strict=True), strict=True):
        parts.append(f"{name} median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    return "  ratio: " + ", ".join(parts)
