"""Plain text, compressed files, several paths, and JSON that is laid out otherwise than its name says."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from lorascope.compose import compose
from lorascope.data.sources import load_rows, pin
from lorascope.errors import DataError, LorascopeError

ROWS = [{"prompt": f"What is {n}?", "completion": f"It is {n * 7}."} for n in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
WANTED = {(row["prompt"], row["completion"]) for row in ROWS}


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def config(path, *words):
    return compose(["dataset=file", f"dataset.path={path}", *words]).dataset


def read(path, *words):
    return load_rows(config(path, "dataset.eval_share=0.3", *words))


def pairs(rows):
    return {(row.prompt, row.completion) for row in (*rows.train, *rows.eval)}


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("kind", ["jsonl", "JSON", "csv", "parquet", "arrow"])
def test_every_kind_may_be_compressed(tmp_path, ending, kind):
    table = pyarrow.Table.from_pylist(ROWS)
    plain = tmp_path / f"plain.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, plain)
    elif kind == "arrow":
        with pyarrow.ipc.new_stream(str(plain), table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv":
        plain.write_text("prompt,completion\n" + "".join(f"{r['prompt']},{r['completion']}\n" for r in ROWS))
    else:
        plain.write_text(LINES if kind == "jsonl" else json.dumps(ROWS))
    packed = tmp_path / f"a.{kind}{ending.upper() if kind == 'csv' else ending}"
    packed.write_bytes(PACKERS[ending](plain.read_bytes()))
    assert pairs(read(packed)) == WANTED


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("fault", ["cut off", "not compressed"])
def test_a_broken_compressed_file_is_one_message(tmp_path, ending, fault):
    whole = PACKERS[ending](LINES.encode())
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(whole[: len(whole) // 2] if fault == "cut off" else LINES.encode())
    with pytest.raises(LorascopeError, match=rf"a.jsonl{ending} is cut off or not {ending[1:]}"):
        read(path)


def test_another_compression_makes_another_run(tmp_path):
    """The run's id follows the files' bytes, whatever is in them."""
    contents = set()
    for ending, pack in PACKERS.items():
        path = tmp_path / f"a.jsonl{ending}"
        path.write_bytes(pack(LINES.encode()))
        contents.add(pin(config(path)).content)
    assert len(contents) == len(PACKERS)


def test_several_paths_are_read_in_their_order(tmp_path):
    for name, rows in (("b", ROWS[:20]), ("a", ROWS[20:30]), ("c", ROWS[30:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = load_rows(config(f"[{tmp_path}/b.jsonl,{tmp_path}/a.jsonl]", f"dataset.eval_path=[{tmp_path}/c.jsonl]"))
    assert [row.prompt for row in rows.train] == [row["prompt"] for row in ROWS[:30]]
    assert [row.prompt for row in rows.eval] == [row["prompt"] for row in ROWS[30:]]
    with pytest.raises(DataError, match=r"a.jsonl is named twice"):
        read(f"[{tmp_path}/a.jsonl,{tmp_path}/a.jsonl]")
    with pytest.raises(DataError, match=r"d.jsonl: there is no such file"):
        read(f"[{tmp_path}/a.jsonl,{tmp_path}/d.jsonl]")


def test_a_list_of_names_that_look_like_numbers_is_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2024_01", "1.0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text(LINES if name == "1.0" else LINES.replace("What", "Which"))
    assert len(pairs(read("[2024_01,1.0]"))) == 80


@pytest.mark.parametrize("ending", ["txt", "md", "txt.gz"])
def test_a_file_of_text_is_a_document(tmp_path, ending):
    for number in range(20):
        text = f"The heron {number} stands still.\n\nThe otter does not.\n".encode()
        path = tmp_path / f"{number}.{ending}"
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    rows = read(tmp_path)
    assert rows.shape == "text (each file is a document)"
    assert {row.text for row in (*rows.train, *rows.eval)} == {
        f"The heron {number} stands still.\n\nThe otter does not." for number in range(20)
    }


def test_blank_lines_divide_documents_where_that_is_asked(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text("\n\nOne.\nStill one.\n \n\nTwo.\n\nThree.")
    rows = load_rows(config(path, f"dataset.eval_path={path}", "dataset.documents=paragraph"))
    assert rows.shape == "text (blank lines divide documents)"
    assert [(row.text, row.place) for row in rows.train] == [
        ("One.\nStill one.", "prose.txt, line 3"), ("Two.", "prose.txt, line 7"), ("Three.", "prose.txt, line 9"),
    ]  # fmt: skip


def test_documents_without_plain_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    with pytest.raises(DataError, match="divides plain text, and no file is of that kind"):
        read(tmp_path / "a.jsonl", "dataset.documents=paragraph")


def test_a_readme_beside_data_is_not_data(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "README.md").write_text("About these rows.")
    assert pairs(read(tmp_path)) == WANTED


PRETTY = "\n".join(json.dumps(row, indent=1) for row in ROWS)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", PRETTY, r"several lines each \(pretty-printed\).*\n.*jq -c \. a.jsonl"),
    ("a.json", PRETTY, r"several lines each \(pretty-printed\)"),
    ("a.jsonl", json.dumps(ROWS, indent=1), r"is one JSON list, not JSON Lines.*\n.*a.json"),
    ("a.jsonl", LINES.replace("\n", ""), r"line 1 holds 40 objects, and JSON Lines has one on each line"),
    ("a.json", "".join(map(json.dumps, ROWS)), r"line 1 holds 40 objects"),
    ("a.jsonl", LINES + json.dumps(ROWS[0]) + " " + json.dumps(ROWS[1]), r"line 41 holds 2 objects"),
    ("a.jsonl", LINES + '{"prompt": ', r"line 41 is not JSON"),
    ("a.jsonl", '{"prompt": \n' + LINES, r"line 1 is not JSON"),
    ("a.jsonl.gz", PRETTY, r"pretty-printed"),
])  # fmt: skip
def test_json_laid_out_in_another_way_is_named_as_what_it_is(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    with pytest.raises(DataError, match=message):
        read(path)


def test_one_conversation_in_a_json_file_is_one_row(tmp_path):
    turns = [{"role": "user", "content": "Is tin a metal?"}, {"role": "assistant", "content": "Yes."}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"messages": turns}))
    assert len(load_rows(config(path, f"dataset.eval_path={path}")).train) == 1
