"""Rows and tokens that go through the disk: the same as in the memory, in less of it."""

import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from helpers import make_model, make_tokenizer, run_train
from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import Ranks, TargetConfig
from lorascope.data.rows import DiskRows, rows_hash, shared_prompts
from lorascope.data.sources import load_rows
from lorascope.data.statistics import data_card, data_notes
from lorascope.data.tokenization import encode
from lorascope.errors import ConfigError, DataError
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.training.checkpoints import Saving, newest
from lorascope.training.trainer import train_adapter

ROWS = [{"prompt": f"Wie weit ist es, Nr. {n}?", "completion": f"{n} Fuß."} for n in range(700)]
STREAM = "dataset.streaming=true"


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)
    elif path.suffix == ".csv":
        path.write_text("prompt,completion\n" + "".join(f'"{row["prompt"]}",{row["completion"]}\n' for row in rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def read(path, *words, source="file"):
    return load_rows(compose([f"dataset={source}", f"dataset.path={path}", *words]).dataset)


def encoded(rows, half="train"):
    return encode(getattr(rows, half), make_tokenizer(), 48, half)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "hub"])
def test_a_stream_gives_the_same_rows_tokens_and_hash(tmp_path, ending):
    path = write(tmp_path / f"train.{'jsonl' if ending == 'hub' else ending}", ROWS)
    where = (tmp_path, "hub") if ending == "hub" else (path, "file")
    plain, stream = read(where[0], source=where[1]), read(where[0], STREAM, source=where[1])
    assert isinstance(stream.train, DiskRows)
    assert (tuple(stream.train), tuple(stream.eval)) == (plain.train, plain.eval)
    assert (stream.origin, stream.shape, stream.split) == (plain.origin, plain.shape, plain.split)
    assert rows_hash(stream.train) == rows_hash(plain.train)
    for half in ("train", "eval"):
        one, other = encoded(plain, half), encoded(stream, half)
        assert other.hash == one.hash
        assert [*other.input_ids] == [*one.input_ids]
        assert [*other.labels] == [*one.labels]
        assert (other.tokens, other.supervised_tokens, len(other)) == (one.tokens, one.supervised_tokens, len(one))
        assert other.to_dataset()[:] == one.to_dataset()[:]
    assert shared_prompts(stream) == shared_prompts(plain)
    halves = [(rows, encoded(rows), encoded(rows, "eval")) for rows in (plain, stream)]
    assert data_card(*halves[1]) == data_card(*halves[0])
    assert data_notes(*halves[1], make_tokenizer()) == data_notes(*halves[0], make_tokenizer())


def test_rows_on_the_disk_are_a_sequence():
    rows = DiskRows()
    for row in (plain := [*_rows(20)]):
        rows.append(row)
    assert (rows[0], rows[-1], rows[7], rows[3:5]) == (plain[0], plain[-1], plain[7], tuple(plain[3:5]))
    assert (len(rows), [*rows]) == (20, plain)
    with pytest.raises(IndexError):
        rows[20]


def _rows(count):
    from lorascope.data.rows import Row, exchange

    for number in range(count):
        text = Row(text="x", accepted=("a",))
        yield exchange(f"p{number}", "ä\n", "system", "group", "place") if number % 2 else text


def test_what_was_written_goes_with_what_reads_it(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    rows = read(path, STREAM)
    data = encoded(rows)
    file, mapped = rows.train.file, Path(data.to_dataset().cache_files[0]["filename"])
    assert not file.closed
    assert mapped.is_file()
    assert mapped.is_relative_to(tmp_path / "temporary")
    del rows, data
    gc.collect()
    assert file.closed
    assert not [*(tmp_path / "temporary").iterdir()]


def test_a_stream_that_cannot_be_encoded_leaves_nothing(tmp_path, monkeypatch):
    rows = read(write(tmp_path / "a.jsonl", ROWS), STREAM)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(DataError, match="the chat template refuses this row"):
        encode(rows.train, tokenizer, 48, "train")
    with pytest.raises(DataError, match="its completion begins after"):
        encode(rows.train, make_tokenizer(), 8, "train")
    gc.collect()
    assert not [*(tmp_path / "temporary").iterdir()]


def test_a_cap_ends_the_reading(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    path.write_text(path.read_text() + "\n{\n")
    with pytest.raises(DataError, match="line 701 is not JSON"):
        read(path, STREAM)
    capped = read(path, STREAM, "dataset.max_train_samples=50", "dataset.max_eval_samples=3")
    whole = read(path, "dataset.on_bad_row=skip")
    assert tuple(capped.train) == whole.train[:50]
    assert tuple(capped.eval) == whole.eval[:3]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset.group=nope"], "has no such column"),
        (["dataset.eval_share=0.000001"], "no eval row comes out of 700 rows"),
        (["dataset.columns={prompt: nope, completion: completion}"], "has no such column"),
    ],
)
def test_a_stream_refuses_what_is_refused_without(tmp_path, words, says):
    path = write(tmp_path / "a.jsonl", ROWS)
    for more in ([], [STREAM]):
        with pytest.raises(DataError, match=says):
            read(path, *words, *more)
    with pytest.raises(DataError, match="cannot be streamed"):
        read(write(tmp_path / "b.json", ROWS), STREAM)


def trained(folder, data, evaluation, latest=None, stop=None, *words):
    from transformers import TrainerCallback

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == stop

    base = make_model()
    plan = plan_targets(TargetConfig(ranks=Ranks(q=4, v=4), lora_dropout=0.2), map_modules(base, "tiny", "here"))
    model = attach(base, plan, 0)
    config = resolve(compose(["device=cpu", "train.batch_size=4", "train.save_steps=1", "train.max_length=64", *words]))
    train_adapter(
        model, make_tokenizer(), data, evaluation, config, Saving(folder, latest), evaluate=lambda: {"eval_loss": 1.0},
        callbacks=[type("Stop", (TrainerCallback,), {"on_step_end": on_step_end})()], warn=print,
    )  # fmt: skip
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("words", [(), ("train.packing=true",)], ids=["plain", "packed"])
def test_a_stream_trains_the_same_adapter_and_goes_on_exactly(tmp_path, words):
    path = write(tmp_path / "a.jsonl", ROWS[:60])
    plain, stream = read(path), read(path, STREAM)
    expected = trained(tmp_path / "plain", encoded(plain), encoded(plain, "eval"), None, None, *words)
    data = encoded(stream), encoded(stream, "eval")
    trained(tmp_path / "cut", *data, None, 3, *words)
    latest = newest(tmp_path / "cut", print)
    assert latest.step == 3
    runs = (("stream", None), ("cut", latest))
    for found in [trained(tmp_path / name, *data, checkpoint, None, *words) for name, checkpoint in runs]:
        assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    "words",
    [
        ["dataset=airports", STREAM],
        ["dataset=mixture", "dataset.parts={airports: 1}", STREAM],
        ["dataset=mixture", "dataset.parts={hub: {path: x, streaming: true}}"],
    ],
)
def test_what_cannot_be_streamed_is_refused_at_the_door(words):
    with pytest.raises(ConfigError, match=r"dataset.streaming: "):
        compose(words)


def test_a_run_streams_packs_and_keeps_its_card(tiny_words, tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", ROWS[:60])
    words = [word for word in tiny_words if not word.startswith("dataset")]
    records = []
    for more in ([], [STREAM]):
        given = ["dataset=file", f"dataset.path={path}", "train.packing=true", "train.max_length=64", *more]
        assert run_train(monkeypatch, *words, *given) == 0
    for file in (tmp_path / "runs").glob("*/run.json"):
        records.append(json.loads(file.read_text()))
    one, other = records
    assert one["metrics"] == other["metrics"]
    assert one["fingerprint"] == other["fingerprint"]
    assert one["data"] == other["data"]
    assert one["data"]["card"]["train"]["rows"] == one["data"]["train"]["rows"]
    assert one["fingerprint"]["packing"] is True


MEASURE = """
import sys, datasets, pyarrow.parquet
from lorascope.compose import compose
from lorascope.data.sources import load_rows
from lorascope.records.environment import peak, reset_peak
config = compose(["dataset=file", "dataset.path=" + sys.argv[1], *sys.argv[2:]])
reset_peak("cpu")
before = peak("cpu")["peak_bytes"]
rows = load_rows(config.dataset)
print(len(rows.train) + len(rows.eval), peak("cpu")["peak_bytes"] - before)
"""


def test_a_large_file_is_read_in_little_memory(tmp_path):
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for number in range(30_000):
            file.write(json.dumps({"prompt": f"{number} " + "word " * 500, "completion": "answer " * 350}) + "\n")
    assert path.stat().st_size > 140e6
    used = []
    for words in ([], [STREAM]):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), *words], capture_output=True, text=True, check=True, timeout=300,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        rows, grown = map(int, done.stdout.split())
        assert rows == 30_000
        used.append(grown)
    assert 0 < used[1] < used[0] / 3, used
