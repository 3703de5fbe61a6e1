import json

import pytest

import lorascope
import lorascope.errors
from lorascope.cli.main import main


def test_the_trainable_modules_of_a_preset_are_listed_by_group():
    modules = lorascope.list_trainable_modules("mistral7b")
    assert modules["attention"][:4] == [f"model.layers.0.self_attn.{role}_proj" for role in "qkvo"]
    assert modules["ffn"][:3] == [f"model.layers.0.mlp.{role}_proj" for role in ("gate", "up", "down")]
    assert (len(modules["attention"]), len(modules["ffn"])) == (32 * 4, 32 * 3)


def test_a_folder_works_as_well_as_a_preset(tiny):
    assert len(lorascope.list_trainable_modules(str(tiny))["attention"]) == 2 * 4


def test_a_fused_module_is_listed_once(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=2).save_pretrained(tmp_path)
    modules = lorascope.list_trainable_modules(str(tmp_path))
    assert modules["attention"] == [f"transformer.h.{n}.attn.{name}" for n in (0, 1) for name in ("c_attn", "c_proj")]
    assert modules["ffn"] == [f"transformer.h.{n}.mlp.{name}" for n in (0, 1) for name in ("c_fc", "c_proj")]


def test_the_attention_config_adapts_attention_and_nothing_else(tiny):
    from peft import get_peft_model

    from helpers import make_model

    for name in (None, str(tiny)):
        config = lorascope.create_attention_lora_config(rank=4, alpha=8, model_name=name)
        model = get_peft_model(make_model(), config)
        trained = {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad}
        assert trained == {"q_proj", "k_proj", "v_proj", "o_proj"}
        assert (config.r, config.lora_alpha) == (4, 8)


def test_the_attention_config_of_gpt2_leaves_the_ffns_c_proj_alone(tmp_path):
    from peft import get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=32, n_head=4)
    config.save_pretrained(tmp_path)
    lora = lorascope.create_attention_lora_config(model_name=str(tmp_path))
    model = get_peft_model(GPT2LMHeadModel(config), lora)  # PEFT's warning of a Conv1D would be an error here
    assert lora.fan_in_fan_out
    assert not [name for name, p in model.named_parameters() if p.requires_grad and ".mlp." in name]


def test_a_rank_below_one_is_refused():
    with pytest.raises(lorascope.errors.ConfigError, match=r"must be a whole number from 1 to 65536 \(got 0\)"):
        lorascope.create_attention_lora_config(rank=0)


def test_inspect_prints_layers_and_roles(capsys):
    main(["inspect", "mistral7b"])
    out = capsys.readouterr().out
    for words in ("32 layers", "hidden 4096", "FFN 14336", "32 heads (8 KV)", "layers 0-31", "4096>14336", "7.24 B"):
        assert words in out


def test_the_script_prints_the_same(capsys):
    import runpy
    import sys
    from pathlib import Path

    main(["inspect", "smollm2"])
    expected = capsys.readouterr().out
    sys.argv = ["inspect_targets.py", "smollm2"]
    runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "inspect_targets.py"), run_name="__main__")
    assert capsys.readouterr().out == expected


def test_inspect_as_json_holds_every_projection(capsys):
    main(["inspect", "smollm2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["projections"]) == 30 * 7
    assert found["hidden"] == 576


def test_a_model_that_is_nowhere_is_one_message(capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "./nowhere"])
    err = capsys.readouterr().err
    assert "model.path=./nowhere is not a folder" in err
    assert "Traceback" not in err


def test_plan_is_the_commands_plan():
    found = lorascope.plan("target=qv_ffn", "model=mistral7b")
    assert found.trainable_parameters == 10_485_760
    assert len(found.entry()["modules"]) == 160


def test_train_and_load_runs_in_a_notebook(tiny_words, tmp_path):
    record = lorascope.train(*tiny_words, "train.max_steps=2")
    assert record is not None
    (loaded,) = lorascope.load_runs(tmp_path / "runs")
    assert loaded.metrics == record.metrics
    assert lorascope.train(*tiny_words, "train.max_steps=2").run_id == record.run_id  # found done
    assert lorascope.train(*tiny_words, "dry_run=true") is None


def test_a_damaged_record_is_warned_of(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="is damaged"):
        assert lorascope.load_runs(tmp_path) == []


def test_inspect_holds_a_strategy_against_pefts_default(capsys):
    main(["inspect", "mistral7b", "target=qv_ffn"])
    out = capsys.readouterr().out
    assert "target=peft_default would train 3,407,872 parameters: q r8, v r8" in out
    assert "target=qv_ffn would train 10,485,760 parameters" in out
    assert "against PEFT's default, qv_ffn adds down gate up" in out
