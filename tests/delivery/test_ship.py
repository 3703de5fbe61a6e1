"""A sound winner is shipped, whatever a policy forbids is refused by name, and an error is neither."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from delivery.test_merge import base_of, logits, trained
from lorascope.cli.main import _parsed, main
from lorascope.compose import read_policy
from lorascope.config.schema import ShipConfig
from lorascope.delivery.ship_policy import choose
from lorascope.records.record import read_record, write_record
from lorascope.records.study_record import FINAL, Arm, Study, StudyRun, Task, write_study
from lorascope.reports.findings import find
from reports.made_studies import around, make

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of two arms and five seeds on a tiny model: both learn, and equally well."""
    base = base_of("tiny", tmp_path_factory.mktemp("shipping") / "base")
    folder, runs = base / "runs", []
    for arm in ("q_v", "qkvo"):
        for seed in SEEDS:
            words = [
                f"target={arm}",
                f"seed={seed}",
                "train.max_steps=20",
                "evaluation.forgetting.texts=4",
                "logger=none",
            ]
            record, _ = trained(base, *words)
            runs.append(StudyRun(name=record.name, stage=FINAL, task="says", arm=arm, seed=seed, rate=1e-2))
    write_study(
        Study(
            name="placement", title="which is enough", command="python train.py", started="2026-01-01T00:00:00+00:00",
            finished="2026-01-02T00:00:00+00:00", reference="q_v", seeds=list(SEEDS), runs=runs,
            arms=[Arm(name=arm, words=f"target={arm}", views=["as given"]) for arm in ("q_v", "qkvo")],
            tasks=[Task(name="says", words="", metric="eval_loss", better="lower", unit="nats/token", margin=0.2)],
        ),
        folder,
    )  # fmt: skip
    return base, folder


@pytest.fixture
def study(made, tmp_path):
    """A copy of it that may be spoiled."""
    shutil.copytree(made[1], tmp_path / "study")
    return tmp_path / "study"


def shipped(capsys, *words) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["ship", *map(str, words)])
    shown = capsys.readouterr()
    return int(end.value.code), shown.out + shown.err


LOOSE = "max_forgetting=100"


def test_a_sound_winner_is_shipped_and_its_folder_answers_as_evaluated(made, study, capsys):
    code, shown = shipped(capsys, study, LOOSE)
    assert code == 0, shown
    assert "arm q_v, seed" in shown
    assert "(middle of 5)" in shown
    report = json.loads((study / "ship" / "ship.json").read_text())
    assert report["shipped"] is True
    assert [check["setting"] for check in report["checks"]] == [
        "all_seeds", "min_gain", "max_forgetting", "verdicts", "merged_equals_evaluated",
    ]  # fmt: skip
    values = sorted(read_record(path.parent).metric("eval_loss") for path in study.glob("q_v-*/run.json"))
    run = study / report["run"]
    assert read_record(run).metric("eval_loss") == values[2]
    wanted = logits(made[0], run / "adapter")
    assert torch.equal(logits(made[0], study / "ship" / "adapter"), wanted)
    assert float((logits(study / "ship" / "merged") - wanted).abs().max()) < 1e-3 * float(wanted.std())
    base = AutoModelForCausalLM.from_pretrained(made[0], dtype=torch.float32)
    assert PeftModel.from_pretrained(base, study / "ship" / "adapter")
    card = (study / "ship" / "merged" / "README.md").read_text()
    assert "Arm q_v of the study placement" in card
    assert "standard deviations from those of base and adapter" in card
    for file in (study / "ship").rglob("*"):
        assert file.is_dir() or str(made[0]).encode() not in file.read_bytes(), file
    code, shown = shipped(capsys, study, LOOSE)
    assert code == 1
    assert "is there already" in shown


def test_what_engines_want_is_written_too(study, capsys):
    code, shown = shipped(capsys, study, LOOSE, "deliver=[vllm]", "merged_equals_evaluated=false", "--out", study / "x")
    assert code == 0, shown
    assert {file.name for file in (study / "x").iterdir()} == {"vllm", "ship.json"}
    assert json.loads((study / "x" / "vllm" / "adapter_config.json").read_text())["rank_pattern"] == {}


def spoil_record(study, arm, change):
    """Change each record of an arm."""
    for file in study.glob(f"{arm}-*/run.json"):
        record = read_record(file.parent)
        change(record)
        write_record(record, file.parent)


def unfinished(record):
    if record.config["seed"] == 3:
        record.status = "failed"


def forgotten(record):
    record.metrics["forgetting_kl"]["value"] = 101.0


def not_measured(record):
    del record.metrics["forgetting_kl"]


def no_better_than_the_base(record):
    record.metrics["eval_loss"]["base"] = record.metrics["eval_loss"]["value"] + 0.05


def base_unknown(record):
    record.metrics["eval_loss"]["base"] = None


@pytest.mark.parametrize(("change", "says", "another_passes"), [
    (unfinished, "4 of 5 runs done (ship.all_seeds)", False),  # nor has the other arm five seeds to be compared
    (forgotten, "forgetting 101 exceeds 100 nats/token (ship.max_forgetting)", True),
    (not_measured, "forgetting was not measured (ship.max_forgetting)", True),
    (no_better_than_the_base, "is not surely 0.2 (ship.min_gain)", True),
    (base_unknown, "gain in eval_loss over the base is not known (ship.min_gain)", True),
])  # fmt: skip
def test_each_rule_refuses_by_name_and_says_which_arm_passes(study, capsys, change, says, another_passes):
    spoil_record(study, "q_v", change)
    code, shown = shipped(capsys, study, LOOSE, "--arm", "q_v", "verdicts=[reference,equivalent,better,inconclusive]")
    assert code == 2, shown
    assert [line for line in shown.splitlines() if line.startswith("REFUSED") and says in line]
    assert shown.count("REFUSED") == 1
    assert (f"lorascope ship {study} --arm qkvo" in shown) == another_passes
    assert not (study / "ship").exists()


def test_an_adapter_that_was_changed_after_its_evaluation_is_refused(study, capsys):
    """The planted regression: what would be deployed is not what was evaluated."""
    for adapter in study.glob("q_v-*/adapter/adapter_model.safetensors"):
        state = load_file(adapter)
        save_file({name: -3 * value if "lora_B" in name else value for name, value in state.items()}, adapter)
    code, shown = shipped(capsys, study, LOOSE)
    assert code == 2, shown
    assert "more than 0.2 apart (ship.merged_equals_evaluated)" in shown
    assert not (study / "ship").exists()
    assert not list(study.glob(".ship-*"))


def test_a_merge_that_is_another_model_is_refused(study, capsys, monkeypatch):
    monkeypatch.setattr("lorascope.delivery.merging.Update.apply", lambda self, weight, read: weight.float() + 0.05)
    code, shown = shipped(capsys, study, LOOSE)
    assert code == 2, shown
    assert "merged, its logits are" in shown
    assert "(ship.merged_equals_evaluated)" in shown


@pytest.mark.parametrize(("words", "says"), [
    (["no-such-place"], "no-such-place holds no study"),
    (["tests"], "tests holds no study"),
    (["STUDY", "--arm", "nobody"], "--arm nobody is not in this study"),
    (["STUDY", "--task", "nothing"], "--task nothing is not in this study"),
    (["STUDY", "--policy", "strict"], "--policy strict: there is no such policy"),
    (["STUDY", "max_forgetting=much"], "ship.max_forgetting"),
    (["STUDY", "max_forgeting=1"], "ship.max_forgeting: there is no such setting"),
    (["STUDY", "min_gain.says=nan"], "ship.min_gain.says=nan is not a number"),
    (["STUDY", "verdicts=[good]"], "ship.verdicts: good is not one of them"),
    (["STUDY", "deliver=[]"], "ship.deliver is empty"),
    (["STUDY", "cheapest_by=colour"], "ship.cheapest_by"),
    (["STUDY", "--unknown"], "unrecognized arguments: --unknown"),
    ([], "the following arguments are required"),
])  # fmt: skip
def test_an_error_is_no_refusal(made, capsys, words, says):
    code, shown = shipped(capsys, *(str(made[1]) if word == "STUDY" else word for word in words))
    assert (code, says in shown) == (1, True), shown


def test_the_decision_is_json_for_scripts(made, study, capsys):
    code, shown = shipped(capsys, study, "max_forgetting=0", "--json")
    found = json.loads(shown)
    assert (code, found["shipped"], found["out"]) == (2, False, None)
    assert [one["passed"] for one in found["checks"] if one["setting"] == "max_forgetting"] == [False]
    own = study / "mine.yaml"
    own.write_text("max_forgetting: 100\nmin_gain: {says: 0.1}\n")
    assert read_policy(str(own)) == ShipConfig(max_forgetting=100, min_gain={"says": 0.1})


def test_a_policy_knows_every_verdict_and_every_form():
    from lorascope.compose import FORMS, VERDICTS
    from lorascope.delivery.shipping import FOLDERS
    from lorascope.reports.standings import NO_VERDICT, REFERENCE
    from lorascope.stats.verdicts import Verdict

    assert set(VERDICTS) == {*map(str, Verdict), NO_VERDICT, REFERENCE}
    assert set(FORMS) == set(FOLDERS)


LOOSEST = ShipConfig(max_forgetting=None, verdicts=["better", "equivalent", "reference", "inconclusive"])


@pytest.mark.parametrize(("arms", "taken"), [
    # the sizes grow with the order: small is the cheapest
    ({"small": around(0.5), "large": around(0.5)}, "small"),
    ({"small": around(0.5), "large": around(0.9)}, "large"),
    ({"small": around(0.5, spread=0.2), "large": around(0.51, spread=0.001)}, "large"),  # not shown to be as good
    ({"small": around(0.5), "middle": around(0.505), "large": around(0.3)}, "small"),
    ({"small": around(0.3), "middle": around(0.5), "large": around(0.505)}, "middle"),
    ({"small": around(0.5, 2), "large": around(0.51, 2)}, "large"),  # two seeds tell nothing
    ({"small": dict.fromkeys(range(1, 6)), "large": around(0.1)}, "large"),  # the cheapest failed
])  # fmt: skip
def test_the_cheapest_arm_that_is_not_worse_than_the_best_is_taken(tmp_path, arms, taken):
    make(tmp_path, {"task": arms}, margin=0.05)
    assert choose(find(tmp_path), LOOSEST).taken.arm == taken


def test_a_task_is_named_where_there_are_several(tmp_path, capsys):
    make(
        tmp_path,
        {"one": {"a": around(0.5), "b": around(0.9)}, "two": {"a": around(0.9), "b": around(0.5)}},
        margin=0.05,
    )
    assert choose(find(tmp_path), LOOSEST, task="one").taken.arm == "b"
    assert choose(find(tmp_path), LOOSEST, task="two").taken.arm == "a"
    code, shown = shipped(capsys, tmp_path)
    assert (code, "has 2 tasks" in shown) == (1, True)


def test_the_recipe_for_ci_types_what_the_commands_take(tmp_path):
    """Its steps, with commands that write down how they are called."""
    root = Path(__file__).parents[2]
    steps = yaml.safe_load((root / "docs" / "recipes" / "ship.yml").read_text())["jobs"]["ship"]["steps"]
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "lorascope"):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> {tmp_path}/called\n')
        program.chmod(0o755)
    for step in steps:
        if "run" in step and "make" not in step["run"]:
            environment = os.environ | {"STUDY": "runs/placement"}
            subprocess.run(["bash", "-ec", step["run"]], cwd=tmp_path, env=environment, check=True)
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [
        "python", "train.py", "experiment=placement", "runs_dir=runs/placement",
        "lorascope", "ship", "runs/placement", "max_forgetting=0.5", "--out", "deploy",
    ]  # fmt: skip
    options, _ = _parsed(called[5:])
    assert (options.study, options.overrides, options.out) == ("runs/placement", ["max_forgetting=0.5"], "deploy")


def test_a_shipped_gguf_adapter_is_the_exported_one(study, capsys):
    words = [LOOSE, "deliver=[llama.cpp]", "merged_equals_evaluated=false"]
    code, shown = shipped(capsys, study, *words, "--out", study / "deploy")
    assert code == 0, shown
    run = study / json.loads((study / "deploy" / "ship.json").read_text())["run"]
    main(["export", str(run), "--for", "llama.cpp", "--out", str(study / "exported")])
    exported = (study / "exported" / "adapter.gguf").read_bytes()
    assert (study / "deploy" / "llama.cpp" / "adapter.gguf").read_bytes() == exported
