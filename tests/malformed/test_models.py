"""Model folders that hold no model; those of tests/models/test_loading.py are not repeated."""

import dataclasses
import json
import shutil
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.base.loading import load_base
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.errors import ModelError
from lorascope.targets.module_map import inspect_model
from malformed.judged import at_most_told, few, json_values, told

pytestmark = pytest.mark.slow

CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, SHARD, INDEX = "model.safetensors", "model-00001-of-00001.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def config(tiny):
    return resolve(compose(["model=hf", f"model.path={tiny}", "model.dtype=float32", "device=cpu"]))


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


def at(config, folder):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=str(folder)))


def write(folder, changes):
    """File -> its bytes, None for none, a number for so many of its bytes, a dict for what changes in its JSON."""
    for name, change in changes.items():
        path = folder / name
        if change is None:
            path.unlink()
        elif isinstance(change, int):
            path.write_bytes(path.read_bytes()[:change])
        elif isinstance(change, dict):
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
        else:
            path.write_bytes(change)


def safetensors(header, body=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


# what stops the plan already: name -> changes, what the message holds
CONFIGS = {
    "nothing": ({CONFIG: b""}, "config.json is no JSON that can be read"),
    "a config cut off": ({CONFIG: 100}, "config.json is no JSON that can be read"),
    "a list": ({CONFIG: b"[]"}, "config.json holds no object with names"),
    "null": ({CONFIG: b"null"}, "config.json holds no object with names"),
    "no text": ({CONFIG: b"\xff\xfe\0"}, "config.json is no JSON that can be read ('utf-8' codec"),
    "brackets without end": ({CONFIG: b"[" * 100_000}, "config.json is no JSON that can be read (maximum recursion"),
    "an empty object": ({CONFIG: b"{}"}, "`model_type`"),
    "no config": ({CONFIG: None}, "has no config.json"),
    "an adapter": ({CONFIG: None, "adapter_config.json": b"{}"}, "holds an adapter, no model"),
    "a type that is a number": ({CONFIG: {"model_type": 3}}, "its model type '3' is unknown to transformers"),
    "a type of no letters": ({CONFIG: {"model_type": ""}}, "its model type '' is unknown to transformers"),
    "a type that is a list": ({CONFIG: {"model_type": []}}, "unhashable type: 'list'"),
    "a width in words": ({CONFIG: {"hidden_size": "x"}}, "Field 'hidden_size' expected int, got str"),
    "a width that is null": ({CONFIG: {"hidden_size": None}}, "Field 'hidden_size' expected int, got NoneType"),
    "a width of 0": ({CONFIG: {"hidden_size": 0}}, "model.embed_tokens.weight has no values"),
    "a width that heads do not divide": ({CONFIG: {"hidden_size": 33}}, "not a multiple of the number of attention"),
    "no heads": ({CONFIG: {"num_attention_heads": 0}}, "ZeroDivisionError"),
    "fewer heads than none": ({CONFIG: {"num_attention_heads": -4}}, "negative dimension"),
    "no heads for keys": ({CONFIG: {"num_key_value_heads": 0}}, "cannot be built as its config says"),
    "heads of an odd width": ({CONFIG: {"head_dim": 7}}, "even rotary dimension"),
    "no layers": ({CONFIG: {"num_hidden_layers": 0}}, "cannot be built with 0 layers"),
    "fewer layers than none": ({CONFIG: {"num_hidden_layers": -1}}, "cannot be built with -1 layers"),
    "a thousand million layers": ({CONFIG: {"num_hidden_layers": 10**9}}, "cannot be built with 1000000000 layers"),
    "no words": ({CONFIG: {"vocab_size": 0}}, "model.embed_tokens.weight has no values"),
    "an activation of nobody": ({CONFIG: {"hidden_act": "nope"}}, "cannot be built as its config says: KeyError"),
    "positions of nobody": ({CONFIG: {"rope_parameters": {"rope_type": "nope"}}}, "cannot be built as its config"),
    "a padding beyond all words": ({CONFIG: {"pad_token_id": 10**6}}, "Padding_idx must be within num_embeddings"),
    "a number format of nobody": ({CONFIG: {"dtype": "nope"}}, "module 'torch' has no attribute 'nope'"),
    "a quantization in one word": ({CONFIG: {"quantization_config": "x"}}, "cannot be loaded: AttributeError"),
}
# what stops the loading
FOLDERS = {
    "weights cut off": ({WEIGHTS: 5000}, "model.safetensors is cut or damaged"),
    "weights of no bytes": ({WEIGHTS: b""}, "model.safetensors is cut or damaged"),
    "weights with an endless header": ({WEIGHTS: struct.pack("<Q", 2**62) + b"{}"}, "safetensors is cut or damaged"),
    "weights with a list as header": ({WEIGHTS: safetensors([])}, "model.safetensors is cut or damaged"),
    "weights without a tensor": ({WEIGHTS: safetensors({})}, "its weights lack lm_head.weight (21 that"),
    "weights of another model": (
        {WEIGHTS: safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))},
        "its weights lack lm_head.weight (21 that",
    ),
    "no weights": ({WEIGHTS: None}, "no file named model.safetensors"),
    "pickled weights of no bytes": ({WEIGHTS: None, "pytorch_model.bin": b""}, "cannot be loaded: EOFError"),
    "more layers than weights": ({CONFIG: {"num_hidden_layers": 3}}, "its weights lack model.layers.2."),
    "fewer words than weights": ({CONFIG: {"vocab_size": 10}}, "lm_head.weight is 300 x 32, and 10 x 32 by config"),
    "other heads than weights": ({CONFIG: {"num_key_value_heads": 1}}, "weight is 16 x 32, and 8 x 32 by config"),
    "an index of an absent file": (
        {WEIGHTS: None, INDEX: b'{"metadata": {}, "weight_map": {"lm_head.weight": "model-2-of-2.safetensors"}}'},
        "model-2-of-2.safetensors",
    ),
    "an index cut off": ({WEIGHTS: None, INDEX: b"{"}, "index.json is no JSON that can be read"),
    "an index that is a list": ({WEIGHTS: None, INDEX: b"[]"}, "index.json holds no object with names"),
    "an index of nothing": ({WEIGHTS: None, INDEX: b"{}"}, "index.json does not tell which weights are in which file"),
    "an index of a list": (
        {WEIGHTS: None, INDEX: b'{"metadata": {}, "weight_map": []}'}, "index.json does not tell which weights",
    ),
    "an index of numbers": (
        {WEIGHTS: None, INDEX: b'{"metadata": {}, "weight_map": {"a": 3}}'}, "index.json does not tell which weights",
    ),
    "an adapter beside the model": ({"adapter_config.json": b'{"peft_type": "LORA"}'}, "adapter_model.safetensors"),
    "a list of how to generate": ({"generation_config.json": b"[]"}, "generation_config.json holds no object"),
    # the tokenizer
    "no tokenizer": ({TOKENIZER: None}, "its tokenizer cannot be loaded: there is no tokenizer.json"),
    "no tokenizer's settings either": ({TOKENIZER: None, SETTINGS: None}, "there is no tokenizer.json"),
    "a tokenizer cut off": ({TOKENIZER: 200}, "tokenizer.json is no JSON that can be read"),
    "a tokenizer that is a list": ({TOKENIZER: b"[]"}, "tokenizer.json holds no object with names"),
    "a tokenizer of nothing": ({TOKENIZER: b"{}"}, "its tokenizer cannot be loaded: KeyError: 'added_tokens'"),
    "a tokenizer of nobody": ({TOKENIZER: {"model": {"type": "Nope"}}}, "its tokenizer cannot be loaded"),
    "a merge of absent words": (
        {TOKENIZER: {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["q z"]}}}, "`q` out of vocabulary",
    ),
    "settings cut off": ({SETTINGS: 50}, "tokenizer_config.json is no JSON that can be read"),
    "settings that are null": ({SETTINGS: b"null"}, "tokenizer_config.json holds no object with names"),
    "no end of a text": ({SETTINGS: b"{}"}, "its tokenizer names no token that ends a text"),
    "an end that is a number": ({SETTINGS: {"eos_token": 3}}, "its tokenizer cannot be loaded"),
    "a class that is a number": ({SETTINGS: {"tokenizer_class": 3}}, "its tokenizer cannot be loaded"),
    "a template that is no text": ({"chat_template.jinja": b"\xff\xfe\0"}, "can't decode byte 0xff"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_no_model_has_is_told_before_anything_is_loaded(changes, says, config, folder):
    write(folder, changes)
    with told(says, ModelError):
        inspect_model(at(config, folder).model)


@pytest.mark.parametrize(("changes", "says"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_holds_no_model_is_told_when_it_is_loaded(changes, says, config, folder):
    write(folder, changes)
    with told(says, ModelError):
        load_base(at(config, folder))


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, WEIGHTS])
def test_a_folder_that_stands_where_a_file_goes_is_told(name, config, folder):
    (folder / name).unlink()
    (folder / name).mkdir()
    with told("", ModelError):
        load_base(at(config, folder))


def test_an_index_of_a_file_that_was_cut_names_the_file(config, folder):
    (folder / WEIGHTS).rename(folder / SHARD)
    write(folder, {SHARD: 5000, INDEX: json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": SHARD}}).encode()})
    with told(f"{SHARD} is cut or damaged", ModelError):
        load_base(at(config, folder))


FIELDS = ["hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size", "model_type",
          "hidden_act", "dtype", "rope_parameters", "architectures", "quantization_config", "auto_map", "rms_norm_eps",
          "pad_token_id", "head_dim", "tie_word_embeddings", "num_hidden_layers", "nope"]  # fmt: skip


@few
@given(name=st.sampled_from(FIELDS), value=json_values("rope_type", "llama", "quant_method", "default"))
def test_whatever_stands_in_a_config_is_a_model_or_is_told(name, value, config, tiny, tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps(json.loads((tiny / CONFIG).read_text()) | {name: value}))
    with at_most_told():
        inspect_model(at(config, tmp_path).model)


@settings(few, max_examples=20)
@given(name=st.sampled_from([WEIGHTS, TOKENIZER, SETTINGS]), share=st.floats(0, 0.99), tail=st.binary(max_size=3))
def test_wherever_a_file_is_cut_the_folder_is_told(name, share, tail, config, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model", dirs_exist_ok=True)
    whole = (tiny / name).read_bytes()
    write(tmp_path / "model", {name: whole[: int(share * (len(whole) - 4))] + tail})
    with told("", ModelError):
        load_base(at(config, tmp_path / "model"))
