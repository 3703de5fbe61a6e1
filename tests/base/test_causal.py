"""Before the first step each model is asked whether it sees the future."""

import pytest
import torch

from helpers import make_model
from lorascope.base.architecture import model_class
from lorascope.base.loading import check_causal
from lorascope.errors import ModelError
from lorascope.targets.module_map import map_modules
from lorascope.targets.roles import CAUSAL_BY, FUTURE, UNTRAINABLE
from small_models import UNBUILDABLE, causal_types, quiet, redraw, seeing_types, small_config

pytestmark = pytest.mark.usefixtures("one_thread")

TYPES = [kind for kind in (*causal_types(), *seeing_types()) if kind not in UNBUILDABLE]
LARGE = {"kosmos-2.5", "janus"}  # a second each; they are as other types
SEE_IT = {kind for kind, why in UNTRAINABLE.items() if why == FUTURE}


def made(kind, **changes):
    """With the attention that a run takes: PaliGemma is causal with eager attention, and not with sdpa."""
    config = small_config(kind, **changes)
    with quiet(), torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = model_class(config).from_config(config).float().eval()
    redraw(model, 0)
    return model


def sees_the_future(model) -> bool:
    """Two passes of the whole text, without the program: does the last token change what stands before?"""
    ids = torch.arange(12)[None] * 5 % 80 + 5
    other = ids.clone()
    other[0, -1] = 4
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.manual_seed(0)
        one = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
        torch.manual_seed(0)
        two = model(input_ids=other, attention_mask=torch.ones_like(ids)).logits[0, :-1]
    return bool((one - two).abs().max() > 1e-4 * one.std())


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in LARGE])
def test_a_type_is_refused_if_a_later_token_changes_earlier_logits(kind):
    model = made(kind)
    if sees_the_future(model):
        assert kind in SEE_IT
        with pytest.raises(ModelError, match="sees the future"):
            check_causal(model, "model.path=here")
        with pytest.raises(ModelError, match="sees the future"):
            map_modules(model, kind, "here")
    else:
        assert kind not in SEE_IT
        check_causal(model, "model.path=here")


@pytest.mark.parametrize(("kind", "setting"), CAUSAL_BY.items())
def test_encoders_are_refused_unless_their_config_makes_them_causal(kind, setting):
    model = made(kind, **{setting: False})
    assert sees_the_future(model)
    with pytest.raises(ModelError, match="sees the future"):
        check_causal(model, "model.path=here")
    with pytest.raises(ModelError, match=rf"sees the future.*\n.*{setting}=true"):
        map_modules(model, kind, "here")


@pytest.mark.parametrize(("kind", "refused"), [("llama", False), ("bert", True)])
def test_the_question_is_answered_in_bfloat16_too(kind, refused):
    model = made(kind, **({"is_decoder": False} if refused else {})).bfloat16()
    if refused:
        with pytest.raises(ModelError, match="sees the future"):
            check_causal(model, "model.path=here")
    else:
        check_causal(model, "model.path=here")


def test_asking_changes_neither_weights_nor_random_numbers():
    model = make_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_causal(model, "model.path=here")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_cannot_read_a_text_alone_is_one_message():
    from transformers import BlipConfig, BlipForConditionalGeneration

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config=sizes | {"vocab_size": 99}, vision_config=sizes | {"image_size": 8, "patch_size": 4}
    )
    with pytest.raises(ModelError, match="cannot read token ids alone"):
        check_causal(BlipForConditionalGeneration(config).eval(), "model.path=here")
