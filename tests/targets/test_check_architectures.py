"""The campaign over all types in short: some that are trained, some that are refused by one message."""

import json

import pytest

import architectures
import check_architectures as campaign
from small_models import causal_types, seeing_types

pytestmark = pytest.mark.usefixtures("one_thread")

# types that ask something else of a trainer: attention that is eager alone, sizes that differ by layer, experts and
# routers under other names, no attention at all, hybrids, a model that also sees
TRAINED = (
    "bloom", "gemma2", "gemma4", "gpt_oss", "granitemoe", "llama4", "mamba2", "phimoe", "qwen3_next", "qwen3_vl",
    "zamba2",
)  # fmt: skip


@pytest.mark.parametrize("kind", TRAINED)
def test_a_type_is_trained_saved_and_loaded_in_plain_peft(kind):
    assert campaign.check(kind) == campaign.TRAINED


@pytest.mark.parametrize("kind", ["cpmant", "deepseek_v4", "molmo2", "paligemma", "reformer", "xlnet"])
def test_what_cannot_be_trained_is_one_message_which_the_results_hold(kind):
    found = json.loads(campaign.RESULTS.read_text(encoding="utf-8"))
    assert campaign.check(kind) == found[kind] != campaign.TRAINED


def test_an_adapter_that_is_saved_otherwise_is_noticed(monkeypatch):
    monkeypatch.setattr(campaign, "loss_of_saved", lambda folder: 1.0)
    with pytest.raises(AssertionError, match=r"trained to .*, and the saved adapter gives 1\.0"):
        campaign.check("llama")


def test_the_results_are_of_every_type_and_the_page_shows_them():
    found = json.loads(campaign.RESULTS.read_text(encoding="utf-8"))
    types = [*causal_types(), *seeing_types()]
    assert sorted(found) == sorted(types)
    assert f"**{sum(one == campaign.TRAINED for one in found.values())}** were trained" in architectures.page()
