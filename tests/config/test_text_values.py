"""What is written as text is read as that text: on the command line, in YAML, in a study's words."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lorascope.compose import compose
from lorascope.config.text_values import text_names, text_settings
from lorascope.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILE = ["dataset=file", "dataset.path=my.jsonl"]


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        (r"dataset.prompt=Premise: {a}\nHypothesis: {b}", "prompt", r"Premise: {a}\nHypothesis: {b}"),
        ("dataset.prompt=Is this spam? {text}", "prompt", "Is this spam? {text}"),
        ("dataset.prompt=it's {a} (or {b}), 'quoted' \\", "prompt", "it's {a} (or {b}), 'quoted' \\"),
        ("dataset.prompt=[INST] {q} [/INST]", "prompt", "[INST] {q} [/INST]"),
        ("dataset.path=~/file.jsonl", "path", "~/file.jsonl"),
        ("dataset.path=~you/a b.jsonl", "path", "~you/a b.jsonl"),
        ("dataset.path=data#1.jsonl", "path", "data#1.jsonl"),
        ("dataset.revision=12345e10", "revision", "12345e10"),
        ("dataset.revision=0012345", "revision", "0012345"),
        ("dataset.subset=2024_01", "subset", "2024_01"),
        ("dataset.subset=true", "subset", "true"),
        ("dataset.subset=1.50", "subset", "1.50"),
        ("dataset.subset=nan", "subset", "nan"),
        ("dataset.group=on", "group", "on"),
        ("dataset.system='already quoted: {x}'", "system", "already quoted: {x}"),
    ],
)  # fmt: skip
def test_a_text_on_the_command_line_is_what_was_typed(override, key, text):
    assert getattr(compose([*FILE, override]).dataset, key) == text


@pytest.mark.parametrize("value", ["null", "NULL", "Null"])
def test_null_is_still_nothing(value):
    assert compose([*FILE, "dataset.subset=x", f"dataset.subset={value}"]).dataset.subset is None


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("[no,yes]", ["no", "yes"]),
        ("[true,false]", ["true", "false"]),
        ("[True, FALSE]", ["True", "FALSE"]),
        ("[1.0,2.50,1_000,1e3]", ["1.0", "2.50", "1_000", "1e3"]),
        ("[nan, inf, -1]", ["nan", "inf", "-1"]),
        ("['1','two']", ["1", "two"]),
    ],
)
def test_classes_on_the_command_line_are_what_was_typed(value, labels):
    assert compose([*FILE, f"dataset.labels={value}"]).dataset.labels == labels


@pytest.mark.parametrize("value", ["['no',1.0]", "[a b, 'c', true]"])
def test_classes_half_in_quotes_are_refused(value):
    with pytest.raises(ConfigError, match=r"dataset.labels must hold text only"):
        compose([*FILE, f"dataset.labels={value}"])


def test_columns_on_the_command_line_are_what_was_typed():
    columns = compose([*FILE, "dataset.columns={prompt: 1, completion: true, system: 2024_01}"]).dataset.columns
    assert columns == {"prompt": "1", "completion": "true", "system": "2024_01"}
    assert compose([*FILE, "dataset.columns.completion=1e3"]).dataset.columns == {"completion": "1e3"}


# what YAML 1.1 would read as false, 8, 750, 1.0, a date …
WRITTEN = [
    "no",
    "Yes",
    "on",
    "OFF",
    "y",
    "True",
    "010",
    "0x1F",
    "12:30",
    "1_000",
    "1.0",
    "1e3",
    ".5",
    "2024-01-01",
    "nan",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_text_in_yaml_is_what_stands_in_the_file(text, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "own.yaml").write_text(
        f"source: file\npath: {text}\ngroup: {text}\nlabels: [{text}, other]\ncolumns: {{completion: {text}}}\n"
        f"system:\n  {text}\n"
    )
    dataset = compose(["dataset=own"], extra_dir=tmp_path).dataset
    assert (dataset.path, dataset.group, dataset.labels) == (text, text, [text, "other"])
    assert (dataset.columns, dataset.system) == ({"completion": text}, text)


def test_numbers_and_switches_in_yaml_are_still_what_they_mean(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "own.yaml").write_text(
        "# @package _global_\ntrain: {packing: yes, learning_rate: 1e-3, sft: {weight_decay: 1e-2, tf32: no}}\n"
        "dataset: {system: ~, max_train_samples: 0x10}\n"
    )
    config = compose(["experiment=own"], extra_dir=tmp_path)
    assert (config.train.packing, config.train.learning_rate) == (True, 1e-3)
    assert config.train.sft == {"weight_decay": 1e-2, "tf32": False}
    assert (config.dataset.system, config.dataset.max_train_samples) == (None, 16)


def test_labels_of_a_mixtures_part_are_what_stands_in_the_file(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "mine.yaml").write_text("source: file\npath: a.jsonl\nprompt: '{q}'\nlabels: [no, yes]\n")
    (folder / "both.yaml").write_text(
        "source: mixture\nparts:\n  mine: 1\n  other: {source: file, path: b.jsonl, prompt: '{q}', labels: [off, on]}\n"
    )
    parts = compose(["dataset=both"], extra_dir=tmp_path).dataset.parts
    assert (parts["mine"]["labels"], parts["other"]["labels"]) == (["no", "yes"], ["off", "on"])


def test_a_part_on_the_command_line_with_switches_for_classes_is_refused():
    part = "dataset.parts={a: {source: file, path: a.jsonl, prompt: '{q}', labels: [true,false]}}"
    with pytest.raises(ConfigError, match=r"dataset.parts.a.labels must be text"):
        compose(["dataset=mixture", part])


def test_the_text_settings_are_those_of_the_schema():
    kinds = text_settings()
    assert (kinds["dataset.prompt"], kinds["dataset.labels"], kinds["dataset.columns"]) == (
        "text", "a list of texts", "texts by name",
    )  # fmt: skip
    assert not {"train.epochs", "target.budget", "target.ranks", "train.sft", "device"} & kinds.keys()
    assert {"labels", "columns", "revision"} <= text_names()
    assert not {"budget", "seed", "layers", "options", "sft"} & text_names()


TRAIN = [sys.executable, str(ROOT / "train.py")]


@pytest.mark.parametrize(
    "words",
    [
        ["dataset=own", "--cfg", "job", "--config-dir", "FOLDER", "train.epochs=3"],
        ["dataset=own", "--config-dir=FOLDER", "train.epochs=3", "-c", "job"],
        ["train.epochs=3", "-cd", "FOLDER", "dataset=own", "--resolve", "-c", "job"],
    ],
)
def test_flags_may_stand_anywhere(words, tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "own.yaml").write_text("source: file\npath: a.jsonl\nlabels: [no, yes]\n")
    words = [word.replace("FOLDER", str(tmp_path)) for word in words]
    done = subprocess.run([*TRAIN, *words], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    config = yaml.safe_load(done.stdout)
    assert (config["dataset"]["labels"], config["train"]["epochs"]) == (["no", "yes"], 3.0), done.stderr


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sweep_may_be_asked_for_anywhere(place, tmp_path):
    words = ["target=q_v,qkvo", "dry_run=true"]
    words.insert(place, "-m")
    done = subprocess.run([*TRAIN, *words], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Nothing was run") == 2
