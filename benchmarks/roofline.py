"""A training step against the machine's bfloat16 matrix product: the share that is reached, and where the rest goes.

    python benchmarks/roofline.py                          q_v on the embedded model, three shapes of a batch
    python benchmarks/roofline.py target=qv_ffn --shapes 4x128

The step is the run's own (the trainer's, with loss, backward, clipping, optimizer). Its floating-point operations are
those that `lorascope plan` tells; tests/estimate/test_compute.py holds them against torch's counter. The limit is a
product of two large squares; beside it stand the model's own products at this many tokens, each as often as the step
needs it. On a busy machine both are the fastest of many, and the step is not: measure on a quiet one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SHAPES = "1x512,8x64,20x24"
WARM = 2  # steps before anything is measured
KINDS = (
    ("attention", ("scaled_dot_product", "flash_attention")),
    ("loss", ("log_softmax", "nll_loss", "cross_entropy")),
    ("matrix products", ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul", "mkldnn")),
    ("copies", ("copy", "clone", "contiguous", "aten::cat", "aten::index", "gather", "aten::to", "reshape")),
    ("dropout", ("dropout", "bernoulli")),
)
UPDATE = ("Optimizer.step", "Optimizer.zero_grad", "clip_grad", "_foreach_norm", "linalg_vector_norm")


def rate(left: Any, right: Any, seconds: float = 0.4) -> float:
    """FLOP/s of `left @ right`, the fastest of several."""
    flop = 2 * left.shape[0] * left.shape[1] * right.shape[1]
    left @ right
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return float(flop / best)


def limit(size: int = 2048) -> float:
    """FLOP/s of a product of two large squares in bfloat16."""
    import torch

    square = torch.randn(size, size, dtype=torch.bfloat16)
    return rate(square, square.clone(), 2.0)


def own_rate(model: Any, tokens: int, supervised: int) -> float:
    """FLOP/s of the model's own products, forward and towards the input, each as often as a step needs it."""
    import torch

    head = model.get_output_embeddings()
    times, flops, known = 0.0, 0.0, {}
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        rows = supervised if module is head else tokens
        weight = module.weight.detach()
        for way, matrix in (("forward", weight.t()), ("backward", weight)):
            key = (way, rows, *weight.shape)
            if key not in known:
                known[key] = rate(torch.randn(rows, matrix.shape[0], dtype=weight.dtype), matrix)
            flop = 2 * rows * weight.numel()
            flops, times = flops + flop, times + flop / known[key]
    return flops / times


def watcher(profiled: int) -> Any:
    """A callback that times whole steps, and then looks into some with torch's profiler."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[float] = []
            self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.began = 0.0
            self.profiled = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now, left = time.perf_counter(), state.max_steps - state.global_step
            if state.global_step > WARM and left >= profiled:
                self.steps.append(now - self.began)
            if left == profiled:
                self.profile.start()
                now = time.perf_counter()
            elif left == 0:
                self.profiled = now - self.began_profile
                self.profile.stop()
            if left >= profiled:
                self.began_profile = now
            self.began = now

    return Watcher()


def shares(found: Any, vocabulary: int) -> dict[str, float]:
    """Share of the profiled time in each kind of operation; what no operation took is Python's."""
    spent: Counter[str] = Counter()
    for event in found.profile.events():
        spent[kind_of(event, vocabulary)] += event.self_cpu_time_total / 1e6
    spent.pop("", None)
    spent["Python and dispatch"] = max(0.0, found.profiled - sum(spent.values()))
    return {name: seconds / found.profiled for name, seconds in spent.most_common()}


def kind_of(event: Any, vocabulary: int) -> str:
    """What an operation is a part of; nothing for what only holds others together."""
    above, names = event, []
    while above is not None:
        names.append(above.name)
        if any(name in above.name for name in UPDATE):
            return "clipping and optimizer"
        above = above.cpu_parent
    name = next((name for name in names if "attention" in name), names[0])
    for kind, parts in KINDS:
        if any(part in name for part in parts):
            wide = any(vocabulary in shape for shape in event.input_shapes or [] if isinstance(shape, list | tuple))
            return "head and loss" if kind == "loss" or (wide and kind == "matrix products") else kind
    return "elementwise and other" if name.startswith("aten::") else ""


def measured(words: list[str], rows: int, width: int, options: argparse.Namespace, top: float) -> None:
    """Train on batches of this shape, and print a block."""
    from lorascope.base.loading import load_base
    from lorascope.compose import compose
    from lorascope.config.machine import resolve
    from lorascope.data.tokenization import IGNORED, TokenizedSplit
    from lorascope.planning.compute import estimate_compute
    from lorascope.planning.model_dims import survey
    from lorascope.planning.step_spec import step_spec_of
    from lorascope.targets.attach import attach
    from lorascope.targets.build_plan import plan_targets
    from lorascope.targets.module_map import read_model
    from lorascope.training.checkpoints import Saving
    from lorascope.training.trainer import train_adapter

    steps = WARM + options.steps + options.profiled
    config = resolve(
        compose([*words, f"train.max_steps={steps}", f"train.batch_size={rows}", f"train.max_length={width}"])
    )
    modules, model = read_model(config.model)
    plan = plan_targets(config.target, modules)
    base = load_base(config)
    learned = max(1, round(width * options.supervised))
    own = own_rate(base.model, rows * width, rows * learned)
    flop = estimate_compute(step_spec_of(config, length=width, supervised=learned), survey(model), plan).step
    text = base.tokenizer("the quick brown fox jumps over the lazy dog " * width)["input_ids"]
    lines = [text[start : start + width] for start in range(rows * steps)]
    labels = [[IGNORED] * (width - learned) + line[-learned:] for line in lines]
    data, seen = TokenizedSplit(tuple(lines), tuple(labels), ""), watcher(options.profiled)
    with tempfile.TemporaryDirectory(prefix="lorascope-roofline-") as name:
        train_adapter(
            attach(base.model, plan, 0), base.tokenizer, data, data, config, Saving(Path(name)),
            evaluate=dict, callbacks=[seen], warn=print,
        )  # fmt: skip
    step = statistics.median(seen.steps)
    reached = flop / step
    print(
        f"\n{rows} x {width} tokens, {learned} learned of a row: {step:.3f} s a step ({min(seen.steps):.3f} to "
        f"{max(seen.steps):.3f}), {rows * width / step:.0f} tokens/s, {flop / 1e9:.0f} GFLOP\n"
        f"  {reached / 1e9:.0f} GFLOP/s: {100 * reached / top:.0f} % of the limit, {100 * reached / own:.0f} % of the "
        f"model's own products ({own / 1e9:.0f} GFLOP/s at this size)"
    )
    for kind, share in shares(seen, base.model.config.vocab_size).items():
        print(f"  {100 * share:5.1f} %  {kind}")
    if options.operations:
        print(seen.profile.key_averages(group_by_input_shape=True).table("self_cpu_time_total", options.operations))


def main() -> int:
    """Print the limit, and a block for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES, help="rows x tokens of a batch, several with commas")
    parser.add_argument("--steps", type=int, default=6, help="that are timed")
    parser.add_argument("--profiled", type=int, default=2, help="that are looked into")
    parser.add_argument("--supervised", type=float, default=0.25, help="share of a row that is learned")
    parser.add_argument("--operations", type=int, default=0, help="print so many of the longest operations")
    options, words = parser.parse_known_args()
    words = [
        "device=cpu", "dataset=airports", "evaluation=none", "logger=none", "train.save_minutes=null", *words,
    ]  # fmt: skip

    import torch

    from lorascope.console import hush

    hush()
    top = limit()
    print(f"limit: {top / 1e9:.0f} GFLOP/s in bfloat16, squares of 2,048, {torch.get_num_threads()} threads")
    for shape in options.shapes.split(","):
        rows, width = map(int, shape.split("x"))
        measured(words, rows, width, options, top)
    print(f"\nlimit again: {limit() / 1e9:.0f} GFLOP/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
