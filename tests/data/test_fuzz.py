"""500 small data sets, drawn by seed: what is learned is what was written into the file, or the file is refused."""

import csv
import json
import random

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from helpers import CHAT_TEMPLATE, MARKED, make_tokenizer
from lorascope.config.schema import DatasetConfig
from lorascope.data import columns, file_readers
from lorascope.data.messages import BadRowError
from lorascope.data.sources import load_rows
from lorascope.data.tokenization import IGNORED, encode
from lorascope.errors import LorascopeError

TEXTS = [
    "yes", "no", "true", "null", "1", "0", "1.0", "010", "1e3", "2024-01-01", "on", "NaN", "say \"hi\"", '"quoted"',
    '"open', 'close"', "it's", "a, b", "a,b", "a\tb", "two\nlines", " led", "trail ", "ünï", "{x}", "\\n", "#", "'",
    '""', "🙂", "[1]", "-", "a;b", "C:\\new", "100%", "x" * 40,
]  # fmt: skip
TEMPLATES = [CHAT_TEMPLATE, MARKED, CHAT_TEMPLATE.replace("<|end|>", "<|end|>\n"), None]
FORMATS = ["jsonl", "json", "csv", "tsv", "parquet", "saved", "messages.jsonl", "sharegpt.parquet"]
QUOTING = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE]


def draw_rows(draw):
    """Questions that are told apart by number, and answers of one kind: texts, classes, numbers or booleans."""
    kind = draw.choice(["text", "text", "class", "number", "boolean"])
    texts = draw.sample(TEXTS, 5)
    classes = draw.sample(["no", "yes", "maybe", "true", "false", "1", "2", "3"], 3)
    answers = {
        "text": lambda: draw.choice(texts), "class": lambda: draw.choice(classes), "number": lambda: draw.randrange(3),
        "boolean": lambda: draw.random() < 0.5,
    }[kind]  # fmt: skip
    rows = [{"prompt": f"{n}: {draw.choice(texts)}", "completion": answers()} for n in range(draw.randint(12, 20))]
    labels = {"text": [], "boolean": draw.choice([["no", "yes"], ["false", "true"], ["true", "false"]])}.get(
        kind, classes
    )
    return rows, labels


def write(folder, form, rows, draw):
    """The file, by another library than the one that reads it where there is one."""
    path = folder / f"data.{form.rpartition('.')[2]}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in rows))
    elif form == "json":
        path.write_text(json.dumps(rows, indent=draw.choice([None, 1])))
    elif form in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            quoting = draw.choice(QUOTING)
            writer = csv.DictWriter(
                file, ["prompt", "completion"], delimiter="," if form == "csv" else "\t", quoting=quoting,
                quotechar=None if quoting == csv.QUOTE_NONE else '"', lineterminator=draw.choice(["\n", "\r\n"]),
            )  # fmt: skip
            writer.writeheader()
            writer.writerows(rows)
    elif form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form == "saved":
        path = folder / "saved"
        datasets.Dataset.from_list(rows).save_to_disk(path)
    else:
        talks = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in rows]
        names = [("role", "content", {}), ("from", "value", {"user": "human", "assistant": "gpt"})]
        made = []
        for number, talk in enumerate(talks):
            role, content, other = names[number % 2 if form.startswith("share") else 0]
            made.append({"messages": [{role: other.get(who, who), content: text} for who, text in talk]})
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def right(value, labels):
    """The answer that a value must teach, by what the user has written."""
    if not labels:
        return str(value)
    for label in labels:
        if str(value).lower() == label.lower() or (isinstance(value, int) and str(int(value)) == label):
            return label
    return labels[int(value)] if isinstance(value, bool | int) else str(value)


def learned_otherwise(folder, seed):
    """Answers that are learned and were not written, or written and not learned; REFUSED where the file is."""
    draw = random.Random(seed)
    form, template = draw.choice(FORMATS), draw.choice(TEMPLATES)
    rows, labels = draw_rows(draw)
    if "." in form:
        rows, labels = [{**row, "completion": str(row["completion"])} for row in rows], []
    tokenizer = make_tokenizer(template)
    try:
        path = write(folder, form, rows, draw)
    except csv.Error:  # QUOTE_NONE cannot write this text
        return REFUSED
    try:
        found = load_rows(DatasetConfig(source="file", path=str(path), eval_share=0.3, labels=labels))
        halves = [encode(half, tokenizer, 4096, "x") for half in (found.train, found.eval)]
    except LorascopeError:
        return REFUSED
    wanted = sorted(right(row["completion"], labels).strip() for row in rows)
    texts = []
    for half in halves:
        for line in half.labels:
            text = tokenizer.decode([token for token in line if token != IGNORED], skip_special_tokens=True)
            texts.append(text.strip())
    return [] if sorted(texts) == wanted else (form, labels, sorted(set(texts) ^ set(wanted)))


SEEDS = range(500)
REFUSED = None


def test_what_is_learned_is_what_was_written(tmp_path):
    found = []
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        found.append(learned_otherwise(tmp_path / str(seed), seed))
        assert not found[-1], (seed, found[-1])
    assert found.count([]) > 200  # and not because most were refused


@pytest.mark.parametrize("fault", ["quotes", "classes"])
def test_a_fault_of_before_is_found_again(tmp_path, monkeypatch, fault):
    """The same data sets with a known fault put back."""
    if fault == "quotes":
        monkeypatch.setattr(file_readers, "_check_lines", lambda *_: None)
        monkeypatch.setattr(file_readers._TabQuotes, "check", lambda *_: None)
    else:
        monkeypatch.setattr(columns, "_answer", by_name_or_by_index)
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        if learned_otherwise(folder, seed):
            return
    pytest.fail("no data set shows the fault")


def by_name_or_by_index(raw, form):
    """Each value as it may be, whatever the others of its column are."""
    value = str(int(raw[form.answer]) if isinstance(raw[form.answer], bool) else raw[form.answer])
    if not form.labels or value in form.labels:
        return value
    if not value.isdigit() or int(value) >= len(form.labels):
        raise BadRowError(f"{value} is no class")
    return form.labels[int(value)]
