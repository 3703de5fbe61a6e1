"""Files that are well-formed and mean something else than they seem to."""

import csv
import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from lorascope.compose import compose
from lorascope.data.sources import load_rows
from lorascope.errors import DataError

ROWS = [{"prompt": f"What is {n}?", "completion": f"It is {n * 7}."} for n in range(40)]


def read(path, *words):
    return load_rows(compose(["dataset=file", f"dataset.path={path}", "dataset.eval_share=0.3", *words]).dataset)


def pairs(rows):
    return {(row.prompt, row.completion) for row in (*rows.train, *rows.eval)}


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


WANTED = {(row["prompt"], row["completion"]) for row in ROWS}


@pytest.mark.parametrize(
    ("name", "delimiter", "lines", "line"),
    [
        ("a.tsv", "\t", ['"Good morning{}bonjour', "it rained{}il pleut", 'so it was said"{}dit'], 2),
        ("a.tsv", "\t", ['one{}"un', 'two"{}deux'], 2),
        ("a.csv", ",", ['"Good morning{}bonjour', 'so it was said"{}dit'], 2),
        ("a.csv", ",", ["plain{}x", 'one{}"un', "two{}deux", 'three{}trois"'], 3),
    ],
)
def test_a_quote_of_the_text_that_glues_lines_is_refused_by_line(tmp_path, name, delimiter, lines, line):
    lines = [f"prompt{delimiter}completion", *(one.format(delimiter) for one in lines)]
    lines += [f"word {n}{delimiter}mot {n}" for n in range(30)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"{name}, line {line}: a quote is opened there"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "text", ["two\nlines", "Dear John,\nthanks, it works.\nBest, Mary", "a\n\nb", 'he said "hi"\nand left']
)
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_text_of_several_lines_in_quotes_is_read(tmp_path, text, name, delimiter):
    rows = [*ROWS, {"prompt": text, "completion": text}]
    with (tmp_path / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    assert pairs(read(tmp_path / name)) == WANTED | {(text, text)}


def test_quotes_around_some_values_of_a_tsv_column_are_refused(tmp_path):
    lines = ["prompt\tcompletion", *(f"say {n}\tyes {n}" for n in range(20)), 'say "no"\t"no"']
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"a.tsv, line 22: a value stands in quotes, and others of its column do not"):
        read(tmp_path / "a.tsv")


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_tsv_file_as_a_library_writes_it_is_read(tmp_path, quoting):
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"], delimiter="\t", quoting=quoting)
        writer.writeheader()
        writer.writerows(ROWS)
    assert pairs(read(tmp_path / "a.tsv")) == WANTED


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train.jsonl", "test.jsonl"), ("my-train.jsonl", "my-val.jsonl"), ("train-0.jsonl", "validation-0.jsonl"),
        ("train/a.jsonl", "dev/a.jsonl"), ("data.jsonl", "data_test.jsonl"), ("TRAIN.jsonl", "Eval.jsonl"),
    ],
)  # fmt: skip
def test_the_test_part_of_a_folder_is_not_trained_on(tmp_path, first, second):
    jsonl(tmp_path / first, ROWS[:30])
    jsonl(tmp_path / second, ROWS[30:])
    pattern = tmp_path / "**/*.jsonl" if "/" in first else tmp_path
    with pytest.raises(DataError, match="it holds parts by name") as caught:
        read(pattern)
    words = caught.value.remedy.removeprefix("Name them: ").split()
    rows = load_rows(compose(["dataset=file", *words]).dataset)
    assert {row.prompt for row in rows.eval} == {row["prompt"] for row in ROWS[30:]}
    assert {row.prompt for row in rows.train} == {row["prompt"] for row in ROWS[:30]}


@pytest.mark.parametrize(
    "names", [["train-0.jsonl", "train-1.jsonl"], ["a.jsonl", "contest.jsonl"], ["x_test.jsonl", "y_test.jsonl"]]
)
def test_files_of_one_part_are_one_set(tmp_path, names):
    jsonl(tmp_path / names[0], ROWS[:20])
    jsonl(tmp_path / names[1], ROWS[20:])
    assert pairs(read(tmp_path)) == WANTED


@pytest.mark.parametrize("ending", ["JSONL", "Json", "CSV", "Parquet", "NDJSON"])
def test_endings_in_capitals_are_endings(tmp_path, ending):
    path = tmp_path / f"QA.{ending}"
    kind = ending.lower()
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif kind == "csv":
        path.write_text("prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS))
    else:
        path.write_text(json.dumps(ROWS) if kind == "json" else "".join(json.dumps(row) + "\n" for row in ROWS))
    assert pairs(read(path)) == WANTED


def test_what_save_to_disk_wrote_is_read(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one", num_shards=3)
    assert pairs(read(tmp_path / "one")) == WANTED
    parts = {"train": datasets.Dataset.from_list(ROWS[:30]), "test": datasets.Dataset.from_list(ROWS[30:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="it holds the parts train, test") as caught:
        read(tmp_path / "both")
    rows = load_rows(compose(["dataset=file", *caught.value.remedy.removeprefix("Name them: ").split()]).dataset)
    assert {row.prompt for row in rows.eval} == {row["prompt"] for row in ROWS[30:]}


def test_what_save_to_disk_wrote_is_read_as_a_hubs_data_set(tmp_path, monkeypatch):
    parts = {"train": datasets.Dataset.from_list(ROWS[:30]), "test": datasets.Dataset.from_list(ROWS[30:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "both")
    parts["train"].save_to_disk(tmp_path / "one")
    monkeypatch.setenv("HOME", str(tmp_path))
    hub = ["dataset=hub", "dataset.path=~/both"]
    rows = load_rows(compose([*hub, "dataset.eval_split=test"]).dataset)
    assert [len(rows.train), len(rows.eval)] == [30, 10]
    assert {row.prompt for row in rows.eval} == {row["prompt"] for row in ROWS[30:]}
    with pytest.raises(DataError, match=r"dataset.split=dev.*Unknown split"):
        load_rows(compose([*hub, "dataset.split=dev"]).dataset)
    one = load_rows(compose(["dataset=hub", "dataset.path=~/one", "dataset.eval_share=0.3"]).dataset)
    assert len(pairs(one)) == 30


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_classes_that_datasets_has_stored_are_taught_by_name(tmp_path, kind):
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "completion": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_list(
        [{"prompt": f"is {n} odd?", "completion": n % 2} for n in range(40)], features=features
    )
    path = tmp_path / ("one" if kind == "saved" else "one.parquet")
    table.save_to_disk(path) if kind == "saved" else table.to_parquet(path)
    rows = read(path)
    assert rows.labels == ("no", "yes")
    assert pairs(rows) == {(f"is {n} odd?", ["no", "yes"][n % 2]) for n in range(40)}


def test_nulls_that_parquet_puts_for_absent_keys_are_absent(tmp_path):
    talks = []
    for n in range(40):
        roles = [("role", "content", "user", "assistant"), ("from", "value", "human", "gpt")][n % 2]
        empty = dict.fromkeys(("role", "content", "from", "value"))
        talks.append([empty | {roles[0]: roles[2], roles[1]: f"q{n}"}, empty | {roles[0]: roles[3], roles[1]: f"a{n}"}])
    pyarrow.parquet.write_table(pyarrow.table({"messages": talks, "prompt": [None] * 40}), tmp_path / "a.parquet")
    assert pairs(read(tmp_path / "a.parquet")) == {(f"q{n}", f"a{n}") for n in range(40)}


def test_a_rows_own_system_message_counts_before_the_setting(tmp_path):
    rows = [{"prompt": f"q{n}", "completion": f"a{n}", "system": f"own {n}" if n % 2 else ""} for n in range(40)]
    found = read(jsonl(tmp_path / "a.jsonl", rows), "dataset.system=set")
    for row in (*found.train, *found.eval):
        number = int(row.prompt.removeprefix("q"))
        assert row.messages[0].content == (f"own {number}" if number % 2 else "set")


@pytest.mark.parametrize("label", ["label", "class", "sentiment", "category"])
def test_a_text_beside_a_label_is_asked_about(tmp_path, label):
    rows = [{"text": f"text {n}", label: f"kind {n % 3}"} for n in range(40)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=f"it has the columns text and {label}"):
        read(path)
    assert read(path, "dataset.columns.text=text").shape == "text"
    found = read(path, "dataset.prompt={text}", f"dataset.columns.completion={label}")
    assert pairs(found) == {(f"text {n}", f"kind {n % 3}") for n in range(40)}


@pytest.mark.parametrize("streaming", [False, True])
def test_one_question_about_many_documents_is_split_by_document(tmp_path, streaming):
    talks = [
        [
            {"role": "system", "content": f"Document {n}"},
            {"role": "user", "content": "Summarize."},
            {"role": "assistant", "content": f"It is {n}."},
        ]
        for n in range(60)
    ]
    path = jsonl(tmp_path / "a.jsonl", [{"messages": talk} for talk in talks])
    found = read(path, f"dataset.streaming={streaming}")
    assert 5 < len(found.eval) < 30
    documents = [{row.messages[0].content for row in half} for half in (found.train, found.eval)]
    assert not documents[0] & documents[1]
    assert "system messages" in found.split


def test_an_archive_by_the_name_of_text_is_still_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b'{"prompt": "a", "completion": "b"}\n'))
    with pytest.raises(DataError, match="is not UTF-8"):
        read(tmp_path / "a.jsonl")
