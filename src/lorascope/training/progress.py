"""Tells the screen and the trackers of a training's steps, as a callback of transformers' Trainer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lorascope.records.metrics import EVAL_LOSS, TRAIN_LOSS
from lorascope.records.trackers import Trackers
from lorascope.terminal import Bar

if TYPE_CHECKING:
    from transformers import TrainerCallback

KEPT = ("loss", "grad_norm", "learning_rate", "epoch", "num_input_tokens_seen", EVAL_LOSS.name)


def progress_callback(bar: Bar, trackers: Trackers) -> TrainerCallback:
    """A callback that moves the bar a step at a time, and passes on what the trainer logs."""
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):
        began = 0.0
        read = 0  # tokens, by earlier sessions

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began, self.read = time.perf_counter(), state.num_input_tokens_seen
            bar.total = state.max_steps
            bar.bar.update(bar.task, total=state.max_steps)
            bar.step(state.global_step, tell=False)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            bar.step(tell=False)  # this step's loss is logged after it

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if TRAIN_LOSS.name in (logs or {}):  # the end of a session is no step
                return
            values = {name: float(value) for name, value in (logs or {}).items() if name in KEPT}
            if "loss" in values:
                speed = (state.num_input_tokens_seen - self.read) / (time.perf_counter() - self.began)
                bar.step(0, note=f"loss {values['loss']:.3f}  {speed:.0f} tok/s")
            if values:
                trackers.log(state.global_step, values)

    return ProgressCallback()
