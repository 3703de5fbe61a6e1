"""Tools and their calls: read in the spellings that people bring, rendered by the template, calls learned."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from chat_templates import FAMILIES, GEMMA, LLAMA3, MISTRAL, PHI, QWEN, SMOLLM2
from helpers import make_model, make_tokenizer
from lorascope.compose import compose
from lorascope.data.sources import load_rows
from lorascope.data.tokenization import IGNORED, encode_splits
from lorascope.errors import DataError

TOOL = {"name": "dim", "description": "Dim a lamp", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": TOOL}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "dim", "arguments": {"lamp": "hall", "to": 3}}}
ASKED = {"role": "user", "content": "Darker, please"}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "dim", "content": '{"ok": true}'}
DONE = {"role": "assistant", "content": "It is darker."}
TALK = [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, DONE]


def read(tmp_path, row, *words, name="a.jsonl"):
    path = tmp_path / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(row if isinstance(row, list) else [row]), path)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in (row if isinstance(row, list) else [row])))
    return load_rows(compose(["dataset=file", f"dataset.path={path}", f"dataset.eval_path={path}", *words]).dataset)


def rendered(rows, template):
    """All of the first row as the model reads it, and what of it is learned."""
    tokenizer = make_tokenizer(template)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    _, train, _ = encode_splits(rows, tokenizer, 4096)
    learned = [token for token, label in zip(train.input_ids[0], train.labels[0], strict=True) if label != IGNORED]
    return tokenizer.decode(train.input_ids[0]), tokenizer.decode(learned)


@pytest.mark.parametrize(("template", "call"), [
    (QWEN, '<tool_call>\n{"name": "dim", "arguments": {"lamp": "hall", "to": 3}}\n</tool_call><|im_end|>\n'),
    (LLAMA3, '{"name": "dim", "parameters": {"lamp": "hall", "to": 3}}<|eot_id|>'),
    (MISTRAL, '[TOOL_CALLS][{"name": "dim", "arguments": {"lamp": "hall", "to": 3}}]<|end|>'),
], ids=["qwen", "llama3", "mistral"])  # fmt: skip
def test_a_call_is_learned_and_the_tools_answer_is_not(tmp_path, template, call):
    whole, learned = rendered(read(tmp_path, {"messages": TALK, "tools": TOOLS}), template)
    assert learned.startswith(call)
    assert "It is darker." in learned
    for context in ("ok", "Dim a lamp"):
        assert context in whole
        assert context not in learned


CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
SPELLINGS = {
    "arguments as text": [
        CALLED | {"tool_calls": [CALL | {"function": {"name": "dim", "arguments": '{"lamp": "hall", "to": 3}'}}]}
    ],
    "without the object around it": [CALLED | {"tool_calls": [{"id": "abcdefghi", **CALL["function"]}]}],
    "empty content": [CALLED | {"content": ""}],
    "no content": [{"role": "assistant", "tool_calls": [CALL]}],
    "content of no parts": [CALLED | {"content": []}],
    "calls as text": [CALLED | {"tool_calls": json.dumps([CALL])}],
}


@pytest.mark.parametrize("turns", SPELLINGS.values(), ids=SPELLINGS)
def test_calls_are_read_in_every_spelling(tmp_path, turns):
    wanted = rendered(read(tmp_path, {"messages": TALK, "tools": TOOLS}), QWEN)
    assert rendered(read(tmp_path, {"messages": [ASKED, *turns, RESULT, DONE], "tools": TOOLS}), QWEN) == wanted


@pytest.mark.parametrize("tools", [
    json.dumps(TOOLS), [TOOL], json.dumps([TOOL]), [{"type": "function", **TOOL}], [json.dumps(TOOLS[0])],
], ids=["text", "functions", "functions as text", "one level", "list of texts"])  # fmt: skip
@pytest.mark.parametrize("column", ["tools", "functions"])
def test_tools_are_read_in_every_spelling(tmp_path, tools, column):
    wanted = rendered(read(tmp_path, {"messages": TALK, "tools": TOOLS}), QWEN)
    assert rendered(read(tmp_path, {"messages": TALK, column: tools}), QWEN) == wanted


def test_sharegpt_and_the_older_names_of_openai_are_the_same(tmp_path):
    call = {"name": "dim", "arguments": json.dumps({"lamp": "hall", "to": 3})}
    sharegpt = {
        "conversations": [
            {"from": "human", "value": ASKED["content"]}, {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": RESULT["content"]}, {"from": "gpt", "value": DONE["content"]},
        ],
        "tools": json.dumps([TOOL]),
    }  # fmt: skip
    older = {
        "messages": [
            ASKED, {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "dim", "content": RESULT["content"]}, DONE,
        ],
        "functions": [TOOL],
    }  # fmt: skip
    wanted = rendered(read(tmp_path, {"messages": TALK, "tools": TOOLS}), QWEN)
    assert rendered(read(tmp_path, sharegpt), QWEN) == wanted
    assert rendered(read(tmp_path, older), QWEN) == wanted


def test_parquet_does_not_add_other_rows_arguments(tmp_path):
    """Arrow gives every object of a column the keys of all."""
    other = CALL | {"function": {"name": "dim", "arguments": {"speed": 9}}}
    rows = [
        {"messages": TALK, "tools": TOOLS},
        {"messages": [ASKED, CALLED | {"tool_calls": [other]}, RESULT, DONE], "tools": TOOLS},
    ]
    every_key = {"role": "", "content": "", "tool_calls": [], "tool_call_id": "", "name": ""}
    columns = [
        {"messages": [every_key | turn for turn in row["messages"]], "tools": json.dumps(row["tools"])} for row in rows
    ]
    found = read(tmp_path, columns, name="a.parquet")
    assert rendered(found, QWEN) == rendered(read(tmp_path, rows[0]), QWEN)
    assert "speed" not in found.train[0].messages[1].extra
    assert json.loads(found.train[1].messages[1].extra)["tool_calls"][0]["function"]["arguments"] == {"speed": 9}


@pytest.mark.parametrize("template", [SMOLLM2, PHI], ids=["smollm2", "phi"])
def test_a_template_that_shows_no_tools_is_refused(tmp_path, template):
    with pytest.raises(DataError, match="line 1: the chat template leaves out the descriptions of the tools"):
        rendered(read(tmp_path, {"messages": TALK, "tools": TOOLS}), template)
    # without descriptions, it is the call that is missed
    with pytest.raises(DataError, match="leaves out the tool call dim of message 2"):
        rendered(read(tmp_path, {"messages": TALK}), template)


def test_a_model_without_a_template_is_refused(tmp_path):
    with pytest.raises(DataError, match="no chat template to show them"):
        rendered(read(tmp_path, {"messages": TALK}), None)


def test_text_beside_a_call_that_the_template_drops_is_refused(tmp_path):
    turns = [ASKED, CALLED | {"content": "I dim it."}, RESULT, DONE]
    with pytest.raises(DataError, match="leaves out the text beside the tool call of message 2"):
        rendered(read(tmp_path, {"messages": turns, "tools": TOOLS}), LLAMA3)
    assert "I dim it." in rendered(read(tmp_path, {"messages": turns, "tools": TOOLS}), QWEN)[1]


def test_tools_may_be_dropped_on_purpose(tmp_path):
    row = {"messages": [ASKED, DONE], "tools": TOOLS}
    whole, learned = rendered(read(tmp_path, row, "dataset.drop=[tools]"), SMOLLM2)
    assert "Dim a lamp" not in whole
    assert learned == "It is darker.<|im_end|>\n"


def test_reasoning_is_learned_where_the_template_shows_it(tmp_path):
    row = {"messages": [ASKED, DONE | {"reasoning_content": "Dark is dim."}]}
    assert rendered(read(tmp_path, row), QWEN)[1] == "<think>\nDark is dim.\n</think>\nIt is darker.<|im_end|>\n"
    with pytest.raises(DataError, match=r"leaves out the reasoning_content of its answers[^$]*COLUMN\[\].reasoning"):
        rendered(read(tmp_path, row), SMOLLM2)
    dropped = read(tmp_path, row, """dataset.drop=["messages[].reasoning_content"]""")
    assert rendered(dropped, SMOLLM2)[1] == "It is darker.<|im_end|>\n"


def test_a_developers_message_is_the_systems_where_the_template_has_no_developer(tmp_path):
    rows = read(tmp_path, {"messages": [{"role": "developer", "content": "Be brief."}, ASKED, DONE]})
    assert rendered(rows, SMOLLM2)[0].startswith("<|im_start|>system\nBe brief.")
    own = "{% if 'developer' %}" + SMOLLM2.replace("system", "developer") + "{% endif %}"
    assert rendered(rows, own)[0].startswith("<|im_start|>developer\nBe brief.")


@pytest.mark.parametrize(("turns", "message"), [
    ([ASKED, CALLED | {"tool_calls": [{"function": {"arguments": {}}}]}], "tool call 1 .* is no object with name"),
    ([ASKED, CALLED | {"tool_calls": [{"name": "dim", "parameters": {"a": 1}}]}], "has the key 'parameters'"),
    ([ASKED, CALLED | {"tool_calls": [{"name": "dim", "arguments": "lamp=hall"}]}], "are not a JSON object"),
    ([ASKED, CALLED | {"tool_calls": [{"name": "dim", "arguments": [1]}]}], "are a list, not an object"),
    ([ASKED, CALLED | {"tool_calls": [{"type": "custom", "name": "dim"}]}], "of the type 'custom', not function"),
    ([ASKED | {"tool_calls": [CALL]}, DONE], "has tool calls, which only the assistant makes"),
    ([ASKED, {"role": "assistant", "content": None}], "the content of message 2 .assistant. is empty"),
    ([ASKED | {"value": "Brighter"}, DONE], "has both content and value, and they differ"),
    ([ASKED | {"from": "gpt"}, DONE], "message 1 has both role and from, and they differ"),
    ([ASKED, CALLED | {"function_call": CALL["function"]}], "has both tool_calls and function_call"),
    ([ASKED, {"role": "critic", "content": "no"}], "message 2 has the role 'critic'"),
])  # fmt: skip
def test_a_call_that_cannot_be_read_names_its_message(tmp_path, turns, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, {"messages": turns})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plain_conversation_is_learned_alike_under_every_template(tmp_path, name):
    turns = [ASKED, DONE, {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Darker still."}]
    learned = rendered(read(tmp_path, {"messages": turns}), FAMILIES[name])[1]
    end = {"smollm2": "<|im_end|>\n", "qwen": "<|im_end|>\n", "llama3": "<|eot_id|>", "mistral": "<|end|>",
           "gemma": "<end_of_turn>\n", "phi": "<|end|>\n"}[name]  # fmt: skip
    assert learned == f"It is darker.{end}Darker still.{end}"


def test_a_template_that_refuses_the_turns_says_so(tmp_path):
    with pytest.raises(DataError, match="the chat template refuses this row: no system role"):
        rendered(read(tmp_path, {"messages": [{"role": "system", "content": "Brief."}, ASKED, DONE]}), GEMMA)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_preview_marks_is_what_a_batch_has_labels_for(tmp_path, name):
    from trl import SFTTrainer

    from lorascope.cli.cmd_preview import as_json, summarise
    from lorascope.training.trainer import sft_config

    row = {"messages": TALK, "tools": TOOLS} if name in ("qwen", "llama3", "mistral") else {"messages": [ASKED, DONE]}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({"messages": [ASKED, DONE | {"content": "Done."}]}) + "\n")
    words = ["dataset=file", f"dataset.path={path}", f"dataset.eval_path={path}", "train.max_length=2048", "device=cpu"]
    config = compose([*words, "train.batch_size=2"])
    tokenizer = make_tokenizer(FAMILIES[name])
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    preview = summarise(config.dataset, config.train, tokenizer)
    model = make_model(vocab_size=301)
    trainer = SFTTrainer(
        model=model, args=sft_config(config, tmp_path), train_dataset=preview.train.encoded.to_dataset(),
        processing_class=tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    marked = {tuple(one["input_ids"]): one["supervised"] for one in as_json(preview, 2)["train"]["examples"]}
    assert len(marked) == 2
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        assert [one != IGNORED for one in labels[:length].tolist()] == marked[tuple(ids[:length].tolist())]
        assert any(marked[tuple(ids[:length].tolist())])
