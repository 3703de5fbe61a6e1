"""lorascope merge and export: take a run's adapter home."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.cli import Command
from lorascope.cli.cmd_runs import find_run
from lorascope.config.validation import is_local
from lorascope.errors import RunError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lorascope.config.schema import ModelConfig


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", metavar="RUN", help="a run's folder, its run id, or the beginning of its name")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RUN/merged)")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where ids and names are looked for (runs)")
    kinds = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=kinds, help="of the merged weights (default: that of the run)")
    parser.add_argument(
        "--no-check", action="store_true", help="do not compare the merged model with what was evaluated"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def _run_merge(options: argparse.Namespace) -> None:
    """Merge, compare, print."""
    from lorascope.console import console, hush
    from lorascope.delivery.checked_merge import merge_run, show_merge

    record, folder = find_run(options.run, options.runs)
    hush()
    out = Path(options.out) if options.out else folder / "merged"
    found = merge_run(record, folder, out, dtype=options.dtype, check=not options.no_check)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show_merge(console(), found)


MERGE = Command(
    "merge",
    "write a run's adapter into the weights of its base, and compare the result with what was evaluated.",
    "lorascope merge qv_ffn-smollm2",
    _merge_arguments,
    _run_merge,
)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    from lorascope.delivery.gguf_adapter import ENGINE
    from lorascope.delivery.uniform_rank import FOLDERS

    parser.add_argument("run", metavar="RUN", help="a run's folder, its run id, or the beginning of its name")
    parser.add_argument(
        "--for", dest="engine", choices=(*FOLDERS, ENGINE), default="peft", help="who is to load it (peft)"
    )
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RUN/export-ENGINE)")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where ids and names are looked for (runs)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _run_export(options: argparse.Namespace) -> None:
    """Write the adapter, and say what it has become."""
    from lorascope.config.schema import RunConfig, from_dict
    from lorascope.delivery.gguf_adapter import ENGINE, FILE, export_gguf
    from lorascope.delivery.uniform_rank import export
    from lorascope.records.record import Status
    from lorascope.records.store import ADAPTER

    record, folder = find_run(options.run, options.runs)
    if record.status is not Status.done:
        raise RunError(str(folder), f"is {record.status}, and has no adapter.", "Finish it: the same command.")
    out = Path(options.out) if options.out else folder / f"export-{options.engine}"
    model = from_dict(RunConfig, record.config).model
    base = (model.hub_id or "") if not model.path or is_local(model.path) else model.path
    if options.engine == ENGINE:
        found = export_gguf(folder / ADAPTER, out, _base_config(model), base)
        out = out / FILE
    else:
        found = export(folder / ADAPTER, out, options.engine, base)
    if options.json:
        print(json.dumps(found | {"out": str(out)}, indent=1))
        return
    was = ", ".join(map(str, found["ranks"]))
    print(f"exported  {out}   {found['modules']} modules at rank {found['rank']} (was {was}), alpha / r = 1")
    if options.engine == ENGINE:
        kind = f"architecture {found['architecture']}, {found['blocks']} blocks"
        packed = f", {model.package_file} of {model.package} too" if model.package else ""
        print(f"fits      a GGUF of {base or model.path} ({kind}){packed}")
        print(f"load      llama-cli -m BASE.gguf --lora {shlex.quote(str(out))}")


def _base_config(model: ModelConfig) -> PretrainedConfig:
    """The config of a run's base as it is stored; of a packaged one, as its preset says."""
    from lorascope.base.architecture import load_architecture
    from lorascope.console import hush

    hush()
    return load_architecture(model if model.package else dataclasses.replace(model, architecture={}))[0]


EXPORT = Command(
    "export",
    "write a run's adapter with one rank and scale for all modules, as engines want it; it computes the same.",
    "lorascope export qv_ffn-smollm2 --for vllm",
    _export_arguments,
    _run_export,
)
