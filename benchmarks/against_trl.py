"""lorascope against `trl sft`: whole processes on a CPU, with the embedded model and the same rows.

    python benchmarks/against_trl.py single      one run, same settings and same evaluations
    python benchmarks/against_trl.py defaults    one run, each with its own defaults, same rows and steps
    python benchmarks/against_trl.py study       four strategies x two seeds in one command, against eight processes

The pairs run in turns (ABBA); a ratio below one is lorascope's gain. TRL is started as `python -m trl.scripts.sft`,
which is faster than the command `trl sft` (that imports everything twice, once for `accelerate launch`); `--form cli`
measures the command. Both sides are asked to evaluate before and after; what lorascope remembers of a base is taken
from it before each command.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import sys
import tempfile
from pathlib import Path

from lorascope.compose import compose
from lorascope.config.machine import resolve
from processes import Files, Finished, export_rows, forget_answers, in_turns, run, shared_environment, summary

STRATEGIES = {
    "q_v": "q_proj v_proj",
    "qkvo": "q_proj k_proj v_proj o_proj",
    "ffn": "gate_proj up_proj down_proj",
    "qv_ffn": "q_proj v_proj gate_proj up_proj down_proj",  # all at rank 8: the command knows one rank
}
DIFFER = """\
  what differs by default         lorascope                          trl sft --use_peft
  adapter                         q, v at rank 8, alpha 16           q, v at rank 16, alpha 32 (PEFT's choice)
  base in                         bfloat16, or float32 where the     float32, autocast to bfloat16
                                  machine has no instructions for it
  learning rate                   1e-3, cosine, 5 % warm-up          2e-5, linear
  checkpointing on a CPU          no                                 yes
  measured                        base and adapter: eval loss,       nothing
                                  what is forgotten
  kept                            adapter, record, answers, W&B      adapter
"""


class Bench:
    """Both sides, with the same files and settings."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.files: Files = export_rows(options.dataset, options.eval_rows, folder / "rows")
        self.environment = shared_environment(folder / "cache", options.threads)
        self.count = 0
        # what lorascope computes in here: bfloat16 where the machine has instructions for it, else float32
        self.dtype = str(resolve(compose(["device=cpu"])).model.dtype)
        print(f"both compute in {self.dtype}")

    @property
    def logged(self) -> int:
        """Steps between two lines of a log, both defaults where there are so many."""
        return min(10, self.options.steps)

    def _place(self) -> Path:
        self.count += 1
        place = self.folder / f"run{self.count}"
        place.mkdir()
        return place

    def ours(self, *words: str, same: bool = True) -> Finished:
        """`python train.py` with these words besides."""
        forget_answers(self.folder / "cache")
        place, options = self._place(), self.options
        words = (
            *(words or ("seed=1",)), *self.files.words, "device=cpu", f"train.max_steps={options.steps}",
            f"train.batch_size={options.batch}", f"train.logging_steps={self.logged}", f"runs_dir={place}/runs",
            *(("evaluation=none", "logger=none", "train.save_minutes=null") if same else ()),
        )  # fmt: skip
        done = run([sys.executable, "train.py", *words], self.environment, place)
        self.left = [json.loads(file.read_text()) for file in sorted(place.glob("runs/*/run.json"))]
        shutil.rmtree(place)
        return done

    def theirs(self, target: str = "q_v", seed: int = 1, *, same: bool = True) -> Finished:
        """`trl sft`, as the options say."""
        place, options = self._place(), self.options
        words = [
            "--model_name_or_path", str(self.files.model), "--dataset_name", str(self.files.folder / "pairs"),
            "--output_dir", str(place / "out"), "--max_steps", str(options.steps), "--use_cpu", "true",
            "--per_device_train_batch_size", str(options.batch), "--use_peft", "--disable_tqdm", "true",
            "--logging_steps", str(self.logged),
        ]  # fmt: skip
        if same:
            words += [
                "--dtype", self.dtype, "--bf16", options.autocast, "--gradient_checkpointing", "false",
                "--max_length", "512", "--learning_rate", "1e-3", "--lr_scheduler_type", "cosine", "--warmup_steps",
                "0.05", "--seed", str(seed), "--data_seed", str(seed), "--report_to", "none", "--save_strategy", "no",
                "--dataloader_pin_memory", "false", "--eval_strategy", "steps", "--eval_steps", str(options.steps),
                "--eval_on_start", "true", "--per_device_eval_batch_size", str(options.eval_batch),
                "--lora_r", "8", "--lora_alpha", "16", "--lora_dropout", "0.05",
                "--lora_target_modules", *STRATEGIES[target].split(),
            ]  # fmt: skip
        start = [sys.executable, "-m", "trl.scripts.sft"]
        if options.form == "cli":
            start = [str(Path(sys.executable).with_name("trl")), "sft"]
        done = run([*start, *words], self.environment, place)
        self.said = [ast.literal_eval(line) for line in done.output.splitlines() if line.startswith("{'")]
        shutil.rmtree(place)
        return done

    def same_work(self) -> None:
        """Print what the last run of each side did: it must be the same."""
        record = self.left[-1]
        history = {key: value for line in self.said for key, value in line.items()}
        evals = [float(line["eval_loss"]) for line in self.said if "eval_loss" in line]
        inside = sum(float(line["eval_runtime"]) for line in self.said if "eval_runtime" in line)
        timing, metrics = record["timing"], record["metrics"]
        tokens = timing["tokens_per_second"] * timing["train_loop_seconds"]
        print(
            f"  the same work?   lorascope: {timing['steps']} steps, {tokens:.0f} tokens, "
            f"eval loss {metrics['eval_loss']['base']:.3f} to {metrics['eval_loss']['value']:.3f}, "
            f"train loss {metrics['train_loss']['value']:.3f}\n"
            f"                   trl:       {self.options.steps} steps, {float(history['num_tokens']):.0f} tokens, "
            f"eval loss {evals[0]:.3f} to {evals[-1]:.3f} (mean of batch means), "
            f"train loss {float(history['train_loss']):.3f}\n"
            f"  in the steps     lorascope {timing['train_loop_seconds']:.1f} s, "
            f"trl {float(history['train_runtime']) - inside:.1f} s;  in evaluations "
            f"{timing['base_eval_seconds'] + timing['eval_seconds']:.1f} s and {inside:.1f} s"
        )


def single(bench: Bench, options: argparse.Namespace) -> None:
    """Same settings, same evaluations."""
    print(f"one run, same settings: {options.steps} steps of {options.batch} rows, evaluated before and after")
    ratios = in_turns(options.pairs, bench.ours, bench.theirs)
    bench.same_work()
    print(summary(ratios))


def defaults(bench: Bench, options: argparse.Namespace) -> None:
    """Each as it comes."""
    print(f"one run, each with its defaults: {options.steps} steps of {options.batch} rows")
    ratios = in_turns(options.pairs, lambda: bench.ours(same=False), lambda: bench.theirs(same=False))
    print(summary(ratios))
    timing, history = bench.left[-1]["timing"], {key: value for line in bench.said for key, value in line.items()}
    print(
        f"  in the steps     lorascope {timing['train_loop_seconds']:.1f} s, "
        f"trl {float(history['train_runtime']):.1f} s\n"
        f"                   lorascope measured its base for {timing['base_eval_seconds']:.1f} s "
        f"(texts and answers, once on a machine), the adapter for {timing['eval_seconds']:.1f} s"
    )
    print(DIFFER)


def study(bench: Bench, options: argparse.Namespace) -> None:
    """Eight runs in one command, against eight processes one after another."""
    print(f"{4 * options.seeds} runs, four strategies x {options.seeds} seeds, {options.steps} steps each")
    seeds = range(1, options.seeds + 1)

    def ours() -> Finished:
        return bench.ours("-m", f"target={','.join(STRATEGIES)}", f"seed={','.join(map(str, seeds))}")

    def theirs() -> Finished:
        each = [bench.theirs(target, seed) for target in STRATEGIES for seed in seeds]
        return Finished(
            sum(one.seconds for one in each), sum(one.processor for one in each), max(one.peak for one in each), ""
        )

    ratios = in_turns(options.pairs, ours, theirs)
    for record in bench.left:
        timing = record["timing"]
        inside = timing["train_loop_seconds"] + timing["base_eval_seconds"] + timing["eval_seconds"]
        print(
            f"  {record['name']:<36} {timing['total_seconds']:6.1f} s   steps {timing['train_loop_seconds']:6.1f}   "
            f"evaluations {timing['base_eval_seconds']:5.1f} + {timing['eval_seconds']:5.1f}   "
            f"else {timing['total_seconds'] - inside:5.1f}"
        )
    print(summary(ratios))


def main() -> int:
    """Measure, and print the pairs and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("single", "defaults", "study"))
    parser.add_argument("--pairs", type=int, help="by default 4; of a study 1")
    parser.add_argument("--steps", type=int, help="by default 25; of a study 10")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dataset", default="home_intents", help="whose rows are exported")
    parser.add_argument("--eval-rows", type=int, default=80)
    parser.add_argument("--eval-batch", type=int, default=28, help="TRL's; lorascope fills 1,024 tokens")
    parser.add_argument("--seeds", type=int, default=2, help="of a study")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--form", choices=("script", "cli"), default="script", help="how TRL is started")
    parser.add_argument("--autocast", choices=("true", "false"), default="false", help="TRL's --bf16")
    options = parser.parse_args()
    options.pairs = options.pairs or (1 if options.what == "study" else 4)
    options.steps = options.steps or (10 if options.what == "study" else 25)
    with tempfile.TemporaryDirectory(prefix="lorascope-bench-") as name:
        bench = Bench(options, Path(name))
        rows, asked = bench.files.rows
        print(
            f"{options.dataset}: {rows} train rows of {bench.files.train_tokens / rows:.0f} tokens, {asked} eval rows; "
            f"{options.threads} threads each"
        )
        steps, options.steps = options.steps, 1
        bench.theirs()  # fills the caches of files and data sets
        bench.ours()
        options.steps = steps
        {"single": single, "defaults": defaults, "study": study}[options.what](bench, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
