"""The doctor on this machine, and on one where things are broken."""

import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version

import pytest

from lorascope.cli import cmd_doctor, doctor_checks
from lorascope.cli.doctor_checks import Check, package, safely
from lorascope.config.schema import ModelConfig, RunConfig
from lorascope.trackers import wandb_account

pytestmark = pytest.mark.slow

SECRET = "s3cret-s3cret-s3cret"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The doctor's words where bitsandbytes cannot be imported and importing trl ends the process."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "bitsandbytes.py").write_text(f"raise RuntimeError('no CUDA for {SECRET}\\nand more')")
    (folder / "trl.py").write_text("import os; os.abort()")
    environment = os.environ | {
        "PYTHONPATH": str(folder), "HF_TOKEN": SECRET, "WANDB_API_KEY": SECRET, "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    began = time.monotonic()
    code = "from lorascope.cli.main import main; main(['doctor', '--json'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    return done, time.monotonic() - began


def by_name(done) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_it_ends_in_time_whatever_is_broken(broken):
    done, seconds = broken
    assert done.returncode == 1
    assert seconds < 140  # 10 on an idle machine


def test_a_broken_import_is_a_problem_with_the_first_line(broken):
    check = by_name(broken[0])["bitsandbytes"]
    assert check["state"] in ("problem", "note")  # note: a busy machine took too long
    if check["state"] == "problem":
        assert "RuntimeError: no CUDA for [redacted]" in check["found"]
        assert "and more" not in check["found"]
        assert "bitsandbytes>=" in check["remedy"]


def test_no_secret_is_printed(broken):
    done, _ = broken
    assert SECRET not in done.stdout + done.stderr
    assert "a token is set" in by_name(done)["hub"]["found"]


def test_the_checks_that_need_no_import_are_made_all_the_same(broken):
    checks = by_name(broken[0])
    for name in ("python", "memory", "config", "runs folder", "cache folder", "W&B"):
        assert checks[name]["state"] in ("ok", "note"), checks[name]
    assert checks["hub"]["state"] == "note"  # offline is no failure
    assert "HF_HUB_OFFLINE" in checks["hub"]["found"]


def test_every_trouble_has_a_remedy(broken):
    for check in by_name(broken[0]).values():
        assert (check["state"] == "ok") is (check["remedy"] == ""), check


def test_here_nothing_is_wrong(capsys):
    """On an installation that passes these tests the doctor finds no problem."""
    cmd_doctor.DOCTOR.run(namedtuple("Options", "json")(True))
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check for check in checks if check["state"] == "problem"] == []
    assert {"torch", "trl", "scikit-learn", "hub", "gguf"} <= {check["name"] for check in checks}


def told(monkeypatch, capsys, *checks: Check) -> tuple[str, int]:
    monkeypatch.setattr(cmd_doctor, "examine", lambda: list(checks))
    code = 0
    try:
        cmd_doctor.DOCTOR.run(namedtuple("Options", "json quiet")(False, False))
    except SystemExit as end:
        code = end.code
    return capsys.readouterr().out, code


def test_a_problem_that_runs_can_do_without_does_not_fail(monkeypatch, capsys):
    out, code = told(monkeypatch, capsys, Check("matplotlib", "problem", "is not installed", "Run: make setup"))
    assert code == 0
    assert out.endswith("python train.py works here.\n")


def test_a_problem_that_prevents_runs_fails_and_is_named(monkeypatch, capsys):
    bad = Check("peft", "problem", "is not installed", "Run: make setup", prevents=True)
    out, code = told(monkeypatch, capsys, Check("python", "ok", "3.11"), bad)
    assert code == 1
    assert out.endswith("python train.py cannot work here: peft.\n")
    assert "Run: make setup" in out


def test_a_process_that_hangs_is_ended_and_told():
    began = time.monotonic()
    code = f"import time; print('{doctor_checks.MARK}' + '{{\"begin\": \"torch\"}}', flush=True); time.sleep(60)"
    (check,) = cmd_doctor.in_a_process(code, seconds=3)
    assert (check.state, check.prevents) == ("note", False)
    assert check.name in ("torch", "packages")
    assert "took longer than 3 s" in check.found
    assert time.monotonic() - began < 30


def test_a_process_that_crashes_names_the_check_and_the_signal():
    code = f"import os; print('{doctor_checks.MARK}' + '{{\"begin\": \"trl\"}}', flush=True); os.abort()"
    (check,) = cmd_doctor.in_a_process(code)
    assert (check.name, check.state, check.prevents) == ("trl", "problem", True)
    assert "SIGABRT" in check.found


def test_a_process_that_ends_early_shows_its_last_words():
    (check,) = cmd_doctor.in_a_process("raise ImportError('no libtorch')")
    assert (check.state, check.prevents) == ("problem", True)
    assert check.found.endswith("exit code 1: ImportError: no libtorch")


def test_a_slow_import_is_no_fault(monkeypatch):
    monkeypatch.setattr(doctor_checks, "SLOW", 0)
    check = package("rich")
    assert check.state == "ok"
    assert "slow to import" in check.found


@pytest.mark.parametrize("name", ["scikit-learn", "hydra-core", "home-assistant-intents"])
def test_a_package_whose_module_has_another_name_is_found(name):
    assert package(name).state == "ok"


def test_a_package_outside_its_range_is_a_problem_with_the_range(monkeypatch):
    monkeypatch.setattr(doctor_checks, "version", lambda name: "99.0")
    check = package("rich")
    assert (check.state, check.prevents) == ("problem", False)
    assert "99.0 is outside of >=" in check.found
    assert "pip install 'rich>=" in check.remedy


def test_a_package_in_its_range_is_ok():
    check = package("rich")
    assert check.state == "ok"
    assert check.found.startswith(version("rich"))


@pytest.mark.parametrize(("name", "prevents"), [("peft", True), ("wandb", False)])
def test_a_missing_package_prevents_runs_if_they_need_it(monkeypatch, name, prevents):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor_checks, "version", missing)
    check = package(name)
    assert (check.state, check.found, check.prevents) == ("problem", "is not installed", prevents)


def test_whatever_a_check_raises_is_one_line(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", SECRET)

    def check():
        raise SystemExit(f"driver {SECRET}\nTraceback")

    found = safely("torch", check)
    assert (found.state, found.prevents) == ("problem", True)
    assert found.found == "SystemExit: driver [redacted]"


def test_a_runs_folder_that_cannot_be_written_prevents_runs(tmp_path):
    (tmp_path / "file").write_text("")
    check = doctor_checks.runs_folder(RunConfig(runs_dir=str(tmp_path / "file" / "runs")))
    assert (check.state, check.prevents) == ("problem", True)
    assert "runs_dir=FOLDER" in check.remedy
    assert doctor_checks.runs_folder(RunConfig(runs_dir=str(tmp_path / "new" / "runs"))).state in ("ok", "note")
    assert not (tmp_path / "new").exists()


def test_the_cache_is_where_its_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LORASCOPE_CACHE", str(tmp_path / "cache"))
    model = ModelConfig(name="none", package="no_such_package", package_file="x.gguf")
    assert str(tmp_path / "cache") in doctor_checks.cache_folder(model).found
    missing = doctor_checks.embedded_model(model)
    assert (missing.state, missing.prevents) == ("problem", True)
    assert "no-such-package" in missing.found


@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (None, "ok", "reachable"),
        (OSError("http://user:password@proxy refused"), "note", "cannot be reached (OSError)"),
    ],
)
def test_the_hub_is_asked_one_question_and_its_silence_is_a_note(monkeypatch, answer, state, words):
    import huggingface_hub.constants

    asked = []

    def model_info(self, name, timeout):
        asked.append((name, timeout))
        if answer:
            raise answer

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    check = doctor_checks.hub_answers()
    assert check.state == state
    assert words in check.found
    assert "password" not in check.found
    assert len(asked) == 1
    assert asked[0][1] <= 5


def test_wandb_says_its_mode_and_why(monkeypatch):
    monkeypatch.setattr(wandb_account, "wandb_mode", lambda wanted: ("online", "a key is configured"))
    assert doctor_checks.wandb("auto") == Check("W&B", "ok", "online (a key is configured)")
    monkeypatch.setattr(wandb_account, "wandb_mode", lambda wanted: ("offline", "no key is configured"))
    check = doctor_checks.wandb("auto")
    assert (check.state, check.found) == ("note", "offline (no key is configured)")


def test_nf4_and_back_is_as_far_off_as_its_levels_allow():
    pytest.importorskip("bitsandbytes")
    assert "works" in doctor_checks._nf4_and_back()


def test_numbers_that_do_not_come_back_from_nf4_are_a_problem(monkeypatch):
    functional = pytest.importorskip("bitsandbytes.functional")
    monkeypatch.setattr(functional, "dequantize_4bit", lambda packed, state: 0 * state.absmax.sum())
    check = doctor_checks.bitsandbytes()
    assert check.state == "problem"
    assert "is off by 1.00" in check.found
