"""Words with a slip of the pen in them: ``exlposive``, ``expl osive``, ``explosve``.

Whoever sees a classifier's scores gets past it with one typing error in a word that counts
(docs/robustness.md). Corrected is what is no word and one slip away from one that stands in
harmful requests far more often than in others, or from a common one: one text in thirty.

``scripts/telling_words.py`` makes the tables: the words of harm, and those that look like misspelt
ones and are meant ("heroine").
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from tamis.reading.language import language
from tamis.reading.lexicon import GRAMMAR, known, table, telling, words
from tamis.reading.text import Edit

WORD: Final = re.compile(r"[A-Za-z]+")
# A cut is one sign or one space; an apostrophe is spelling.
CUT: Final = frozenset(" -_.*~|/\\+=^")
PREFIXES: Final = frozenset(("co", "e", "mis", "non", "pre", "pro", "re", "sub", "un"))
LEAST: Final = 4
# Of three letters only those of words of grammar are known when they have changed places: "hwo".
SHORT: Final = 3
# Of four letters one that is another leaves too little: "bomb" is not "tomb". So does a first one.
SURE: Final = 5
# A name has a capital: only a long word of harm is told from one.
LONG: Final = 6
LONGEST: Final = 20
# Words of no harm are corrected to by this rank.
COMMON: Final = 8_000
# No slip is told from another language where less of the words than this are English.
ENGLISH: Final = 0.5


class Keys(NamedTuple):
    """Words, and by what is left of them without one letter."""

    words: frozenset[str]
    without: dict[str, list[str]]


def keys(found: Iterable[str]) -> Keys:
    """An index of words for ``candidates``, as in SymSpell (Garbe 2012): a few look-ups."""
    without: dict[str, list[str]] = {}
    chosen = frozenset(found)
    for word in sorted(chosen):
        for part in {word[:n] + word[n + 1 :] for n in range(len(word))}:
            without.setdefault(part, []).append(word)
    return Keys(chosen, without)


def candidates(word: str, index: Keys, least: int = LEAST) -> Iterator[str]:
    """The words that a slip may have made this of: the likeliest first."""
    if not least <= len(word) <= LONGEST:
        return
    parts = [word[:n] + word[n + 1 :] for n in range(len(word))]
    alike = [w for part in parts for w in index.without.get(part, ())]
    missing, many = index.without.get(word, ()), (part for part in parts if part in index.words)
    yield from (w for w in alike if sorted(w) == sorted(word) and _near(word, w))
    yield from (w for w in missing if _same_start(word, w))
    yield from (w for w in many if len(w) >= LEAST and _same_start(word, w))
    yield from (w for w in alike if len(w) >= SURE and _same_start(word, w) and _near(word, w))


def misspelt(text: str) -> list[Edit]:
    """Words as they are spelt."""
    spelt = WORD.findall(text.lower())
    odd = {word for word in set(spelt) if word not in words() and _strange(word)}
    if not odd or not _promising(spelt, odd):
        return []
    found = list(WORD.finditer(text))
    strange = [m[0].lower() in odd for m in found]
    if sum(strange) > (1 - ENGLISH) * len(strange) or language(text) == "foreign":
        return []
    said = _joined(text, found, strange)
    for n, m in enumerate(found):
        if strange[n] and n not in said:
            word = slip(m[0].lower())
            if word is not None and not _name(text, m, word):
                said[n] = Edit(*m.span(), _as(m[0], word))
    if said:
        # Three letters are a word of harm without one of its own only in such company.
        short = ((n, m) for n, m in enumerate(found) if strange[n] and n not in said)
        for n, m in short:
            if m[0].islower() and (lost := _lost(m[0])) is not None:
                said[n] = Edit(*m.span(), lost)
    return sorted(set(said.values()))


def _promising(spelt: list[str], odd: set[str]) -> bool:
    """Whether there may be a slip to correct; most texts end here."""
    if any(slip(word) is not None for word in odd):
        return True
    at = [n for n, word in enumerate(spelt) if word in odd]
    return any(_whole("".join(spelt[m : m + 2]), True) for n in at for m in (n - 1, n) if m >= 0)


def _joined(text: str, found: list[re.Match[str]], strange: list[bool]) -> dict[int, Edit]:
    """Words that were cut in two, by the number of either part."""
    sure: dict[int, Edit] = {}
    for n, (one, other) in enumerate(pairwise(found)):
        cut = text[one.end() : other.start()]
        if n in sure or not (strange[n] or strange[n + 1]) or cut not in CUT:
            continue
        joined = (one[0] + other[0]).lower()
        # "e-mail" and "co-operate" are spelt so; behind an apostrophe no word begins.
        spelt = cut == "-" and one[0].lower() in PREFIXES
        own = text[max(one.start() - 1, 0)] not in "'\u2019" and not spelt
        torn = cut != " " or (strange[n] and (strange[n + 1] or len(one[0]) == 1))
        if own and _whole(joined, torn):
            sure[n] = sure[n + 1] = Edit(one.start(), other.end(), _as(one[0], joined))
    return sure


def _strange(word: str) -> bool:
    return not known(word) and word not in ("a", "i")


def _whole(joined: str, torn: bool) -> bool:
    """Whether two parts make a word of harm, or a common one where they look ``torn``."""
    if joined in telling():
        return len(joined) >= LEAST
    return torn and len(joined) >= SURE and words().get(joined, COMMON) < COMMON


def slip(word: str) -> str | None:
    """The word that one slip made this strange one of: one of harm, or else the commonest."""
    # A cache of words, not of keys and files: whatever is longer is no slip.
    return None if len(word) > LONGEST else _slip(word)


@lru_cache(maxsize=16_384)
def _slip(word: str) -> str | None:
    if word in _alike():
        return None
    if len(word) == SHORT:
        turned = (word[0] + word[2] + word[1], word[1] + word[0] + word[2])
        return next((w for w in turned if words().get(w, GRAMMAR) < GRAMMAR), None)
    return next(candidates(word, _telling()), None) or usual(word)


def _lost(word: str) -> str | None:
    """The word of harm that lacks one of its four letters."""
    if len(word) != SHORT or word in _alike():
        return None
    return next(candidates(word, _telling(), SHORT), None)


def usual(word: str) -> str | None:
    """The commonest word that is one slip away, if it is a common one."""
    return min(candidates(word, _common()), key=words().__getitem__, default=None)


def _near(word: str, other: str) -> bool:
    """Whether one letter is another, or two neighbours have changed places."""
    at = [n for n, (a, b) in enumerate(zip(word, other, strict=True)) if a != b]
    if len(at) == 2:
        return at[1] == at[0] + 1 and word[at[0]] == other[at[1]] and word[at[1]] == other[at[0]]
    return len(at) == 1


def _same_start(word: str, other: str) -> bool:
    return word[0] == other[0] or len(other) >= LONG


def _name(text: str, m: re.Match[str], said: str) -> bool:
    """Whether a word that may be misspelt has a capital of its own, as names have."""
    if m[0].islower() or (said in telling() and len(said) >= LONG):
        return False
    before = text[max(m.start() - 9, 0) : m.start()].rstrip()
    begins = before[-1:] in ("", ".", "!", "?", ":", '"', "'") and not m[0].isupper()
    return not text.isupper() and not (begins and said in telling())


def _as(like: str, said: str) -> str:
    """In the capitals of what stood there."""
    if like.isupper() and len(like) > 1:
        return said.upper()
    return said.capitalize() if like[0].isupper() else said


@cache
def _telling() -> Keys:
    return keys(telling())


@cache
def _common() -> Keys:
    """Some 60,000 keys; 40 ms once, 9 MB."""
    return keys(w for w, rank in words().items() if rank < COMMON and len(w) >= LEAST)


@cache
def _alike() -> frozenset[str]:
    return frozenset(table("alike.txt.gz"))
