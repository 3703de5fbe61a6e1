"""Public benchmarks by name, read from small folders that have the columns, splits and features of the hub's."""

import re
import shlex

import datasets
import pytest
import yaml

from lorascope.compose import compose, config_dir
from lorascope.data.sources import load_rows

METRICS = {"accuracy", "macro_f1", "exact_match", "gold_logprob", "chrf", "chrf_gain", "final_number"}
TEXT = datasets.Value("string")
KINDS = ["card_arrival", "card_linking", "exchange_rate"]


def text(rows: int, **columns):
    return [{name: f"{word} {n}" for name, word in columns.items()} for n in range(rows)]


def labelled(rows: int, names, **columns):
    """Rows with a class each, as numbers that know their names."""
    features = dict.fromkeys(columns, TEXT) | {"label": datasets.ClassLabel(names=list(names))}
    return [row | {"label": n % len(names)} for n, row in enumerate(text(rows, **columns))], features


# benchmark -> {config: {split: rows, or (rows, features)}}
NLI = ["entailment", "neutral", "contradiction"]
SHARE = 60  # rows, of which by hash some are held out
HALVES = {
    "sst2": {None: {
        "train": labelled(6, ["negative", "positive"], sentence="a film"),
        "validation": labelled(4, ["negative", "positive"], sentence="another film"),
    }},
    "ag_news": {None: {
        "train": labelled(8, ["World", "Sports", "Business", "Sci/Tech"], text="news"),
        "test": labelled(4, ["World", "Sports", "Business", "Sci/Tech"], text="more"),
    }},
    "banking77": {None: {
        "train": labelled(9, KINDS, text="where is it"), "test": labelled(3, KINDS, text="which rate"),
    }},
    "anli": {None: {
        f"{half}_r{level}": labelled(3, NLI, uid="u", premise=f"{half} {level} text", hypothesis="so", reason="r")
        for half in ("train", "dev", "test") for level in (1, 2, 3)
    }},
    "tofu": {
        "full": {"train": text(8, question="who", answer="she")},
        "forget10_perturbed": {"train": text(
            4, question="who", answer="she", paraphrased_answer="it is she", paraphrased_question="tell me who",
        )},
    },
    "paradetox": {None: {"train": text(SHARE, en_toxic_comment="damn", en_neutral_comment="oh")}},
    "metamathqa": {
        None: {"train": text(6, type="GSM_Rephrased", query="how many", original_question="o", response="it is")},
        "main": {half: text(4, question=f"{half} how much", answer="so ####") for half in ("train", "test")},
    },
    "gsm8k": {"main": {half: text(4, question=f"{half} how much", answer="so ####") for half in ("train", "test")}},
    "alpaca": {None: {"train": text(SHARE, instruction="do", input="with", output="done", text="all of it")}},
    "dolly": {None: {"train": text(SHARE, instruction="do", context="with", response="done", category="qa")}},
}  # fmt: skip


def folder(place, configs):
    """A data set's folder as the hub keeps it: Parquet by config and split, listed in its card."""
    listed = []
    for config, splits in configs.items():
        entries = []
        for split, found in splits.items():
            rows, features = found if isinstance(found, tuple) else (found, None)
            file = place / (config or "data") / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list(rows, features=datasets.Features(features) if features else None).to_parquet(
                file
            )
            entries.append({"split": split, "path": str(file.relative_to(place))})
        listed.append({"config_name": config or "default", "data_files": entries})
    (place / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n")
    return place


def load(name, tmp_path, *words):
    """The benchmark's own file, its hub ids replaced by folders."""
    configs = dict(HALVES[name])
    parts = {"path": configs}
    if name == "metamathqa":
        parts = {"path": {None: configs[None]}, "eval_path": {"main": configs["main"]}}
    if name == "tofu":
        parts["eval_path"] = configs
    places = [f"dataset.{key}={folder(tmp_path / key, part)}" for key, part in parts.items()]
    dataset = compose([f"dataset={name}", *places, *words]).dataset
    return dataset, load_rows(dataset)


@pytest.mark.parametrize(
    ("name", "prompt", "completion", "labels", "sizes"),
    [
        ("sst2", "a film 1", "positive", ("negative", "positive"), (6, 4)),
        ("ag_news", "news 3", "Sci/Tech", ("World", "Sports", "Business", "Sci/Tech"), (8, 4)),
        ("banking77", "where is it 1", "card_linking", tuple(KINDS), (9, 3)),
        ("anli", "train 2 text 1\n\nso 1", "neutral", tuple(NLI), (9, 9)),
        ("tofu", "who 2", "she 2", (), (8, 4)),
        ("paradetox", None, None, (), None),
        ("metamathqa", "how many 1", "it is 1", (), (6, 4)),
        ("gsm8k", "train how much 1", "so #### 1", (), (4, 4)),
        ("alpaca", None, None, (), None),
        ("dolly", None, None, (), None),
    ],
)
def test_a_benchmark_is_read_by_its_own_columns_and_splits(name, prompt, completion, labels, sizes, tmp_path):
    dataset, rows = load(name, tmp_path)
    assert rows.labels == labels
    assert set(dataset.metrics) <= METRICS
    assert bool(labels) == ("accuracy" in dataset.metrics)
    if sizes:
        assert (len(rows.train), len(rows.eval)) == sizes
        assert (prompt, completion) in {(row.prompt, row.completion) for row in rows.train}
        assert not {row.prompt for row in rows.train} & {row.prompt for row in rows.eval}
    else:
        assert len(rows.train) + len(rows.eval) == SHARE
    assert not labels or {row.completion for row in (*rows.train, *rows.eval)} <= set(labels)


def test_instructions_keep_their_input(tmp_path):
    for name in ("alpaca", "dolly"):
        _, rows = load(name, tmp_path / name)
        found = {row.prompt: row.completion for row in (*rows.train, *rows.eval)}
        assert found["do 7\n\nwith 7"] == "done 7"


def test_paradetox_rewrites_rude_into_polite(tmp_path):
    _, rows = load("paradetox", tmp_path)
    assert {row.prompt: row.completion for row in (*rows.train, *rows.eval)}["damn 7"] == "oh 7"


def test_other_splits_are_chosen_by_a_word(tmp_path):
    _, rows = load("anli", tmp_path / "anli", "dataset.split=train_r3", "dataset.eval_split=dev_r3")
    assert {row.prompt[:11] for row in rows.train} == {"train 3 tex"}
    assert {row.prompt[:10] for row in rows.eval} == {"dev 3 text"}
    _, rows = load("tofu", tmp_path / "tofu")
    assert [row.prompt for row in rows.eval] == [f"tell me who {n}" for n in range(4)]
    _, rows = load("metamathqa", tmp_path / "math")
    assert [row.prompt for row in rows.eval] == [f"test how much {n}" for n in range(4)]


@pytest.mark.parametrize("path", sorted((config_dir() / "dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_data_set_opens_with_a_command_that_composes(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    words = shlex.split(re.search(r"python train\.py (.*)", head)[1])
    assert compose(words).dataset.name == path.stem
