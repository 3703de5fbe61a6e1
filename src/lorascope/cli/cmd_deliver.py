"""lorascope merge, export, ship and push: take what won home."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from lorascope.cli import Command, add_quiet, add_run, add_runs_dir
from lorascope.cli.cmd_runs import find_run
from lorascope.console import output, result
from lorascope.errors import LorascopeError, complain


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RUN/merged)")
    add_runs_dir(parser)
    kinds = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=kinds, help="of the merged weights (default: that of the run)")
    parser.add_argument(
        "--no-check", action="store_true", help="do not compare the merged model with what was evaluated"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to compare (default: that of the run)")
    add_quiet(parser, "the folder")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def _run_merge(options: argparse.Namespace) -> None:
    """Merge, compare, print."""
    from lorascope.console import console, hush
    from lorascope.delivery.checked_merge import merge_run, show_merge
    from lorascope.delivery.finished_run import finished_run

    run = finished_run(*find_run(options.run, options.runs)).on(options.device)
    hush()
    out = Path(options.out) if options.out else run.folder / "merged"
    found = merge_run(run, out, dtype=options.dtype, check=not options.no_check, shown=console(stderr=True))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show_merge(console(), found)
        result(out)


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

    add_run(parser)
    parser.add_argument(
        "--for", dest="engine", choices=(*FOLDERS, ENGINE), default="peft", help="who is to load it (peft)"
    )
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RUN/export-ENGINE)")
    add_runs_dir(parser)
    add_quiet(parser, "the folder or file")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def _run_export(options: argparse.Namespace) -> None:
    """Write the adapter, and say what it has become."""
    from lorascope.console import hush
    from lorascope.delivery.finished_run import finished_run
    from lorascope.delivery.gguf_adapter import ENGINE, FILE, export_gguf
    from lorascope.delivery.model_card import write_card
    from lorascope.delivery.uniform_rank import export

    hush()
    run = finished_run(*find_run(options.run, options.runs))
    out = place = Path(options.out) if options.out else run.folder / f"export-{options.engine}"
    if options.engine == ENGINE:
        found = export_gguf(run.adapter, out, run.stored_config(), run.base_name)
        place = out / FILE
    else:
        found = export(run.adapter, out, options.engine, run.base_name)
    write_card(run.record, out)
    if options.json:
        print(json.dumps(found | {"out": str(place)}, indent=1))
        return
    if output():
        result(place)
        return
    was = ", ".join(map(str, found["ranks"]))
    print(f"exported  {place}   {found['modules']} modules at rank {found['rank']} (was {was}), alpha / r = 1")
    if options.engine == ENGINE:
        kind = f"architecture {found['architecture']}, {found['blocks']} blocks"
        model = run.config.model
        packed = f", {model.package_file} of {model.package} too" if model.package else ""
        print(f"fits      a GGUF of {run.base_name or model.path} ({kind}){packed}")
        print(f"load      llama-cli -m BASE.gguf --lora {shlex.quote(str(place))}")


EXPORT = Command(
    "export",
    "write a run's adapter with one rank and scale for all modules, as engines want it; it computes the same.",
    "lorascope export qv_ffn-smollm2 --for vllm",
    _export_arguments,
    _run_export,
)


def _ship_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("study", metavar="STUDY", help="a study's folder")
    parser.add_argument("overrides", metavar="SETTING=VALUE", nargs="*", help="of the policy: max_forgetting=1")
    text = "a policy of conf/ship, or a file of your own (default)"
    parser.add_argument("--policy", metavar="NAME", default="default", help=text)
    parser.add_argument("--arm", help="ship this one, not the cheapest that is not worse than the best")
    parser.add_argument("--task", help="whose runs are shipped, where the study has several tasks")
    parser.add_argument("--out", metavar="DIR", help="the folder to deploy (default: STUDY/ship)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to measure again (default: that of the run)")
    add_quiet(parser, "the folder to deploy")
    parser.add_argument("--json", action="store_true", help="print the decision as JSON")


def _run_ship(options: argparse.Namespace) -> None:
    """Decide and write; exit with 0 (shipped), 2 (refused) or 1 (an error)."""
    from lorascope.compose import read_policy
    from lorascope.console import console, hush
    from lorascope.delivery import shipping

    try:
        policy = read_policy(options.policy, options.overrides)
        hush()
        folder = Path(options.study).expanduser()
        out = Path(options.out).expanduser() if options.out else folder / "ship"
        shipment = shipping.ship(folder, policy, out, task=options.task, arm=options.arm, device=options.device)
    except LorascopeError as error:
        complain(error)
        sys.exit(1)  # 2 means that it was refused
    if options.json:
        print(json.dumps(shipping.plain(shipment, shipping.as_report(shipment, policy)), indent=1))
    else:
        shipping.show(console(), shipment, folder)
        result(shipment.out)
    sys.exit(0 if shipment.out else 2)


SHIP = Command(
    "ship",
    "write the folder to deploy of a study's cheapest arm that is not worse, or refuse: exits with 0, 2 if refused.",
    "lorascope ship runs/placement max_forgetting=1",
    _ship_arguments,
    _run_ship,
)


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    text = "a run, whose adapter is pushed, or a folder that merge, export or ship wrote"
    parser.add_argument("what", metavar="RUN", help=text)
    parser.add_argument(
        "--to", metavar="ORG/NAME", required=True, help="the repository; it is made where there is none"
    )
    parser.add_argument("--private", action="store_true", help="make it private, where it is made")
    add_runs_dir(parser)
    add_quiet(parser, "the address")
    parser.add_argument("--json", action="store_true", help="print what was pushed as JSON")


def _run_push(options: argparse.Namespace) -> None:
    """Push, and print where it is."""
    from lorascope.console import hush
    from lorascope.delivery.finished_run import finished_run
    from lorascope.delivery.pushing import WEIGHTS, push
    from lorascope.formats import megabytes

    folder = Path(options.what).expanduser()
    weights = any((folder / name).is_file() for name in WEIGHTS)
    what = folder if weights else finished_run(*find_run(options.what, options.runs))
    hush()
    found = push(what, options.to, private=options.private)
    if options.json:
        print(json.dumps(found, indent=1))
    elif options.quiet:
        print(found["url"])
    else:
        print(f"pushed  {found['url']}   {found['files']} files, {megabytes(found['bytes'])}")


PUSH = Command(
    "push",
    "push a run's adapter, or what merge, export or ship wrote, to a hub; nothing of this machine is in it.",
    "lorascope push qv_ffn-smollm2 --to my-team/home-intents",
    _push_arguments,
    _run_push,
)
