"""Questions made of columns, classes by name, an eval half from elsewhere: for files and for the hub alike."""

import json

import datasets
import pytest

from lorascope.compose import compose
from lorascope.data.sources import load_rows
from lorascope.errors import ConfigError, DataError

PAIRS = [{"premise": f"There are {n} cats.", "hypothesis": "There is a cat.", "label": n % 3} for n in range(60)]
NAMES = ["entailment", "neutral", "contradiction"]
PROMPT = r"dataset.prompt='Premise: {premise}\nHypothesis: {hypothesis}'"
LABELS = f"dataset.labels=[{','.join(NAMES)}]"


def file_of(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def read(path, *words, source="file"):
    return load_rows(compose([f"dataset={source}", f"dataset.path='{path}'", *words]).dataset)


def by_prompt(rows):
    return {row.prompt: row.completion for row in (*rows.train, *rows.eval)}


@pytest.mark.parametrize("source", ["file", "hub"])
def test_a_question_is_made_of_columns_and_a_number_becomes_its_class(tmp_path, source):
    path = file_of(tmp_path / "train.jsonl", PAIRS)
    rows = read(path if source == "file" else tmp_path, PROMPT, LABELS, source=source)
    assert rows.labels == tuple(NAMES)
    assert by_prompt(rows) == {
        f"Premise: {row['premise']}\nHypothesis: {row['hypothesis']}": NAMES[row["label"]] for row in PAIRS
    }


@pytest.mark.parametrize(
    ("labels", "values", "meant"),
    [
        ("[bad,good]", [0, 1, "0", "1", 0.0, "1.0"], "index"),
        ("[bad,good]", ["bad", "good", " bad "], "name"),
        ("[bad,good]", [False, True], "index"),
        ("[no,yes]", ["no", "yes"], "name"),
        ("[true,false]", [True, False, "true", "false"], "name"),
        ("[False,True]", [True, False], "name"),
        ("[3,1,2]", [1, 2, 3, "1", 2.0], "name"),
        ("[1.0,2.0]", [1, 2, "1.0"], "name"),
    ],
)
def test_a_column_names_its_classes_or_counts_them(tmp_path, labels, values, meant):
    rows = [{"text": f"row {n}", "answer": value} for n, value in enumerate([*values, *values])]
    found = read(
        file_of(tmp_path / "a.jsonl", rows), f"dataset.labels={labels}",
        "dataset.columns={prompt: text, completion: answer}", "dataset.eval_share=0.4",
    )  # fmt: skip
    names = labels.strip("[]").split(",")

    def right(value):
        if meant == "index":
            return names[int(float(value))]
        (one,) = [
            name for name in names if name.lower() == str(value).strip().lower() or numeric(name) == numeric(value)
        ]
        return one

    assert [by_prompt(found)[f"row {n}"] for n in range(len(values))] == [right(value) for value in values]


def numeric(value):
    try:
        return float(value)
    except ValueError:
        return str(value).lower()


@pytest.mark.parametrize(
    ("labels", "values", "bad"),
    [
        ("[bad,good]", ["bad", 1], 1),  # is it the second class, or a class called 1?
        ("[bad,good]", ["0", "good", "1"], "0"),
        ("[1,2,3]", [1, 2, 0], 0),
        ("[no,maybe,yes]", ["no", True], True),
        ("[no,maybe,yes]", [False, True], False),
        ("[true,false]", [0, 1], 0),
    ],
)
def test_a_column_that_does_both_is_refused(tmp_path, labels, values, bad):
    rows = [{"text": f"row {n}", "answer": value} for n, value in enumerate(values * 4)]
    with pytest.raises(DataError, match=f"is {bad}, which is none of the"):
        read(
            file_of(tmp_path / "a.jsonl", rows), f"dataset.labels={labels}",
            "dataset.columns={prompt: text, completion: answer}",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (3, "'label' is 3, which is none of the 3 classes (entailment, neutral, contradiction)"),
        (-1, "'label' is -1, which is none of"),
        (1.5, "'label' is 1.5, which is none of"),
        ("maybe", "'label' is maybe, which is none of"),
        (None, "'label' is empty"),
    ],
)
def test_a_value_that_is_no_class_is_a_bad_row(tmp_path, value, says):
    rows = [*PAIRS, {"premise": "p", "hypothesis": "h", "label": value}]
    path = file_of(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read(path, PROMPT, LABELS)
    assert "line 61" in str(caught.value)
    assert says in str(caught.value)
    assert len(read(path, PROMPT, LABELS, "dataset.on_bad_row=skip").skipped) == 1


def test_names_of_the_classes_are_taken_from_the_hub(tmp_path):
    features = datasets.Features(
        {key: datasets.Value("string") for key in ("premise", "hypothesis")}
        | {"label": datasets.ClassLabel(names=NAMES)}
    )
    datasets.Dataset.from_list(PAIRS, features=features).to_parquet(tmp_path / "train.parquet")
    rows = read(tmp_path, PROMPT, source="hub")
    assert rows.labels == tuple(NAMES)
    assert {row.completion for row in rows.train} == set(NAMES)
    others = read(tmp_path, PROMPT, "dataset.labels=[yes,maybe,no]", source="hub")
    assert {row.completion for row in others.train} == {"yes", "maybe", "no"}


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("{premise.__class__}", "{premise.__class__} is not the name of a column"),
        ("{premise[0]}", "{premise[0]} is not the name of a column"),
        ("{premise!r}", "{premise!r} is not the name of a column"),
        ("{premise:>9}", "{premise:>9} is not the name of a column"),
        ("{}", "{} is not the name of a column"),
        ("{premise", " cannot be read"),
        ("premise", " names no column"),
    ],
)
def test_a_prompt_takes_plain_names_only(prompt, says):
    with pytest.raises(ConfigError) as caught:
        compose(["dataset=file", "dataset.path=x.jsonl", f"dataset.prompt='{prompt}'"])
    assert "dataset.prompt" in str(caught.value)
    assert says in str(caught.value)


def test_braces_and_other_names_are_possible(tmp_path):
    rows = read(
        file_of(tmp_path / "a.jsonl", PAIRS), LABELS, "dataset.prompt='{{json}} {said}: {hypothesis}'",
        "dataset.columns={said: premise}",
    )  # fmt: skip
    assert "{json} There are 7 cats.: There is a cat." in by_prompt(rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset.prompt='{premis}'"], r"{premis}: .* has no such column.\n  It has: hypothesis, label"),
        (["dataset.prompt='{premise}'", "dataset.columns={completion: gold}"], "=gold: .* has no such column"),
        (["dataset.prompt='{premise}'"], "'label' is a number, not text"),
    ],
)  # fmt: skip
def test_what_a_prompt_lacks_is_told_with_the_columns_that_there_are(tmp_path, words, says):
    with pytest.raises(DataError, match=says):
        read(file_of(tmp_path / "a.jsonl", PAIRS), *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset=file", "dataset.path=x", "dataset.labels=[a,a]"], "'a' is named twice"),
        (["dataset=file", "dataset.path=x", "dataset.labels=['']"], "a class has no name"),
        (["dataset=file", "dataset.path=x", "dataset.eval_columns={question: q}"], "dataset.eval_columns.question"),
        (["dataset=file", "dataset.path=x", "dataset.prompt='{a}'", "dataset.columns={prompt: q}"], "columns.prompt"),
        (["dataset=airports", "dataset.prompt='{city}'"], "makes its own rows"),
    ],
)
def test_what_cannot_be_is_refused_at_the_door(words, says):
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert says in str(caught.value)


def test_texts_have_no_classes(tmp_path):
    path = file_of(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match=r"dataset.labels: rows read as text have no classes"):
        read(path, "dataset.labels=[a,b]")


@pytest.mark.parametrize("source", ["file", "hub"])
def test_one_data_set_trains_and_another_with_other_columns_evaluates(tmp_path, source):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = file_of(tmp_path / "one" / "train.jsonl", [{"query": f"{n}+1?", "response": str(n + 1)} for n in range(9)])
    two = file_of(tmp_path / "two" / "test.jsonl", [{"question": f"{n}*2?", "answer": str(2 * n)} for n in range(7)])
    words = [
        "dataset.prompt='Question: {query}'",
        "dataset.columns={completion: response}",
        "dataset.eval_columns={query: question, completion: answer}",
    ]
    if source == "file":
        rows = read(one, *words, f"dataset.eval_path={two}")
    else:
        rows = read(one.parent, *words, f"dataset.eval_path={two.parent}", "dataset.eval_split=test", source="hub")
    assert [(row.prompt, row.completion) for row in rows.train] == [(f"Question: {n}+1?", str(n + 1)) for n in range(9)]
    assert [(row.prompt, row.completion) for row in rows.eval] == [(f"Question: {n}*2?", str(2 * n)) for n in range(7)]


def test_a_missing_eval_half_is_told_by_its_own_setting(tmp_path):
    file_of(tmp_path / "train.jsonl", [{"prompt": "p", "completion": "c"}])
    with pytest.raises(DataError, match=r"dataset\.eval_path=org/nothing"):
        read(tmp_path, "dataset.eval_path=org/nothing", source="hub")
    with pytest.raises(DataError, match=r"dataset\.eval_split=nope"):
        read(tmp_path, f"dataset.eval_path={tmp_path}", "dataset.eval_split=nope", source="hub")
