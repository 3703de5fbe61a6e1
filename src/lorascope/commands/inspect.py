"""lorascope inspect: list a model's attention and FFN modules by layer and role, without loading weights."""

from __future__ import annotations

import argparse
import dataclasses
import json

EXAMPLE = "lorascope inspect mistral7b"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a preset (mistral7b), a hub id, or a folder")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> None:
    """Show a model's module map."""
    from lorascope.api import model_config
    from lorascope.models.quiet import hush
    from lorascope.targets.module_map import inspect_model
    from lorascope.terminal import console, show_modules

    model = model_config(options.model)
    hush()
    modules = inspect_model(model)
    if options.json:
        print(json.dumps(dataclasses.asdict(modules), indent=1))
    else:
        show_modules(console(), modules)
