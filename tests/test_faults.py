"""The short form of `make faults`: a kill of each kind of run, a storm of signals, broken checkpoints, a full disk."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="forks and signals as Linux has them")
def test_runs_that_are_killed_starved_and_disturbed_end_as_if_nothing_had_happened():
    command = [sys.executable, str(ROOT / "scripts" / "faults.py"), "--kills", "4", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing wrong, nothing hung" in done.stdout
