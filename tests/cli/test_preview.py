"""The first look at one's own data: what is shown as learned is what the trainer's batch has labels for."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from helpers import CHAT_TEMPLATE, MARKED, make_model, make_tokenizer
from lorascope.cli.cmd_preview import histogram
from lorascope.cli.main import main

TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {n}."},
            {"role": "assistant", "content": f"{n}!"},
            {"role": "user", "content": "Again?"},
            {"role": "assistant", "content": f"{n}, {n}!"},
        ]
    }
    for n in range(30)
]


@pytest.fixture(params=[CHAT_TEMPLATE, MARKED, None], ids=["plain template", "generation marks", "no template"])
def model(request, tmp_path):
    """A model folder whose tokenizer has one of the kinds of template."""
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    make_tokenizer(request.param).save_pretrained(folder)
    return folder


def words_for(model, path, *more):
    return ["model=hf", f"model.path={model}", "device=cpu", "dataset=file", f"dataset.path={path}", *more]


def test_what_preview_shows_as_learned_has_labels_in_the_trainers_batch(model, tmp_path, capsys):
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from lorascope.compose import compose
    from lorascope.data.sources import load_rows
    from lorascope.data.tokenization import encode

    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, TALKS)))
    words = words_for(model, tmp_path / "my.jsonl")
    capsys.readouterr()  # what the imports above said
    main(["preview", "--json", "--rows", "1000", *words])
    shown = json.loads(capsys.readouterr().out)["train"]["examples"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = encode(load_rows(compose(words).dataset).train, tokenizer, 512, "train")
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(
            str(tmp_path / "out"), report_to="none", bf16=False, use_cpu=True, activation_checkpointing=False,
            per_device_train_batch_size=7, max_length=512,
        ),
        train_dataset=data.to_dataset(),
        processing_class=tokenizer,
    )  # fmt: skip
    seen = set()
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            kept = mask.bool()
            seen.add((tuple(ids[kept].tolist()), tuple((labels[kept] != -100).tolist())))
            assert (labels[kept][labels[kept] != -100] == ids[kept][labels[kept] != -100]).all()
    assert seen == {(tuple(row["input_ids"]), tuple(row["supervised"])) for row in shown}


def test_preview_marks_answers_and_tells_the_figures(tiny, tmp_path, capsys):
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, TALKS)))
    main(["preview", *words_for(tiny, tmp_path / "my.jsonl", "train.batch_size=4", "train.gradient_accumulation=2")])
    out = capsys.readouterr().out
    assert "read as: messages" in out
    assert "!<|end|>⟧" in out
    assert "<|user|>Again?<|end|><|assistant|>⟦" in out
    assert "a step reads" in out
    assert "(8 rows)" in out


def test_preview_tells_what_would_be_cut_skipped_and_leaked(tiny, tmp_path, capsys):
    rows = [{"prompt": f"p{n}", "completion": "x" * (10 + n)} for n in range(30)]
    (tmp_path / "my.jsonl").write_text("\n".join([*map(json.dumps, rows), "{"]))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "P1", "completion": "y"}))
    more = [f"dataset.eval_path={tmp_path / 'eval.jsonl'}", "dataset.on_bad_row=skip", "train.max_length=30"]
    main(["preview", *words_for(tiny, tmp_path / "my.jsonl", *more)])
    out = capsys.readouterr().out
    assert "1 bad row is skipped; the first: my.jsonl, line 31" in out
    assert "1 of 1 eval prompts are in the train half too" in out
    assert "train rows are cut at train.max_length" in out


def test_preview_loads_no_weights(tiny, tmp_path, capsys):
    import shutil

    folder = tmp_path / "no-weights"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, TALKS)))
    main(["preview", *words_for(folder, tmp_path / "my.jsonl")])
    assert "30" not in capsys.readouterr().err


def test_the_histogram_counts_every_length_once():
    lengths = [3, 3, 4, 9, 20, 21, 21, 40]
    bins = histogram(lengths)
    assert sum(count for _, _, count in bins) == len(lengths)
    for low, high, count in bins:
        assert count == len([length for length in lengths if low <= length <= high])


def make_files(folder):
    """The four kinds of file that people bring."""
    facts = [(f"Name number {n}", f"It is {n}") for n in range(40)]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, TALKS)))
    (folder / "other.csv").write_text("Frage,Antwort\n" + "".join(f"{a},{b}\n" for a, b in facts))
    (folder / "alpaca.json").write_text(json.dumps([{"instruction": a, "input": "", "output": b} for a, b in facts]))
    texts = pyarrow.Table.from_pylist([{"text": f"{a}. {b}."} for a, b in facts])
    pyarrow.parquet.write_table(texts, folder / "texts.parquet")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("talks.jsonl", []),
        ("other.csv", ["dataset.columns={prompt: Frage, completion: Antwort}"]),
        ("alpaca.json", []),
        ("texts.parquet", []),
    ],
)
def test_a_file_of_ones_own_trains_with_one_command_after_one_look(tiny, tmp_path, name, more, capsys, monkeypatch):
    from helpers import run_train
    from lorascope.records.store import load_runs

    make_files(tmp_path)
    words = words_for(tiny, tmp_path / name, *more)
    main(["preview", *words])
    assert run_train(monkeypatch, *words, f"runs_dir={tmp_path / 'runs'}", "logger=none", "train.max_steps=2") == 0
    ((record,), _) = load_runs(tmp_path / "runs")
    assert record.status == "done"
    assert record.data["train"]["rows"] + record.data["eval"]["rows"] == (30 if name == "talks.jsonl" else 40)
    assert record.config["dataset"]["content"]


WRONG = [
    (["dataset=file"], "dataset.path: no data is named"),
    (["dataset=file", "dataset.path=nowhere.jsonl"], "dataset.path=nowhere.jsonl: there is no such file"),
    (["model=nope"], "there is no model 'nope'"),
    (["model=hf", "model.path=./nowhere"], "model.path=./nowhere is not a folder"),
    (["--rows", "many"], "invalid int value"),
    (["target=q_v", "trian.epochs=1"], "Did you mean train.epochs"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_is_wrong_is_one_message(words, says, capsys):
    with pytest.raises(SystemExit) as end:
        main(["preview", *words])
    assert end.value.code != 0
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
