"""Rows that are longer than the positions that a model has learned are refused before anything is loaded."""

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from lorascope.errors import PlanError
from lorascope.planning.model_dims import check_positions, learned_positions

GPT2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=64, vocab_size=50))
OPT = OPTForCausalLM(
    OPTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, max_position_embeddings=96,
        vocab_size=50, word_embed_proj_dim=16,
    )
)  # fmt: skip
LLAMA = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50,
        max_position_embeddings=64,
    )
)  # fmt: skip


@pytest.mark.parametrize(("model", "count"), [(GPT2, 64), (OPT, 96), (LLAMA, None)])
def test_learned_positions_are_counted(model, count):
    assert learned_positions(model) == count


@pytest.mark.parametrize(("model", "count"), [(GPT2, 64), (OPT, 96)])
def test_a_longer_row_is_refused_with_the_length_that_fits(model, count):
    with pytest.raises(PlanError, match=rf"train.max_length must be <= {count}(.|\n)*train.max_length={count}"):
        check_positions(model, 150, 512)
    check_positions(model, 150, count)
    check_positions(model, count, 512)
    check_positions(model, None, 512)
    model(input_ids=model.dummy_inputs["input_ids"].new_zeros((1, count)))  # the model itself takes so many
    with pytest.raises(IndexError):
        model(input_ids=model.dummy_inputs["input_ids"].new_zeros((1, count + 1)))


def test_computed_positions_have_no_such_end():
    check_positions(LLAMA, 10_000, 10_000)
