"""A word of English comes in, and whether it is one of the King James Bible's English that nobody writes today."""

from __future__ import annotations

OLD = """
thee thou thy thine thyself ye hath hast hadst doth dost didst wast wert shalt wilt canst couldst wouldst shouldst
mightst saidst saith unto thereof whereof thereon whereon thereat thereunto whereunto hereunto wherein wherewith
therewith wherefore whither thither hither whence thence verily lo yea nay begat begotten spake brake gat sware smote
smitten twain nigh ere oft betwixt whoso whosoever whatsoever whithersoever wheresoever whomsoever whensoever howbeit
peradventure wist wot holpen kine raiment sepulchre hearken hearkened brethren builded digged aught nought shew shewed
shewing shewn alway threescore fourscore wroth beheld besought tarried clave drave
"""
# What ends as archaic verbs do (cometh, knowest) and is none of them.
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
WORDS = frozenset(OLD.split())
MODERN = frozenset(NOT_OLD.split())
VERBS_IN_IEST = frozenset(
    ("carriest", "criest", "defiest", "deniest", "diest", "enviest", "liest", "terrifiest", "triest")
)


def is_archaic(word: str) -> bool:
    """Whether the word, in whatever case, is archaic: by itself, or as a verb in -eth or -est."""
    word = word.lower()
    if word.endswith("iest"):  # happiest, mightiest
        return word in VERBS_IN_IEST
    return word in WORDS or (len(word) > 4 and word.endswith(("eth", "est")) and word not in MODERN)
