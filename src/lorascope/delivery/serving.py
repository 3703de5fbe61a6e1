"""The command that serves a run: vLLM with adapters beside their base, or transformers with one merged model."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorascope.base.loading import base_folder, load_tokenizer
from lorascope.config.schema import Scheme
from lorascope.data.chat_template import template_of, with_template
from lorascope.delivery.checked_merge import merge_run
from lorascope.delivery.finished_run import FinishedRun
from lorascope.delivery.uniform_rank import export, uniform
from lorascope.errors import RunError
from lorascope.session import base_key

ENGINES = ("vllm", "transformers")
# what vLLM takes as --max-lora-rank
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
INSTALL = {"vllm": "pip install vllm", "transformers": "pip install 'lorascope[serve]'"}


@dataclass(frozen=True)
class Serving:
    """A command, and what it needs to lie on the disk before."""

    engine: str
    words: list[str]
    runs: Sequence[FinishedRun]

    def prepare(self) -> None:
        """Merge the run, or write adapters as the engine reads them, where they do not lie there already.

        Raises:
            RunError: when that cannot be done.
        """
        for run in self.runs:
            place = _place(run, self.engine)
            if place.exists():
                continue
            if self.engine == "transformers":
                merge_run(run, place)
                continue
            export(run.adapter, place, "vllm", run.base_name)
            if template := _template(run):
                (place / "chat_template.jinja").write_text(template, encoding="utf-8")


def installed() -> list[str]:
    """The engines that are here."""
    has_vllm = bool(shutil.which("vllm") or importlib.util.find_spec("vllm"))
    has_transformers = all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai"))
    return [name for name, here in (("vllm", has_vllm), ("transformers", has_transformers)) if here]


def serving(runs: Sequence[FinishedRun], engine: str, *, host: str = "127.0.0.1", port: int = 8000) -> Serving:
    """The command that serves these runs.

    Args:
        runs: on one base.
        engine: one of `ENGINES`; transformers serves one run.
        host: to listen on; this machine alone by default.
        port: to listen on.

    Raises:
        RunError: when the engine cannot serve them together.
    """
    where = ["--host", host, "--port", str(port)]
    if engine == "transformers":
        if len(runs) > 1:
            raise RunError("--engine transformers", "serves one run.", "vLLM serves several adapters on one base.")
        return Serving(engine, [*_program("transformers"), "serve", str(_place(runs[0], engine)), *where], runs)
    first = runs[0]
    for run in runs[1:]:
        if base_key(run.config) != base_key(first.config):
            raise RunError(run.name, f"and {first.name} were trained on other bases.", "Serve them apart.")
        if _template(run) != _template(first):
            raise RunError(run.name, f"and {first.name} have other chat templates.", "Serve them apart.")
    rank = max(uniform(run.adapter, "vllm")[2]["rank"] for run in runs)
    most = next((one for one in RANKS if one >= rank), None)
    if most is None:
        raise RunError(
            first.name, f"has rank {rank}, and vLLM reads up to {RANKS[-1]}.", "Merge it: lorascope merge RUN"
        )
    model = first.config.model
    base = first.base_name if first.base_name and not model.package else str(base_folder(model))
    words = [*_program("vllm"), "serve", base, "--dtype", str(model.dtype), *where]
    if first.config.quantization.scheme is Scheme.nf4:
        words += ["--quantization", "bitsandbytes"]  # as it was trained and evaluated
    if _template(first):
        words += ["--chat-template", str(_place(first, engine) / "chat_template.jinja")]
    words += ["--enable-lora", "--max-lora-rank", str(most), "--max-loras", str(len(runs))]
    words += ["--lora-modules", *(f"{run.name}={_place(run, engine)}" for run in runs)]
    return Serving(engine, words, runs)


def _place(run: FinishedRun, engine: str) -> Path:
    """Where what the engine reads lies."""
    return run.folder / ("merged" if engine == "transformers" else "export-vllm")


def _program(name: str) -> list[str]:
    """The program beside this Python, or wherever it is."""
    beside = Path(sys.executable).with_name(name)
    return [str(beside) if beside.exists() else name]


def _template(run: FinishedRun) -> str:
    """The chat template, where the run has another than its model's."""
    dataset = run.config.dataset
    if not dataset.chat_template and not dataset.template_kwargs:
        return ""
    return template_of(with_template(load_tokenizer(run.config.model), dataset)) or ""
