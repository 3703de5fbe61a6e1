"""lorascope merge and export: take a run's adapter home."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lorascope.cli import Command
from lorascope.cli.cmd_runs import find_run


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
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to compare (default: that of the run)")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def _run_merge(options: argparse.Namespace) -> None:
    """Merge, compare, print."""
    from lorascope.console import console, hush
    from lorascope.delivery.checked_merge import merge_run, show_merge
    from lorascope.delivery.finished_run import finished_run

    run = finished_run(*find_run(options.run, options.runs), options.device)
    hush()
    out = Path(options.out) if options.out else run.folder / "merged"
    found = merge_run(run, out, dtype=options.dtype, check=not options.no_check)
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
    from lorascope.delivery.uniform_rank import ENGINES

    parser.add_argument("run", metavar="RUN", help="a run's folder, its run id, or the beginning of its name")
    parser.add_argument("--for", dest="engine", choices=ENGINES, default="peft", help="who is to load it (peft)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RUN/export-ENGINE)")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="where ids and names are looked for (runs)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _run_export(options: argparse.Namespace) -> None:
    """Write the adapter, and say what it has become."""
    from lorascope.delivery.finished_run import finished_run
    from lorascope.delivery.model_card import write_card
    from lorascope.delivery.uniform_rank import export

    run = finished_run(*find_run(options.run, options.runs), "cpu")
    out = Path(options.out) if options.out else run.folder / f"export-{options.engine}"
    found = export(run.adapter, out, options.engine, run.base_name)
    write_card(run.record, out)
    if options.json:
        print(json.dumps(found | {"out": str(out)}, indent=1))
        return
    was = ", ".join(map(str, found["ranks"]))
    print(f"exported  {out}   {found['modules']} modules at rank {found['rank']} (was {was}), alpha / r = 1")


EXPORT = Command(
    "export",
    "write a run's adapter with one rank and scale for all modules, as engines want it; it computes the same.",
    "lorascope export qv_ffn-smollm2 --for vllm",
    _export_arguments,
    _run_export,
)
