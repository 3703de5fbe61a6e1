"""`target=peft_default` is what PEFT does when nobody names a target."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from lorascope.config.schema import TargetConfig
from lorascope.targets.attach import adapted_modules, attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "llama": SMALL | {"intermediate_size": 48},
    "mistral": SMALL | {"intermediate_size": 48, "num_key_value_heads": 2},
    "phi": SMALL | {"intermediate_size": 48},
    "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": SMALL | {"intermediate_size": 48},
    "qwen2": SMALL | {"intermediate_size": 48, "num_key_value_heads": 2},
}


@pytest.mark.parametrize("kind", MODELS)
def test_it_adapts_what_peft_adapts(kind):
    def build():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **MODELS[kind]))

    fan = kind == "gpt2"
    peft = get_peft_model(build(), LoraConfig(r=4, task_type="CAUSAL_LM", fan_in_fan_out=fan))
    base = build()
    plan = plan_targets(TargetConfig(name="peft_default", peft_default=4), map_modules(base, kind, "here"))
    ours = attach(base, plan, 0)
    assert adapted_modules(ours).keys() == adapted_modules(peft).keys()
    assert plan.trainable_parameters == peft.get_nb_trainable_parameters()[0]
