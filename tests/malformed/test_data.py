"""Data files that hold no rows to learn from; those of tests/data/test_files.py are not repeated."""

import dataclasses
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.config.schema import DatasetConfig, OnBadRow
from lorascope.data.rows import rows_hash
from lorascope.data.sources import load_rows, pin
from lorascope.errors import DataError
from malformed.judged import at_most_told, few, json_values, told


def parquet(columns):
    out = io.BytesIO()
    pyarrow.parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), out)
    return out.getvalue()


def messages(*turns):
    return json.dumps({"messages": turns}).encode()


def broken_text():
    offsets, letters = pa.py_buffer(b"\0\0\0\0\x02\0\0\0"), pa.py_buffer(b"\xff\xfe")
    return pa.Array.from_buffers(pa.string(), 1, [None, offsets, letters])


USER, ANSWER = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
GOOD = parquet({"prompt": ["a"] * 50, "completion": ["b"] * 50})
ROW = b'{"prompt": "a", "completion": "b"}\n'
# name -> file, its bytes, what the message holds
FILES = {
    # what is no text, or another kind of text
    "a gzip archive": ("a.jsonl", gzip.compress(ROW), "It does not seem to be text"),
    "UTF-16": ("a.jsonl", ROW.decode().encode("utf-16"), "iconv -f UTF-16"),
    "UTF-16 in CSV": ("a.csv", "prompt,completion\na,b\n".encode("utf-16"), "a.csv, line 1: byte 0xff is not UTF-8"),
    "UTF-16 without a mark": ("a.jsonl", ROW.decode().encode("utf-16-le"), "line 1 is not JSON"),
    "zero bytes": ("a.jsonl", b"\0" * 100, "line 1 is not JSON"),
    "a byte order mark alone": ("a.jsonl", b"\xef\xbb\xbf", "it has no rows"),
    "Parquet by another name": ("a.jsonl", GOOD, "It does not seem to be text"),
    "JSON Lines by another name": ("a.parquet", ROW, "a.parquet is not Parquet"),
    "another ending": ("a.jsonl.7z", ROW, "'.7z' files cannot be read"),
    "no ending": ("a", ROW, "'' files cannot be read"),
    # JSON
    "a line cut off": ("a.jsonl", ROW + ROW[:20], "a.jsonl, line 2 is not JSON (Unterminated string"),
    "an object over several lines": ("a.jsonl", b'{\n"text": "x"\n}', "of several lines each (pretty-printed)"),
    "two objects on a line": ("a.jsonl", ROW.strip() * 2, "line 1 holds 2 objects, and JSON Lines has one"),
    "single quotes": ("a.jsonl", b"{'text': 'x'}", "line 1 is not JSON"),
    "a list over several lines": ("a.jsonl", b'[{"text": "a"},\n{"text": "b"}]', "is one JSON list, not JSON Lines"),
    "blank lines": ("a.jsonl", b"\n \n\n", "it has no rows"),
    "brackets without end in a line": ("a.jsonl", b'{"text": ' + b"[" * 100_000, "is not JSON (nested too deeply)"),
    "brackets without end": ("a.json", b"[" * 100_000, "a.json, line 1 is not JSON: nested too deeply"),
    "a number of 5000 digits": ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "is not JSON (Exceeds the limit"),
    "a comma at the end": ("a.json", b'[{"text": "a"},]', "a.json, line 1 is not JSON"),
    "a list cut off": ("a.json", b'[{"text": "a"},\n{"text": "b"', "a.json, line 2 is not JSON"),
    "a comment": ("a.json", b'[// x\n{"text": "a"}]', "a.json, line 1 is not JSON"),
    "no JSON at all": ("a.json", b"", "a.json, line 1 is not JSON"),
    "null": ("a.json", b"null", "a.json is not a list of objects"),
    "lists in a list": ("a.json", b'[["a", "b"]]', "a.json, row 1 is not an object"),
    "two lists to choose from": ("a.json", b'{"a": [{"text": "x"}], "b": [{"text": "y"}]}', "from its columns: a, b"),
    "columns as lists": ("a.json", b'{"prompt": ["a"], "completion": ["b"]}', "'prompt' is a list, not text"),
    # values
    "half of a character": ("a.jsonl", b'{"text": "\\ud800"}', "'text' holds half of a character, '\\ud800'"),
    "half of a character in a role": ("a.jsonl", messages({"role": "\ud800", "content": "x"}), "the role '\\ud800'"),
    "NaN": ("a.jsonl", b'{"text": NaN}', "'text' is a number, not text"),
    "a name twice": ("a.jsonl", b'{"text": "a", "text": null}', "'text' is empty"),
    "a text that is true": ("a.jsonl", b'{"text": true}', "'text' is true or false, not text"),
    "an object for a text": ("a.jsonl", b'{"prompt": {"a": 1}, "completion": "x"}', "'prompt' is an object, not text"),
    "a system that is a number": ("a.jsonl", ROW[:-2] + b', "system": 3}', "'system' is a number, not text"),
    "rows of two shapes": ("a.jsonl", b'{"text": "a"}\n' + ROW, "a.jsonl, line 1: 'prompt' is missing"),
    "one row alone": ("a.jsonl", ROW, "row comes out of 1 rows"),
    # messages
    "a role that is a number": ("a.jsonl", messages({"role": 1, "content": "x"}), "message 1 has the role '1'"),
    "a role of 5000 letters": ("a.jsonl", messages({"role": "x" * 5000, "content": "x"}), "message 1 has the role 'xx"),
    "no role": ("a.jsonl", messages({"content": "x"}), "message 1 has the role 'None'"),
    "a critic's message": ("a.jsonl", messages(USER, {"role": "critic", "content": "x"}, ANSWER), "role 'critic'"),
    "an image in parts": ("a.jsonl", messages({"role": "user", "content": [{"type": "image"}]}, ANSWER), "type image"),
    "content in braces": ("a.jsonl", messages({"role": "user", "content": {}}, ANSWER), "(user) is an object"),
    "content of spaces": ("a.jsonl", messages(USER, {"role": "assistant", "content": " \n"}), "(assistant) is empty"),
    "a call without content": ("a.jsonl", messages(USER, {"role": "assistant", "tool_calls": []}), "is empty"),
    "null for a message": ("a.jsonl", messages(None), "message 1 is null, not an object"),
    "conversations in a conversation": ("a.jsonl", messages([USER, ANSWER]), "message 1 is a list, not an object"),
    "one message for several": ("a.jsonl", b'{"messages": {"role": "user"}}', "'messages' is an object, not a list"),
    # CSV
    "no heading": ("a.csv", b"What?,That.\nWho?,He.\n", "cannot be inferred from its columns: That., What?"),
    "semicolons": ("a.csv", b"prompt;completion\na;b\n", "inferred from its columns: prompt;completion"),
    "commas in TSV": ("a.tsv", b"prompt,completion\na,b\n", "inferred from its columns: prompt,completion"),
    "a column twice": ("a.csv", b"prompt,prompt,completion\na,b,c\n", "line 1: the heading names 'prompt' twice"),
    "letters behind a quote": ("a.csv", b'prompt,completion\na,"b"c\n', "a.csv, line 2 is not CSV"),
    "nothing in CSV": ("a.csv", b"", "it has no rows"),
    "columns without names": ("a.csv", b",\na,b\n", "names '' twice"),
    "100,000 commas": ("a.csv", b"text\n" + b"," * 100_000 + b"\n", "line 2 has more values than the heading's 1"),
    # Parquet
    "Parquet cut off": ("a.parquet", GOOD[: len(GOOD) // 2], "a.parquet is not Parquet"),
    "nothing in Parquet": ("a.parquet", b"", "Parquet file size is 0 bytes"),
    "two magic words": ("a.parquet", b"PAR1\0\0\0\0PAR1", "a.parquet is not Parquet"),
    "a footer of zeros": ("a.parquet", GOOD[:4] + b"\0" * (len(GOOD) - 40) + GOOD[-36:], "a.parquet is not Parquet"),
    "a page that was hit": ("a.parquet", GOOD[:10] + bytes([GOOD[10] ^ 255]) + GOOD[11:], "a.parquet is not Parquet"),
    "no rows": ("a.parquet", parquet({"text": pa.array([], pa.string())}), "it has no rows"),
    "no columns": ("a.parquet", parquet({}), "it has no rows"),
    "bytes for a text": ("a.parquet", parquet({"text": [b"\xff"]}), "a.parquet, row 1: 'text' is bytes, not text"),
    "text that is none": ("a.parquet", parquet({"text": broken_text()}), "can't decode byte 0xff"),
    "a time beyond all calendars": (
        "a.parquet", parquet({"text": ["x"], "when": pa.array([2**62], pa.timestamp("us"))}), "out of range",
    ),
    "columns of one name": (
        "a.parquet", parquet(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])), "Multiple matches",
    ),
}  # fmt: skip


def read(path, **settings):
    dataset = pin(DatasetConfig(source="file", name="file", path=str(path), **settings))
    return load_rows(dataset)


@pytest.mark.parametrize(("name", "data", "says"), FILES.values(), ids=FILES)
def test_a_file_that_holds_no_rows_to_learn_from_is_told(name, data, says, tmp_path):
    (tmp_path / name).write_bytes(data)
    with told(says, DataError):
        read(tmp_path / name)


@pytest.mark.parametrize("others", [[], ["notes.doc"], ["deep/a.jsonl"]], ids=["nothing", "notes", "a folder"])
def test_a_folder_without_data_is_told_with_the_kinds_that_are_read(others, tmp_path):
    for other in others:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(ROW)
    with told("no file in it can be read", DataError):
        read(tmp_path)


@pytest.mark.parametrize(
    ("data", "settings", "says"),
    [
        (b'{"text": "x", "g": "\\ud800"}', {"group": "g"}, "the group column 'g' holds half of a character"),
        (b'{"text": "x", "g": ""}', {"group": "g"}, "the group column 'g' is empty"),
        (b'{"a": "x", "b": "y"}', {"columns": {"prompt": "a"}}, "the format cannot be inferred from its columns: a, b"),
        (b'{"a": "x"}', {"columns": {"prompt": "a", "completion": "b"}}, "dataset.columns.completion=b"),
        (b'{"text": 1}\n{"text": 2}', {"on_bad_row": OnBadRow.skip}, "it has no rows"),
    ],
)
def test_what_the_settings_ask_of_a_file_and_it_lacks_is_told(data, settings, says, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(data)
    with told(says, DataError):
        read(tmp_path / "a.jsonl", **settings)


def test_an_eval_half_of_another_shape_is_told_by_its_own_name(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(ROW)
    (tmp_path / "b.jsonl").write_bytes(b'{"prompt": "x"}')
    with told("b.jsonl", DataError):
        read(tmp_path / "a.jsonl", eval_path=str(tmp_path / "b.jsonl"))


NAMES = ("prompt", "completion", "messages", "role", "content", "user", "assistant", "text", "system", "\ud800")


@few
@given(row=json_values(*NAMES), group=st.none() | st.sampled_from(NAMES))
def test_whatever_json_is_a_row_it_is_learned_from_or_is_told(row, group, tmp_path):
    dataset = DatasetConfig(source="file", path=str(tmp_path / "a.jsonl"), group=group)
    for rows in ([row], [{"prompt": "a", "completion": "b"}, row], [{"messages": row}], [{"text": row}]):
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        with at_most_told():
            rows_hash(load_rows(dataclasses.replace(dataset, eval_path=dataset.path)).train)


@few
@given(
    data=st.binary(max_size=20),
    ending=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]),
    at=st.integers(0, 900),
)
def test_whatever_bytes_are_in_a_file_it_is_read_or_is_told(data, ending, at, tmp_path):
    good = GOOD if ending == "parquet" else b"prompt,completion\na,b\n" if ending == "csv" else ROW
    at %= len(good)
    for whole in (data, good[:at] + data + good[at:]):
        (tmp_path / f"a.{ending}").write_bytes(whole)
        with at_most_told():
            read(tmp_path / f"a.{ending}")
