"""The user's own files: every shape is found by itself, every bad row is named by file and number."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from helpers import make_tokenizer
from lorascope.compose import compose
from lorascope.data.rows import Message, exchange, shared_prompts
from lorascope.data.sources import load_rows, pin
from lorascope.data.splits import split_rows
from lorascope.errors import ConfigError, DataError

ROWS = [{"prompt": f"How much is {n} and {n}?", "completion": f"It is {2 * n}."} for n in range(40)]


def write(path, rows):
    """Rows in the format that the file's ending names."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read(path, *words):
    return load_rows(compose(["dataset=file", f"dataset.path='{path}'", *words]).dataset)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_the_same_rows_come_out_of_every_kind_of_file(tmp_path, ending):
    rows = read(write(tmp_path / f"my.{ending}", ROWS))
    found = {(row.prompt, row.completion) for row in (*rows.train, *rows.eval)}
    assert found == {(row["prompt"], row["completion"]) for row in ROWS}
    assert rows.shape == "prompt and completion"


@pytest.mark.parametrize(
    ("raw", "prompt", "completion", "shape"),
    [
        ({"prompt": "p", "completion": "c"}, "p", "c", "prompt and completion"),
        ({"question": "p", "answer": "c", "id": 7}, "p", "c", "prompt and completion"),
        ({"instruction": "do", "input": "with", "output": "c"}, "do\n\nwith", "c", "instruction, input and output"),
        ({"instruction": "do", "input": "", "output": "c"}, "do", "c", "instruction, input and output"),
        ({"instruction": "do", "context": "with", "response": "c"}, "do\n\nwith", "c", "instruction, input and output"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]}, "p", "c", "messages"),
        ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}]}, "p", "c", "messages"),
        ({"text": "once upon a time"}, "once upon a time", "", "text"),
    ],
)
def test_a_shape_is_found_by_its_columns(tmp_path, raw, prompt, completion, shape):
    write(tmp_path / "my.jsonl", [raw])
    write(tmp_path / "eval.jsonl", [raw])
    rows = read(tmp_path / "my.jsonl", f"dataset.eval_path={tmp_path / 'eval.jsonl'}")
    assert (rows.train[0].prompt, rows.train[0].completion, rows.shape) == (prompt, completion, shape)


def test_columns_of_other_names_are_mapped(tmp_path):
    path = write(tmp_path / "my.csv", [{"Frage": row["prompt"], "Antwort": row["completion"]} for row in ROWS])
    with pytest.raises(DataError, match=r"cannot be inferred from its columns: Antwort, Frage(.|\n)*dataset.columns="):
        read(path)
    rows = read(path, "dataset.columns={prompt: Frage, completion: Antwort}")
    assert {row.prompt for row in (*rows.train, *rows.eval)} == {row["prompt"] for row in ROWS}


def test_a_system_message_is_put_before_rows_that_have_none(tmp_path):
    rows = read(write(tmp_path / "my.jsonl", ROWS), "dataset.system='Be brief.'")
    assert rows.train[0].messages[0] == Message("system", "Be brief.")


def test_globs_and_folders_take_all_their_files_in_order(tmp_path):
    write(tmp_path / "a.jsonl", ROWS[:20])
    write(tmp_path / "b.jsonl", ROWS[20:])
    (tmp_path / "notes.txt").write_text("not data")
    for place in (tmp_path / "*.jsonl", tmp_path):
        rows = read(place)
        assert len(rows.train) + len(rows.eval) == 40


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "my.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\n" + b"".join(b"%d,x\n" % n for n in range(60)))
    assert read(tmp_path / "my.csv").shape == "prompt and completion"


GOOD = json.dumps(ROWS[0])
BAD = [
    ("a.jsonl", f"{GOOD}\n{{", "a.jsonl, line 2 is not JSON"),
    ("a.jsonl", f'{GOOD}\n{{"prompt": "p", "completion": ""}}', "a.jsonl, line 2: 'completion' is empty"),
    ("a.jsonl", f'{GOOD}\n{{"prompt": "p", "completion": "  \\n"}}', "line 2: 'completion' is empty"),
    ("a.jsonl", f'{GOOD}\n{{"prompt": null, "completion": "c"}}', "line 2: 'prompt' is empty"),
    ("a.jsonl", f'{GOOD}\n{{"prompt": "p"}}', "line 2: 'completion' is missing"),
    ("a.jsonl", f'{GOOD}\n{{"prompt": 7, "completion": "c"}}', "line 2: 'prompt' is a number, not text"),
    ("a.jsonl", f'{GOOD}\n{{"prompt": ["p"], "completion": "c"}}', "line 2: 'prompt' is a list, not text"),
    ("a.jsonl", f"{GOOD}\n\n[1, 2]", "line 3 is not an object"),
    ("a.jsonl", f'{GOOD}\n"text"', "line 2 is not an object"),
    ("a.jsonl", "", "it has no rows"),
    ("a.jsonl", '{"a": 1, "b": 2}', "the format cannot be inferred from its columns: a, b"),
    ("a.jsonl", '{"messages": []}', "line 1: 'messages' is empty"),
    ("a.jsonl", '{"messages": "hello"}', "line 1: 'messages' is text, not a list of messages"),
    ("a.jsonl", '{"messages": ["hello"]}', "message 1 is text, not an object"),
    ("a.jsonl", '{"messages": [{"role": "narrator", "content": "x"}]}', "message 1 has the role 'narrator'"),
    ("a.jsonl", '{"messages": [{"role": "user", "content": null}]}', "the content of message 1 (user) is empty"),
    ("a.jsonl", '{"messages": [{"role": "user", "content": "x"}]}', "no message is the assistant's"),
    (
        "a.jsonl",
        '{"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}',
        "it ends with a message of the user",
    ),
    ("a.json", "[", "a.json, line 1 is not JSON"),
    ("a.json", "7", "a.json is not a list of objects"),
    ("a.json", "[]", "it has no rows"),
    ("a.json", '[{"text": ""}]', "a.json, row 1: 'text' is empty"),
    ("a.csv", "prompt,completion\na,b\nc\n", "a.csv, line 3 has fewer values than the heading's 2"),
    ("a.csv", "prompt,completion\na,b,c\n", "a.csv, line 2 has more values than the heading's 2"),
    ("a.csv", 'prompt,completion\na,"b\n', "a.csv, line 2 is not CSV"),
    ("a.csv", "prompt,completion\n", "it has no rows"),
    ("a.csv", "prompt,completion\n,b\n", "a.csv, line 2: 'prompt' is empty"),
    ("a.parquet", "no parquet", "is not Parquet"),
    ("a.xlsx", "x", "'.xlsx' files cannot be read"),
]


@pytest.mark.parametrize(("name", "text", "says"), BAD, ids=[says[:40] for _, _, says in BAD])
def test_a_bad_file_or_row_is_one_message_with_its_place(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises((DataError, ConfigError)) as caught:
        read(tmp_path / name)
    message = str(caught.value)
    assert says in message
    assert len(message.splitlines()) == 2  # place and value, remedy
    assert "Error(" not in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path, name):
    rows = b"prompt,completion\nx,y\nStra\xdfe,z\n" if name == "a.csv" else b'{"text": "x"}\n\n{"text": "Stra\xdfe"}\n'
    (tmp_path / name).write_bytes(rows)
    with pytest.raises(DataError, match=rf"{name}, line 3: byte 0xdf is not UTF-8"):
        read(tmp_path / name)


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"there is no such file(.|\n)*Did you mean .*train.jsonl"):
        read(tmp_path / "trian.jsonl")


def test_bad_rows_are_counted_and_left_out_when_asked(tmp_path):
    text = "\n".join([*map(json.dumps, ROWS), '{"prompt": "p", "completion": ""}', "{", "7"])
    (tmp_path / "my.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"\(3 such rows\)"):
        read(tmp_path / "my.jsonl")
    rows = read(tmp_path / "my.jsonl", "dataset.on_bad_row=skip")
    assert len(rows.train) + len(rows.eval) == 40
    assert [line.partition(":")[0] for line in rows.skipped] == [f"my.jsonl, line {n}" for n in (41, 42, 43)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset=file"], "dataset.path: no data is named"),
        (["dataset=hub"], "dataset.path: no data is named"),
        (["dataset=airports", "dataset.path=x.jsonl"], "takes no path"),
        (["dataset=file", "dataset.path=x", "dataset.eval_share=1"], "must be between 0 and 1 (got 1.0)"),
        (["dataset=file", "dataset.path=x", "dataset.columns={question: q}"], "dataset.columns.question"),
        (["dataset=file", "dataset.path=x", "dataset.on_bad_row=drop"], "must be one of error, skip (got 'drop')"),
        (["dataset=file", "dataset.path=x", "dataset.options.facts=3"], "has no options"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_the_door(words, says):
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("dataset.columns={prompt: nope, completion: completion}", "has no such column"),
        ("dataset.group=nope", "has no such column"),
        ("dataset.eval_path=nope.jsonl", "dataset.eval_path=nope.jsonl: there is no such file"),
        ("dataset.eval_share=0.000001", "no eval row comes out of 40 rows"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_told(tmp_path, word, says):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "my.jsonl", ROWS), word)
    assert says in str(caught.value)


def test_the_split_keeps_equal_prompts_together_and_old_rows_in_place():
    rows = [exchange(f"prompt {n % 50}", f"answer {n}") for n in range(200)]
    train, held_out = split_rows(rows, 0.2, by_group=False)
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    more_train, _ = split_rows([*rows, *(exchange(f"new {n}", "x") for n in range(50))], 0.2, by_group=False)
    assert set(train) <= set(more_train)


def test_the_split_takes_about_its_share():
    rows = [exchange(f"prompt {n}", "x") for n in range(4000)]
    _, held_out = split_rows(rows, 0.1, by_group=False)
    assert 400 - 4 * 19 < len(held_out) < 400 + 4 * 19  # four standard deviations of a binomial


def test_a_group_is_never_on_both_sides(tmp_path):
    rows = [row | {"topic": f"t{n % 10}"} for n, row in enumerate(ROWS)]
    found = read(write(tmp_path / "my.jsonl", rows), "dataset.group=topic", "dataset.eval_share=0.4")
    assert not {row.group for row in found.train} & {row.group for row in found.eval}


def test_prompts_on_both_sides_are_found(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    leaked = {"prompt": "  how much IS 3   and 3?", "completion": "6"}
    write(tmp_path / "eval.jsonl", [leaked, {"prompt": "new", "completion": "x"}])
    rows = read(tmp_path / "train.jsonl", f"dataset.eval_path={tmp_path / 'eval.jsonl'}")
    assert [row.completion for row in shared_prompts(rows)] == ["6"]


def test_an_edited_file_is_another_run(tmp_path):
    path = write(tmp_path / "my.jsonl", ROWS)
    dataset = compose(["dataset=file", f"dataset.path={path}"]).dataset
    before = pin(dataset)
    assert pin(dataset) == before
    write(path, ROWS[1:])
    assert pin(dataset).content != before.content


def test_a_local_folder_is_read_as_a_hub_data_set(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    words = ["dataset=hub", f"dataset.path={tmp_path}"]
    rows = load_rows(compose(words).dataset)
    assert len(rows.train) + len(rows.eval) == 40
    with pytest.raises(DataError, match=r"dataset.split=nope"):
        load_rows(compose([*words, "dataset.split=nope"]).dataset)


def test_an_edited_folder_is_read_anew_and_is_another_run(tmp_path):
    (tmp_path / "README.md").write_text("---\nconfigs: [{config_name: default, data_files: train.jsonl}]\n---\n")
    dataset = compose(["dataset=hub", f"dataset.path={tmp_path}"]).dataset
    write(tmp_path / "train.jsonl", ROWS)
    before, content = load_rows(dataset), pin(dataset).content
    write(tmp_path / "train.jsonl", [{**row, "completion": "new"} for row in ROWS])
    assert {row.completion for row in load_rows(dataset).train} == {"new"} != {row.completion for row in before.train}
    assert pin(dataset).content != content is not None


def test_a_hub_data_set_without_a_hub_says_so():
    with pytest.raises(DataError, match=r"dataset\.path=org/nothing"):
        load_rows(compose(["dataset=hub", "dataset.path=org/nothing"]).dataset)


def test_a_row_cut_before_its_answer_is_named_by_file_and_line(tmp_path):
    from lorascope.data.tokenization import encode

    long = [*ROWS[:3], {"prompt": "x" * 400, "completion": "y"}]
    write(tmp_path / "my.jsonl", long)
    rows = read(tmp_path / "my.jsonl", f"dataset.eval_path={tmp_path / 'my.jsonl'}").train
    with pytest.raises(DataError, match=r"my.jsonl, line 4: its completion begins after 40\d tokens"):
        encode(rows, make_tokenizer(), 100, "train")
    encoded = encode(rows, make_tokenizer(), 100, "train", skip=True)
    assert len(encoded) == 3
    assert "my.jsonl, line 4" in encoded.skipped[0]
