"""The pinned dependencies against the Python advisory database: requirements.lock comes in, known weaknesses come out.

python scripts/audit.py      exit 1 where one is known; says so and exits 0 where no database answers
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
AUDITOR = "pip-audit==2.10.1"


def main() -> int:
    """Ask, with an auditor in an environment of its own."""
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=True)
        python = str(Path(name) / "bin" / "python")
        installed = subprocess.run([python, "-m", "pip", "install", "--quiet", AUDITOR], capture_output=True, text=True)
        if installed.returncode:
            print(f"skipped: {AUDITOR} cannot be installed here")
            return 0
        command = [python, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json", "-r"]
        answer = subprocess.run([*command, str(ROOT / "requirements.lock")], capture_output=True, text=True)
    try:
        packages = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"skipped: the advisory database does not answer: {answer.stderr.strip().splitlines()[-1:]}")
        return 0
    known = [one for one in packages if "vulns" in one]
    if not known:
        print(f"skipped: the advisory database knows none of the {len(packages)} packages from here")
        return 0
    weak = [one for one in known if one["vulns"]]
    for one in weak:
        print(f"{one['name']} {one['version']}: {', '.join(vuln['id'] for vuln in one['vulns'])}")
    print(f"{len(known)} of {len(packages)} packages were looked up, {len(weak)} have known weaknesses")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
