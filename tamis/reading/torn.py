"""Words that were cut in two: ``expl osive``, ``steal-ing``, ``t-he``."""

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Final

from tamis.reading.lexicon import GRAMMAR, attested, cost, known, telling, words
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
# Into how many a word is torn that is looked for.
PARTS: Final = 5
# Fewer scraps are a language of programs and a name: "in c++".
SCRAPS: Final = 3


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


def gathered(text: str, found: Sequence[re.Match[str]], scraps: Collection[str]) -> dict[int, Edit]:
    """The same where words are torn into however many parts: the likeliest words of all.

    Empty where that mends less than half of the scraps: names and other languages have them too.
    """
    spelt = [m[0].lower() for m in found]
    torn_ones = [n for n, word in enumerate(spelt) if word in scraps]
    if len(torn_ones) < SCRAPS:
        return {}
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(found) + 1):
        word = spelt[end - 1]
        choices = [(best[end - 1][0] + cost(word), end - 1)]
        for start in range(end - 2, max(-1, end - 1 - PARTS), -1):
            if not _one(text, found[start], found[start + 1]):
                break
            word = spelt[start] + word
            if attested(word) and _torn_from(word, spelt[start:end], scraps):
                choices.append((best[start][0] + cost(word), start))
        best.append(min(choices))
    whole: dict[int, Edit] = {}
    end = len(found)
    while end:
        start = best[end][1]
        if end - start > 1:
            said = "".join(m[0] for m in found[start:end])
            edit = Edit(found[start].start(), found[end - 1].end(), said)
            whole |= dict.fromkeys(range(start, end), edit)
        end = start
    return whole if 2 * sum(n in whole for n in torn_ones) >= len(torn_ones) else {}


def _torn_from(word: str, parts: Collection[str], scraps: Collection[str]) -> bool:
    """Whether a scrap tells that parts are one word; a lone letter may be a name: "in c"."""
    ranks = words()
    lone = not any(part in scraps and len(part) > 1 for part in parts)
    usual = any(ranks.get(part, GRAMMAR) < GRAMMAR for part in parts)
    told = not (lone and usual) or ranks.get(word, GRAMMAR) < GRAMMAR
    return told and any(part in scraps for part in parts)


def _one(text: str, one: re.Match[str], other: re.Match[str]) -> bool:
    """Whether two parts may be of one word: a capital begins another, an apostrophe ends one."""
    begins = other[0][0].isupper() and not one[0].isupper()
    ends = text[max(one.start() - 1, 0)] in "'\u2019"
    return text[one.end() : other.start()] == " " and not begins and not ends


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
