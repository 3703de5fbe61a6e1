"""The house is as README and CONTRIBUTING describe it."""

import ast
import graphlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import house
from lorascope.compose import compose

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lorascope"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
# who may import whom, by room: all rooms are listed, and no room imports one below it
MAY_IMPORT = {
    "errors": set(),
    "formats": set(),
    "console": set(),
    "compat": set(),
    "stats": set(),
    "interrupts": {"errors"},
    "config": {"compat", "console", "errors"},
    "data": {"config", "errors"},
    "records": {"config", "errors", "interrupts"},
    "base": {"config", "errors"},
    "targets": {"base", "compat", "config", "errors", "formats"},
    "evaluation": {"base", "config", "data", "errors", "records"},
    "trackers": {"config", "errors", "records"},
    "planning": {
        *("base", "compat", "config", "console", "data", "errors", "evaluation", "formats", "records", "targets"),
    },
    "training": {
        *(
            "compat",
            "config",
            "console",
            "data",
            "errors",
            "evaluation",
            "interrupts",
            "planning",
            "records",
            "targets",
        ),
        "trackers",
    },
    "compose": {"compat", "config", "data", "errors", "evaluation", "records"},
    "session": {"base", "config", "console", "data", "planning", "targets"},
    "run_reporter": {"config", "console", "data", "evaluation", "formats", "planning", "records"},
    "run": {
        *("base", "compat", "config", "console", "delivery", "evaluation", "interrupts", "planning", "records"),
        *("run_reporter", "session", "targets", "trackers", "training"),
    },
    "reports": {"config", "console", "errors", "formats", "records", "stats", "trackers"},
    "study": {
        *("config", "console", "errors", "evaluation", "formats", "interrupts", "planning", "records", "reports"),
        *("stats", "trackers"),
    },
    "delivery": {
        *(
            "base",
            "config",
            "console",
            "data",
            "errors",
            "evaluation",
            "formats",
            "records",
            "reports",
            "session",
            "stats",
        ),
    },
    "api": {"compose", "config", "console", "records", "run", "targets"},
    "cli": {
        *("api", "base", "compat", "compose", "config", "console", "data", "errors", "interrupts", "planning"),
        *("delivery", "formats", "records", "reports", "run", "session", "study", "targets", "trackers"),
    },
    "__init__": {"api"},
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> set[str]:
    """The rooms of lorascope that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{alias.name}" if node.module == "lorascope" else node.module for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("lorascope.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    assert imports(path) - {room(path)} <= MAY_IMPORT[room(path)]


def test_no_two_rooms_may_import_each_other():
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()  # raises where there is a circle


def test_no_module_imports_itself_through_others():
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in MODULES
    }
    imported = {name: modules_imported(path, set(names)) - {name, "lorascope"} for name, path in names.items()}
    graphlib.TopologicalSorter(imported).prepare()


def modules_imported(path: Path, known: set[str]) -> set[str]:
    """The modules of lorascope that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return found & known


def test_no_class_and_no_module_has_anothers_name():
    modules = house.read_modules(ROOT / "src")
    assert house.twice_named(house.class_names(modules)) == []
    assert house.twice_named(house.module_names(modules)) == []


def test_modules_are_few_and_functions_fit_on_a_screen():
    modules = house.read_modules(ROOT / "src")
    assert len(modules) <= 140
    assert max(length for module in modules for length in module.functions.values()) <= house.SCREEN


def test_only_the_door_knows_hydra_and_omegaconf():
    for path in MODULES:
        if path.name not in ("compat.py", "compose.py", "override_errors.py", "text_values.py", "main.py"):
            assert not re.search(r"^\s*(from|import) (hydra|omegaconf)\b", path.read_text(), re.MULTILINE), path


def test_importing_every_module_costs_nothing():
    names = [
        ".".join(("lorascope", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in MODULES
    ]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_opens_with_a_sentence(path):
    assert (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].rstrip().endswith((".", ":", ","))


def commands(name: str) -> list[list[str]]:
    """The `python train.py …` lines of a page, as words; those with their output shown are run by another test."""
    lines = re.findall(r"(?<!\$ )python train\.py([^\n`]*)", (ROOT / name).read_text())
    return [shlex.split(line.partition("#")[0]) for line in lines]


@pytest.mark.parametrize("words", commands("README.md"), ids=" ".join)
def test_every_command_in_the_readme_composes(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.yaml").write_text("ranks: {q: 8}\n")
    (tmp_path / "experiment").mkdir()
    own_study = re.search(r"```yaml\n(# @package _global_.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "experiment" / "mine.yaml").write_text(own_study[1])
    (tmp_path / "my.jsonl").touch()
    own = tmp_path if "--config-dir" in words else None
    words = [word for word in words if "=" in word]
    # of a sweep, its first choice
    compose([re.sub(r"=([\w-]+),.*", r"=\1", word) for word in words], extra_dir=own)


SHELLS = [shell for shell in ("bash", "zsh", "dash") if shutil.which(shell)]


def typed() -> list[str]:
    """What README and the shipped configs show to be typed, quotes and all."""
    readme = (ROOT / "README.md").read_text()
    configs = "\n".join(path.read_text() for path in (ROOT / "conf").rglob("*.yaml"))
    lines = re.findall(r"(?:python train\.py|lorascope \w+) ([^\n`#]*)", readme + configs)
    overrides = re.findall(r"`('?[a-z_]+(?:\.\w+)*=[^`\n]+)`", readme)
    return [line for line in (*lines, *overrides) if "=" in line]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_the_readme_shows_can_be_typed_into_a_shell(shell, tmp_path):
    lines = typed()
    assert len(lines) > 60
    script = "".join(f"printf '%s\\0' {line}\nprintf '\\n'\n" for line in lines)
    done = subprocess.run([shell, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    for line, words in zip(lines, done.stdout.split("\n"), strict=False):
        assert words.split("\0")[:-1] == shlex.split(line), line


def test_what_the_readme_shows_has_no_pattern_that_zsh_would_look_for_among_files():
    for line in typed():
        bare = re.sub(r"""'[^']*'|"[^"]*\"""", "", line)
        assert not re.search(r"[][{}*?~<>()|&;$]", bare), line


@pytest.mark.parametrize(
    "override", [line for line in typed() if re.match(r"'?dataset\.(prompt|labels|columns)", line)]
)
def test_what_the_readme_shows_of_a_data_set_is_read_as_it_stands(override):
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {override}"], capture_output=True, text=True, check=True)
    words = done.stdout.split("\0")[:-1]
    assert compose(["dataset=file", "dataset.path=my.jsonl", *words]).dataset


TRANSCRIPTS = re.findall(
    r"```\n\$ (python train\.py|lorascope) ([^\n]*)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize(("program", "words", "shown"), TRANSCRIPTS, ids=[words for _, words, _ in TRANSCRIPTS])
def test_what_the_readme_shows_is_what_the_command_prints(program, words, shown):
    start = ["train.py"] if "train" in program else [str(Path(sys.executable).with_name("lorascope"))]
    command = [*([sys.executable] if "train" in program else []), *start, *shlex.split(words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout + done.stderr).strip() == shown.strip()


def test_the_readmes_tree_is_the_tree():
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"```\n(train\.py .*?)```", readme, re.DOTALL)[1]
    named = set()
    folders: list[str] = []
    for line in tree.splitlines():
        if match := re.match(r"( *)([\w./-]+)", line):
            depth = len(match[1]) // 2
            folders = [*folders[:depth], match[2].rstrip("/")]
            named.add("/".join(folders))
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    rooms = {"/".join(file.split("/")[:1]) for file in tracked if not file.startswith(".")}
    assert rooms <= {name.split("/")[0] for name in named}
    for path in MODULES:
        if path.name != "__init__.py":
            place = f"src/lorascope/{path.relative_to(PACKAGE).parts[0]}"
            assert place in named, place


def test_every_make_target_is_listed():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][a-z-]*):(.*)$", makefile, re.MULTILINE)
    assert targets
    assert all("## " in rest for _, rest in targets)


# where packages come from is the business of pip's, apt's and npm's own settings on each machine
REGISTRY = re.compile(
    r"(?i)\b(pypi|pythonhosted|npmjs|debian|ubuntu|conda|jsdelivr|unpkg|pytorch)\.(org|com|io|net)/\w"
    r"|--(extra-)?index-url|--find-links|index_url\s*=|\b(registry|mirror)\.[a-z-]+\.[a-z]+"
)


@pytest.mark.parametrize("line", ["pip install --index-url X", "https://files.pythonhosted.org/packages/a.whl"])
def test_the_pattern_finds_a_registry(line):
    assert REGISTRY.search(line)


def test_no_file_names_a_registry():
    listed = subprocess.run(["git", "grep", "-lIE", "."], cwd=ROOT, capture_output=True, text=True)
    files = set(listed.stdout.split()) - {"tests/test_house.py"}
    assert "Makefile" in files
    found = {name: match[0] for name in files if (match := REGISTRY.search((ROOT / name).read_text()))}
    assert found == {}


def test_the_lock_satisfies_pyproject():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line
    )
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for requirement in map(Requirement, wanted):
        if requirement.name != "torch":  # installed first, by the Makefile
            assert requirement.specifier.contains(locked[requirement.name.lower().replace("_", "-")]), requirement


def test_an_installed_wheel_works_from_any_folder(tmp_path):
    """Built as pip builds it, unpacked elsewhere, used without the checkout."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("lorascope-*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "site"], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import lorascope; assert 'site' in lorascope.__file__\n"
        "from lorascope.cli.main import main; main(['train', 'target=qv_ffn', '--cfg', 'job'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ffn: 4" in done.stdout
