"""Write docs/messages.md: every error message that the tests of malformed input provoke, to be read together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "messages.md"
TITLES = {
    "ConfigError": "Settings and overrides",
    "DataError": "Data",
    "ModelError": "Models",
    "PlanError": "Strategies that do not fit a model",
    "RunError": "Runs, checkpoints and records",
}
HEAD = """# Error messages

Every message that the tests of malformed input provoke: place, what is wrong, and what to do about it. The page is
written by `make docs`; the tests fail when a message is missing. Paths, hashes and long values are shortened to `…`.
"""


def main() -> None:
    """Run the tests, collect what they provoke, write the page."""
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder, "messages.jsonl")
        command = [sys.executable, "-m", "pytest", "-q", "tests/malformed"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"LORASCOPE_MESSAGES": str(collected)})
        if done.returncode:
            sys.exit("the tests failed: docs/messages.md stays as it is")
        found = {tuple(json.loads(line)) for line in collected.read_text(encoding="utf-8").splitlines()}
    lines = [HEAD]
    for kind, title in TITLES.items():
        messages = sorted(message for name, message in found if name == kind)
        lines += [f"## {title}", "", *(f"```\n{message}\n```" for message in messages), ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
    print(f"{PAGE.relative_to(ROOT)}: {len(found)} messages")


if __name__ == "__main__":
    main()
