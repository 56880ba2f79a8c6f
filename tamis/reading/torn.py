"""Words that were cut in two: ``expl osive``, ``steal-ing``, ``t-he``."""

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Final

from tamis.reading.lexicon import GRAMMAR, known, telling, words
from tamis.reading.text import Edit, cased

# A cut is one sign or one space; an apostrophe is spelling.
CUT: Final = frozenset(" -_.*~|/\\+=^")
SIGN: Final = re.compile(f"[A-Za-z][{re.escape(''.join(sorted(CUT - {' '})))}][A-Za-z]")
PREFIXES: Final = frozenset(("co", "e", "mis", "non", "pre", "pro", "re", "sub", "un"))
SUFFIXES: Final = frozenset(("ed", "ing", "ly", "ment", "ness", "sion", "tion", "ty"))
# By rank: what short parts of words are, and whole words are not.
COMMON: Final = 8_000
SCRAP: Final = 5
# What two words that a sign parts are together: "web-site", and not "long-term".
COMMONEST: Final = 3_000
# Letters of the whole: of a word of harm or of grammar ("wh at"; with a sign, "t-he", one less),
LEAST: Final = 4
# of a common word whose halves are none, or have a sign between them,
SURE: Final = 5
# of any other; and beyond the last one it is no word.
LONG: Final = 6
LONGEST: Final = 20


def torn(text: str, found: Sequence[re.Match[str]], scraps: Collection[str]) -> dict[int, Edit]:
    """The words that two neighbours are together, by the number of either.

    ``scraps`` are those of the words ``found``, in lower case, that are a ``scrap``.
    """
    whole: dict[int, Edit] = {}
    for n, (one, other) in enumerate(pairwise(found)):
        cut = text[one.end() : other.start()]
        if n in whole or cut not in CUT:
            continue
        first, second = one[0].lower(), other[0].lower()
        halves = (first in scraps) + (second in scraps)
        if (cut == " " and not halves) or not _together(first, second, halves, cut != " "):
            continue
        # "e-mail" and "co-operate" are spelt so; behind an apostrophe no word begins.
        spelt = cut == "-" and first in PREFIXES and known(second.removesuffix("s"))
        # A capital begins a word, where not all are capitals.
        begins = other[0][0].isupper() and not (one[0].isupper() and other[0].isupper())
        if not spelt and not begins and text[max(one.start() - 1, 0)] not in "'\u2019":
            edit = Edit(one.start(), other.end(), cased(one[0], first + second))
            whole[n] = whole[n + 1] = edit
    return whole


def _together(one: str, other: str, scraps: int, sign: bool) -> bool:
    """Whether two parts, so many of them scraps, are one word, cut by a ``sign`` or a space."""
    joined = one + other
    if len(joined) > LONGEST or not known(joined):
        return False
    rank = words().get(joined, COMMON)
    if not scraps:
        return sign and len(joined) >= LONG and rank < COMMONEST
    if joined in telling():
        return len(joined) >= LEAST
    if rank < GRAMMAR:
        # "b an" need not be "ban".
        return len(joined) >= LEAST or (sign and len(joined) == LEAST - 1)
    if sign or scraps == 2 or other in SUFFIXES:
        return len(joined) >= (SURE if rank < COMMON else LONG)
    if words().get(other, GRAMMAR) < GRAMMAR:
        return False  # "auth or not"
    limit = COMMONEST if words().get(one, GRAMMAR) < GRAMMAR else COMMON
    return len(joined) >= LONG and rank < limit


def scrap(part: str) -> bool:
    """Whether it is no word, or a short one that is rarer than parts of words are: ``ing``."""
    if part in ("a", "i"):
        return False
    return not known(part) or (len(part) <= SCRAP and words().get(part, 0) >= COMMON)
