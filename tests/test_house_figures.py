"""The figures of `scripts/house.py` on a small tree that was counted by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from house import figures, read_modules

SCRIPT = Path(__file__).parents[1] / "scripts" / "house.py"
ONE = '''"""Five lines, two functions of two lines each."""
def first():
    return 1
def second():
    return 2
'''
TWO = '''"""Ten lines: a method of five lines holds a function of two; a nested class is not counted."""
class Box:
    class Config: ...

    @property
    def value(self):
        """One."""

        def inner():
            return 1
'''


@pytest.fixture
def tree(tmp_path):
    long = "def long():\n" + "    pass\n" * 60
    files = {
        "one.py": ONE,
        "two.py": TWO,
        "room/__init__.py": '"""A package with nothing in it."""\n',
        "room/one.py": "class Box: ...\n\n\n" + long,
        "room/config.py": "class Config: ...\n",
        "other/__init__.py": "",
        ".hidden/one.py": "x = 1\n",
        "notes.txt": "def no(): ...\n",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_the_figures_of_a_small_tree_are_those_counted_by_hand(tree):
    modules = read_modules(tree)
    lengths = {str(module.path): module.lines for module in modules}
    assert lengths == {"one.py": 5, "two.py": 10, "room/one.py": 64, "room/config.py": 1}
    assert figures(modules) == {
        "modules": "4",
        "lines": "80",
        "median lines of a module": "7.5",  # of 1 5 10 64
        "90th percentile lines of a module": "64",
        "median lines of a function": "2",  # of 2 2 2 5 61, decorators not counted
        "longest function": "61",
        "functions over 60 lines": "1",
        "class names used twice": "1",  # Box; Config stands once at the top of a module
        "module names used twice": "1",  # one
    }


def test_names_behind_the_figures_are_printed(tree):
    done = subprocess.run([sys.executable, SCRIPT, tree], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "room/one.py: long (line 4), 61 lines" in done.stdout
    assert done.stdout.endswith("class names used twice:\n  Box\n\nmodule names used twice:\n  one\n")


def test_a_folder_without_modules_is_named(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    remedy = "Name a source folder: python scripts/house.py src"
    assert done.stderr.strip() == f"{tmp_path} holds no Python modules. {remedy}"
