"""What PEFT would refuse when the adapter is attached is refused in the plan."""

import pytest
import torch
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MambaConfig, MambaForCausalLM

from lorascope.config.schema import TargetConfig
from lorascope.errors import PlanError
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4}
KINDS = {
    "mamba": (MambaConfig, MambaForCausalLM),
    "falcon_mamba": (FalconMambaConfig, FalconMambaForCausalLM),
}


def model(kind):
    torch.manual_seed(0)
    config, built = KINDS[kind]
    return built(config(**SIZES))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [{"out_proj": 4}, {"in_proj": 8, "out_proj": 8}])
def test_the_plan_refuses_what_peft_refuses(kind, names):
    modules = map_modules(model(kind), kind, "here")
    with pytest.raises(PlanError, match=f"PEFT takes no LoRA on out_proj in a model of type {kind}"):
        plan_targets(TargetConfig(modules=names), modules)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["in_proj", "x_proj", "dt_proj"])
def test_every_other_name_of_the_plan_is_attached(kind, name):
    base = model(kind)
    plan = plan_targets(TargetConfig(modules={name: 4}), map_modules(base, kind, "here"))
    adapted = attach(base, plan, 0)
    trained = sum(value.numel() for value in adapted.parameters() if value.requires_grad)
    assert trained == plan.trainable_parameters > 0
