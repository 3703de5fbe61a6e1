"""A trained run answers prompts as plain transformers and PEFT do, beside its base and other runs."""

import io
import json
import re

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from delivery.test_merge import base_of, trained
from helpers import make_tokenizer
from lorascope.cli.main import main
from lorascope.data.rows import Message
from lorascope.delivery.answering import Decoding, SharedBase, answer, question
from lorascope.delivery.finished_run import finished_run
from lorascope.delivery.merging import with_adapter
from lorascope.errors import RunError
from lorascope.records.record import write_record

pytestmark = pytest.mark.usefixtures("one_thread")
SYSTEM = "be brief"


def plainly(folder, adapter, turns, tokens=12):
    """The greedy answer of transformers and PEFT alone."""
    tokenizer = make_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = with_adapter(model, adapter)
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    written = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base and two runs on it."""
    base = base_of("tiny", tmp_path_factory.mktemp("answering") / "base")
    words = [f"dataset.system={SYSTEM}", "train.max_steps=8", "train.learning_rate=3e-2"]
    return base, trained(base, "target=q_v", *words), trained(base, "target=qv_ffn", *words)


def asked(text, *before):
    return [{"role": "system", "content": SYSTEM}, *before, {"role": "user", "content": text}]


def test_an_answer_is_that_of_transformers_and_peft_with_the_datas_own_system_message(home, capsys):
    base, _, (_, folder) = home
    main(["generate", str(folder), "--prompt", "say 3", "--max-new-tokens", "12"])
    shown = capsys.readouterr()
    assert shown.out == plainly(base, folder / "adapter", asked("say 3")) + "\n"
    assert f"system message of {folder.name}: {SYSTEM}" in shown.err


def test_base_and_runs_stand_side_by_side_and_none_leaves_a_trace_in_another(home, capsys):
    base, (_, one), (_, other) = home
    prompts = ["say 3", "say 4 and more"]
    words = ["--prompt", prompts[0], "--prompt", prompts[1], "--max-new-tokens", "12", "--json", "--compare"]
    main(["generate", str(one), *words, str(other)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for prompt, row in zip(prompts, rows, strict=True):
        assert row["prompt"] == prompt
        wanted = {"base": None, one.name: one / "adapter", other.name: other / "adapter"}
        assert row["answers"] == {name: plainly(base, file, asked(prompt)) for name, file in wanted.items()}
    assert len({row["answers"][name] for row in rows for name in row["answers"]}) > 2  # they do differ
    main(["generate", str(other), *words, str(one)])
    again = [json.loads(line)["answers"] for line in capsys.readouterr().out.splitlines()]
    assert again == [row["answers"] for row in rows]


def test_an_adapter_that_moves_the_base_is_taken_off_too(tmp_path, capsys):
    base = base_of("tiny", tmp_path / "base")
    (_, pissa), (_, plain) = trained(base, "target=q_v", "target.init=pissa"), trained(base, "target=q_v")
    capsys.readouterr()
    for runs in ([pissa, plain], [plain, pissa]):
        words = ["--prompt", "say 3", "--system", SYSTEM, "--max-new-tokens", "12", "--json", "--compare", str(runs[1])]
        main(["generate", str(runs[0]), *words])
        found = json.loads(capsys.readouterr().out)["answers"]
        assert found["base"] == plainly(base, None, asked("say 3"))
        assert found[plain.name] == plainly(base, plain / "adapter", asked("say 3"))


def test_the_table_has_a_column_for_each_model(home, capsys):
    _, (_, folder), _ = home
    main(["generate", str(folder), "--prompt", "say 3", "--max-new-tokens", "3", "--compare"])
    assert re.match(r"prompt +base +", capsys.readouterr().out)


def test_the_pieces_that_are_streamed_are_the_answer(home):
    _, _, (record, folder) = home
    run = finished_run(record, folder)
    shared = SharedBase([run], Console(quiet=True))
    base = shared.base(run)
    pieces: list[str] = []
    one = question(run, base.tokenizer, [Message("system", SYSTEM), Message("user", "say 3")])
    found = answer(shared.model(run), base, one, Decoding(12), pieces.append)
    assert "".join(pieces) == found
    drawn = [answer(shared.model(run), base, one, Decoding(12, 1.5, 0.9, seed)) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_the_eval_rows_answered_again_are_the_recorded_answers(home, capsys):
    _, _, (record, folder) = home
    main(["generate", str(folder), "--dataset", "--json"])
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert len(rows) == 12
    share = sum(row["right"] == row[folder.name].strip() for row in rows) / 12
    assert share == pytest.approx(record.metrics["exact_match"]["value"])
    assert "12 of 12 answers are those that the run recorded" in shown.err


def test_a_chat_is_one_conversation_until_it_begins_anew(home, capsys, monkeypatch):
    base, _, (_, folder) = home
    monkeypatch.setattr("sys.stdin", io.StringIO("say 3\nsay 4\n\n/what\n/new\nsay 4\n/system\nsay 4\n"))
    main(["chat", str(folder), "--max-new-tokens", "12"])
    shown = capsys.readouterr()
    adapter = folder / "adapter"
    first = plainly(base, adapter, asked("say 3"))
    before = [{"role": "user", "content": "say 3"}, {"role": "assistant", "content": first}]
    second = plainly(base, adapter, asked("say 4", *before))
    bare = plainly(base, adapter, [{"role": "user", "content": "say 4"}])
    assert shown.out == "\n".join([first, second, plainly(base, adapter, asked("say 4")), bare, ""])
    assert shown.err.count("/new begins anew") == 2


def test_a_chat_with_several_models_keeps_each_ones_own_answers(home, capsys, monkeypatch):
    base, _, (_, folder) = home
    monkeypatch.setattr("sys.stdin", io.StringIO("say 3\nsay 4\n"))
    main(["chat", str(folder), "--compare", "--max-new-tokens", "12"])
    wanted = []
    said: dict[str, list] = {"base": [], folder.name: []}
    for text in ("say 3", "say 4"):
        for name, adapter in (("base", None), (folder.name, folder / "adapter")):
            found = plainly(base, adapter, asked(text, *said[name]))
            said[name] += [{"role": "user", "content": text}, {"role": "assistant", "content": found}]
            wanted += [f"{name}:", found]
    assert capsys.readouterr().out == "\n".join([*wanted, ""])


def test_a_run_on_texts_goes_on_with_one(tmp_path, capsys):
    base = base_of("tiny", tmp_path / "base")
    (base / "rows.jsonl").write_text("".join(json.dumps({"text": f"one {n} two"}) + "\n" for n in range(12)))
    _, folder = trained(base, "target=q_v", "dataset.metrics=[]")
    capsys.readouterr()
    main(["generate", str(folder), "--prompt", "one 3", "--max-new-tokens", "5"])
    tokenizer = make_tokenizer()
    model = with_adapter(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    ids = tokenizer("one 3", return_tensors="pt")["input_ids"]
    written = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    assert capsys.readouterr().out == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True) + "\n"
    for words, says in (
        (["generate", str(folder), "--dataset"], "was trained on texts, which ask nothing"),
        (["chat", str(folder)], "was trained on texts, not conversations"),
        (["generate", str(folder), "--prompt", "a", "--system", "b"], "--system has no place"),
    ):
        assert says in failed(words, capsys)


def failed(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code in (1, 2)
    return capsys.readouterr().err.replace("--system: has", "--system has")


@pytest.mark.parametrize(("words", "says"), [
    ([], "needs something to answer"),
    (["--prompt", "a", "--dataset"], "needs something to answer"),
    (["--prompt", "  "], "--prompt is empty"),
    (["--dataset", "--temperature", "1"], "has no place for --temperature"),
    (["--prompt", "a", "--temperature", "-1"], "-1 is not a number from 0 up"),
    (["--prompt", "a", "--temperature", "nan"], "nan is not a number from 0 up"),
    (["--prompt", "a", "--top-p", "0"], "0 is not above 0 and at most 1"),
    (["--prompt", "a", "--max-new-tokens", "0"], "0 is not a whole number from 1 up"),
    (["--prompt", "a " * 300, "--system", ""], "tokens, and the model reads"),
])  # fmt: skip
def test_what_cannot_be_answered_is_one_message(home, capsys, words, says):
    assert says in failed(["generate", str(home[1][1]), *words], capsys)


def test_runs_on_different_bases_are_not_compared(home, tmp_path):
    other = trained(base_of("tiny", tmp_path / "base"), "target=q_v")
    runs = [finished_run(*home[1]), finished_run(*other)]
    with pytest.raises(RunError, match="were trained on other bases"):
        SharedBase(runs, Console(quiet=True))


def test_data_that_are_gone_ask_for_the_system_message_where_the_record_has_none(tmp_path, capsys):
    base = base_of("tiny", tmp_path / "base")
    record, folder = trained(base, "target=q_v", f"dataset.system={SYSTEM}")
    (base / "rows.jsonl").unlink()
    capsys.readouterr()
    main(["generate", str(folder), "--prompt", "say 3", "--max-new-tokens", "4"])
    assert capsys.readouterr().out == plainly(base, folder / "adapter", asked("say 3"), tokens=4) + "\n"
    del record.data["card"]["system_messages"]  # as earlier versions wrote records
    write_record(record, folder)
    assert "data that cannot be read any more" in failed(["generate", str(folder), "--prompt", "say 3"], capsys)
    main(["generate", str(folder), "--prompt", "say 3", "--system", "", "--max-new-tokens", "4"])
    wanted = plainly(base, folder / "adapter", [{"role": "user", "content": "say 3"}], tokens=4)
    assert capsys.readouterr().out == wanted + "\n"
