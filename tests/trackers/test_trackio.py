"""What a local Trackio project holds, read back from its SQLite file; a process of its own, as Trackio reads
TRACKIO_DIR when it is imported."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("trackio")

ROOT = Path(__file__).parents[2]
NO_NETWORK = """
import runpy, socket, sys
def refuse(*place, **_):
    print("LOOKUP", place, file=sys.stderr)
    raise OSError("no network")
socket.getaddrinfo = refuse
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def test_a_local_project_holds_the_runs_history_and_config_and_nobody_was_asked(tiny_words, tmp_path):
    words = [word for word in tiny_words if word != "logger=none"]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "project"), "HF_TOKEN": "hf_of_nobody_at_all"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}  # transformers' greeting is not Trackio's
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *words, "logger=trackio", "logger.group=g", "train.logging_steps=1"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "LOOKUP" not in done.stderr
    assert "* Trackio" not in done.stdout
    assert "trackio show --project lorascope" in done.stdout
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    database = sqlite3.connect(tmp_path / "project" / "lorascope.db")
    rows = [
        {"step": step, **json.loads(values)}
        for step, values in database.execute("select step, metrics from metrics order by id")
    ]
    assert rows == [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    ((name, config),) = database.execute("select run_name, config from configs")
    assert name == folder.name
    assert json.loads(config)["_Group"] == "g"
    assert json.loads(config)["target"] == json.loads((folder / "run.json").read_text())["config"]["target"]
    assert b"hf_of_nobody" not in (tmp_path / "project" / "lorascope.db").read_bytes()
