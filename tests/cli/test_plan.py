import json

import pytest

from lorascope.cli.cmd_models import combinations
from lorascope.cli.main import main


def test_many_strategies_are_one_table(capsys):
    main(["plan", "model=mistral7b", "target=q_v,qkvo,qv_ffn,all_linear"])
    out = capsys.readouterr().out
    for count in ("3,407,872", "6,815,744", "10,485,760", "20,971,520"):
        assert count in out


def test_one_strategy_is_shown_by_layer_and_role(capsys):
    main(["plan", "target=qv_ffn"])
    out = capsys.readouterr().out
    assert "layers 0-29" in out
    assert "1,221,120" in out


def test_json_holds_every_module(capsys):
    main(["plan", "target=q_v,ffn", "--json"])
    plans = json.loads(capsys.readouterr().out)
    assert [plan["strategy"] for plan in plans] == ["q_v", "ffn"]
    assert [len(plan["modules"]) for plan in plans] == [60, 90]


def test_lists_make_every_combination_and_brackets_are_left_alone():
    assert combinations(["target=a,b", "seed=1", "model=x,y", "logger.tags=[p,q]"]) == [
        ["target=a", "seed=1", "model=x", "logger.tags=[p,q]"],
        ["target=a", "seed=1", "model=y", "logger.tags=[p,q]"],
        ["target=b", "seed=1", "model=x", "logger.tags=[p,q]"],
        ["target=b", "seed=1", "model=y", "logger.tags=[p,q]"],
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["target=nope"], "there is no target 'nope'"),
        (["target=q_v", "target.ranks.q=4", "model=phi3_mini"], "are parts of one module"),
        (["target=q_v", "target.ranks.gate=4", "model=phi2"], "role 'gate' is absent"),
        (["target=peft_default", "model=phi3_mini"], "PEFT has no default for the model type 'phi3'"),
        (["target=peft_default", "target.ranks.q=4"], "cannot be combined with target.peft_default"),
    ],
)
def test_what_cannot_be_planned_is_one_message(words, says, capsys):
    with pytest.raises(SystemExit):
        main(["plan", *words])
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


# what the models' makers publish as their sizes
SIZES = {
    "gemma3_1b": 999_885_952, "gemma3_4b": 4_300_079_472, "mistral_small3": 24_011_361_280,
    "qwen3_vl_4b": 4_437_815_808, "gpt2": 124_439_808, "llama3_1b": 1_235_814_400, "llama3_3b": 3_212_749_824,
    "llama3_8b": 8_030_261_248, "mistral7b": 7_241_732_096, "olmo2_1b": 1_484_916_736, "phi2": 2_779_683_840,
    "phi3_mini": 3_821_079_552, "phi4_mini": 3_836_021_760, "pythia_160m": 162_322_944, "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920, "qwen3_1_7b": 1_720_574_976, "qwen3_4b": 4_022_468_096, "qwen3_8b": 8_190_735_360,
    "smollm2": 134_515_008, "smollm3": 3_075_098_624, "tinyllama": 1_100_048_384,
}  # fmt: skip


def test_every_preset_has_the_size_that_its_makers_publish():
    from lorascope.api import model_config, model_presets
    from lorascope.targets.module_map import inspect_model

    assert {name: inspect_model(model_config(name)).parameters for name in model_presets()} == SIZES
