"""YAML files of a user's own folder that hold no config, through the door that every command uses."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import run_train
from lorascope.compose import compose
from lorascope.errors import ConfigError
from malformed.judged import at_most_told, clear, few, json_values, told

MINE, OTHER = "target/mine.yaml", "target/other.yaml"
RANKS = b"ranks: {q: 2}\n"
# name -> file, its bytes (None: a folder), the word that chooses it, what the message holds
FILES = {
    # what is no YAML
    "an open brace": (MINE, b"ranks: {q: 2", "target=mine", "is not valid YAML: expected ',' or '}', but got '<stream"),
    "a tab": (MINE, b"ranks:\n\tq: 2\n", "target=mine", "is not valid YAML: found character '\\t' that cannot start a"),
    "a key twice": (MINE, RANKS + b"ranks: {v: 2}\n", "target=mine", 'is not valid YAML: found duplicate key ranks'),
    "two documents": (MINE, RANKS + b"---\n" + RANKS, "target=mine", 'is not valid YAML: but found another document'),
    "a tag that runs code": (MINE, b"ranks: !!python/object/apply:os.getcwd []\n", "target=mine", "line 1 is not"),
    "an anchor that is not there": (MINE, b"ranks: *nope\n", "target=mine", "undefined alias 'nope'"),
    "an anchor in itself": (MINE, b"ranks: &a\n  q: *a\n", "target=mine", 'target/mine.yaml is nested too deeply'),
    "a list as a name": (MINE, b"[a, b]: 2\n", "target=mine", "found unhashable key"),
    "no end of brackets": (MINE, b"ranks: " + b"{a: " * 1000, "target=mine", 'target/mine.yaml is nested too deeply'),
    # what is no text
    "bytes of a program": (MINE, bytes(range(256)), "target=mine", "target/mine.yaml: byte 0x80 is not UTF-8"),
    "a zero byte": (MINE, RANKS + b"\0", "target=mine", "unacceptable character #x0000"),
    "Latin-1": (MINE, b"name: stra\xdfe\n" + RANKS, "target=mine", "byte 0xdf is not UTF-8"),
    "UTF-16": (MINE, "ranks: {q: 2}\n".encode("utf-16"), "target=mine", "byte 0xff is not UTF-8"),
    # what is something else than a strategy
    "nothing": (MINE, b"", "target=mine", 'must give at least one role a rank, or nothing would be trai'),
    "a list": (MINE, b"- q\n- v\n", "target=mine", "'target' is a group of settings, not a value"),
    "a word": (MINE, b"qv\n", "target=mine", "there is no setting 'target.qv'"),
    "a number": (MINE, b"8\n", "target=mine", 'target/mine.yaml has no settings'),
    "a folder": (MINE, None, "target=mine", "there is no target 'mine'"),
    "a name that is a number": (MINE, b"1: 2\n", "target=mine", "there is no setting 'target.1'"),
    "a name that is null": (MINE, b"null: 2\n", "target=mine", "target/mine.yaml: Incompatible key type 'NoneType'"),
    "a list of roles": (MINE, b"ranks: [q, v]\n", "target=mine", "'target.ranks' is a group of settings, not a value"),
    "a rank in words": (MINE, b"ranks: {q: eight}\n", "target=mine", "must be a whole number (got 'eight')"),
    "a rank that is a date": (MINE, b"ranks: {q: 2026-01-01}\n", "target=mine", "must be a whole number (got '2026-01"),
    "a role of another name": (MINE, b"ranks: {query: 8}\n", "target=mine", "there is no setting 'target.ranks.query'"),
    "the group's own name": (MINE, b"target: {ranks: {q: 2}}\n", "target=mine", "there is no setting 'target.target'"),
    "settings of a model": (MINE, b"path: a/b\n", "target=mine", "there is no setting 'target.path'"),
    # where Hydra looks for it
    "another group's folder": ("traget/zebra.yaml", RANKS, "target=zebra", "Your own is DIR/target/zebra.yaml"),
    "no group's folder": ("zebra.yaml", RANKS, "target=zebra", "Your own is DIR/target/zebra.yaml"),
    "another ending": ("target/zebra.yml", RANKS, "target=zebra", "Your own is DIR/target/zebra.yaml"),
    "the package of another group": (MINE, b"# @package train\n" + RANKS, "target=mine", "no setting 'train.ranks'"),
    "a package without a name": (MINE, b"# @package\n" + RANKS, "target=mine", "target/mine.yaml cannot be read"),
    # what it refers to
    "itself in its defaults": (MINE, b"defaults: [mine]\n" + RANKS, "target=mine", 'target/mine.yaml is nested too de'),
    "defaults that are not there": (MINE, b"defaults: [nope]\n", "target=mine", "there is no target 'nope'"),
    "defaults that are no list": (MINE, b"defaults: 3\n" + RANKS, "target=mine", "defaults must be a list (got int)"),
    "a list in its defaults": (MINE, b"defaults: [[q_v]]\n", "target=mine", "target/mine.yaml cannot be read"),
    "itself twice": (MINE, b"defaults: [_self_, _self_]\n", "target=mine", "its defaults hold _self_ twice"),
    "its own value": (MINE, RANKS + b"alpha: ${target.alpha}\n", "target=mine", "target.alpha: Recursive"),
    "a resolver of nobody": (MINE, RANKS + b"alpha: ${nope:1}\n", "target=mine", "Unsupported interpolation type nope"),
    "half a reference": (MINE, RANKS + b"alpha: '${'\n", "target=mine", "target/mine.yaml: alpha: no viable"),
    "itself as its budget": (MINE, RANKS + b"budget: mine\n", "target=mine", "own size is not fixed"),
    # a strategy that a budget names
    "a budget that is a list": (OTHER, b"- q\n", "target.budget=other", "target/other.yaml: target"),
    "a budget that is no YAML": (OTHER, b"ranks: {", "target.budget=other", "is not valid YAML: expected the node con"),
    "a budget that is empty": (OTHER, b"", "target.budget=other", 'must give at least one role a rank, or nothing wou'),
    "a budget that is no text": (OTHER, b"\xff\xfe\0x", "target.budget=other", "other.yaml: byte 0xff is not UTF-8"),
    "a budget that is a folder": (OTHER, None, "target.budget=other", "neither a number of parameters nor a strategy"),
    # the other groups
    "no model": ("model/mine.yaml", b"name: x\n", "model=mine", 'model.path must name a model'),
    "two models": ("model/mine.yaml", b"path: a/b\npackage: c\n", "model=mine", 'model.path cannot be combined with m'),
    "a path in braces": ("model/mine.yaml", b"path: {a: b}\n", "model=mine", "model/mine.yaml: model.path must be tex"),
    "a list of architectures": ("model/mine.yaml", b"architecture: [llama]\n", "model=mine", 'a list stands where nam'),
    "tags in braces": ("logger/mine.yaml", b"tags: {a: b}\n", "logger=mine", 'a list stands where names are expected,'),
    "a source of nobody": ("dataset/mine.yaml", b"source: nope\n", "dataset=mine", "there is no source 'nope'"),
    "SFT's settings in braces": ("train/mine.yaml", b"sft: {weight_decay: {a: 1}}\n", "train=mine", "is not what SFT"),
    "two bits": ("quantization/mine.yaml", b"scheme: int2\n", "quantization=mine", "must be one of auto, nf4, int8, n"),
    "an experiment with a plus": ("experiment/mine.yaml", b"seed: 3\n", "+experiment=mine", "is chosen twice"),
    "an experiment of no one": ("experiment/mine.yaml", b"# @package _global_\nnope: 3\n", "experiment=mine", "nope"),
    "an experiment that does not override": (
        "experiment/mine.yaml", b"# @package _global_\ndefaults:\n  - /target: qkvo\n",
        "experiment=mine", "target is chosen twice",
    ),
    "an experiment with a choice of nobody": (
        "experiment/mine.yaml", b"# @package _global_\ndefaults:\n  - override /target: nope\n",
        "experiment=mine", "there is no target 'nope'",
    ),
    "an experiment with a group of nobody": (
        "experiment/mine.yaml", b"# @package _global_\ndefaults:\n  - override /traget: q_v\n",
        "experiment=mine", "traget",
    ),
}  # fmt: skip


def put(folder, name, data):
    shutil.rmtree(folder / name.partition("/")[0], ignore_errors=True)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if data is None else path.write_bytes(data)


@pytest.mark.parametrize(("name", "data", "word", "says"), FILES.values(), ids=FILES)
def test_a_file_that_holds_no_config_is_told(name, data, word, says, tmp_path):
    put(tmp_path, name, data)
    with told(says, ConfigError):
        compose([word], extra_dir=tmp_path)


@pytest.mark.parametrize(
    "case", ["an open brace", "bytes of a program", "an anchor in itself", "itself in its defaults"]
)
def test_the_command_tells_it_on_stderr(case, tmp_path, monkeypatch, capsys):
    name, data, word, says = FILES[case]
    put(tmp_path, name, data)
    assert run_train(monkeypatch, "--config-dir", str(tmp_path), word, "dry_run=true") == 2
    out, err = capsys.readouterr()
    assert says in err
    assert clear(err)
    assert out == ""


WORDS = ("ranks", "q", "modules", "auto", "method", "layers", "budget", "alpha", "defaults", "_self_", "${seed}", "???")


@settings(few, max_examples=12)
@given(value=json_values(*WORDS))
def test_whatever_json_stands_in_a_strategys_file_is_a_strategy_or_is_told(value, tmp_path):
    put(tmp_path, MINE, repr(value).replace("None", "null").encode("utf-8", "surrogatepass"))
    with at_most_told():
        compose(["target=mine"], extra_dir=tmp_path)


@settings(few, max_examples=12)
@given(data=st.binary(max_size=12) | st.text("{}[]:,-#&*!|>'\"%@` \nq2", max_size=12).map(str.encode))
def test_whatever_bytes_stand_in_a_strategys_file_are_a_strategy_or_are_told(data, tmp_path):
    put(tmp_path, MINE, data)
    with at_most_told():
        compose(["target=mine"], extra_dir=tmp_path)
