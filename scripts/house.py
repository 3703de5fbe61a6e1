"""Print the size of a source folder: modules, functions, and names that are used twice.

python scripts/house.py [FOLDER]      the folder is src/lorascope by default

docs/design.md compares these figures with other projects' and defines them.
"""

from __future__ import annotations

import ast
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCREEN = 60  # lines of a function that still fits on one


@dataclass(frozen=True)
class Module:
    """One Python file: its path, its lines, and the names and lengths of what it defines."""

    path: Path
    lines: int
    functions: dict[str, int]  # name with its line -> lines
    classes: tuple[str, ...]


def read_modules(folder: Path) -> list[Module]:
    """Every module below a folder; files with nothing but a docstring are left out, and so are hidden folders."""
    paths = sorted(folder.rglob("*.py"))
    shown = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [module for path in shown if (module := _read(path, folder))]


def _read(path: Path, folder: Path) -> Module | None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path))
    if len(tree.body) == (ast.get_docstring(tree) is not None):
        return None
    functions = {
        f"{node.name} (line {node.lineno})": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    classes = tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    return Module(path.relative_to(folder), len(text.splitlines()), functions, classes)


def figures(modules: list[Module]) -> dict[str, str]:
    """Each figure of the docs page by its name, as the page has it.

    Raises:
        ValueError: when there is no module.
    """
    if not modules:
        raise ValueError("there are no Python modules to measure")
    lines = sorted(module.lines for module in modules)
    functions = [length for module in modules for length in module.functions.values()] or [0]
    return {
        "modules": f"{len(lines):,}",
        "lines": f"{sum(lines):,}",
        "median lines of a module": _number(statistics.median(lines)),
        "90th percentile lines of a module": f"{lines[math.ceil(0.9 * len(lines)) - 1]:,}",
        "median lines of a function": _number(statistics.median(functions)),
        "longest function": f"{max(functions):,}",
        f"functions over {SCREEN} lines": f"{sum(length > SCREEN for length in functions):,}",
        "class names used twice": f"{len(twice_named(class_names(modules))):,}",
        "module names used twice": f"{len(twice_named(module_names(modules))):,}",
    }


def twice_named(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def class_names(modules: list[Module]) -> Iterator[str]:
    """The names of all classes at module level."""
    yield from (name for module in modules for name in module.classes)


def module_names(modules: list[Module]) -> Iterator[str]:
    """Module names; every package has its `__init__`, so these are no duplicates."""
    yield from (module.path.stem for module in modules if module.path.stem != "__init__")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def main(folder: Path) -> None:
    """Print the figures, then the names behind those that should be zero."""
    modules = read_modules(folder)
    if not modules:
        raise SystemExit(f"{folder} holds no Python modules. Name a source folder: python scripts/house.py src")
    for name, value in figures(modules).items():
        print(f"{name:<36}{value:>8}")
    long = [f"{m.path}: {name}, {n} lines" for m in modules for name, n in m.functions.items() if n > SCREEN]
    for title, names in (
        (f"functions over {SCREEN} lines", long),
        ("class names used twice", twice_named(class_names(modules))),
        ("module names used twice", twice_named(module_names(modules))),
    ):
        if names:
            print(f"\n{title}:\n  " + "\n  ".join(names))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src" / "lorascope")
