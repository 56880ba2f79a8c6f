"""Words of harm with a slip of the pen in them: ``exlposive``, ``expl osive``, ``explosve``.

Whoever sees a classifier's scores gets past it with typing errors: one in a word that counts is
enough (docs/robustness.md). People err all over a text, so correcting every error would have
every third text judged twice. Only words that stand in harmful requests far more often than in
others are looked for, one slip away from what is no word; where one is found, the other strange
words beside it are corrected as well.

``scripts/telling_words.py`` makes the tables: those words, and the words and names that look like
misspelt ones and are meant ("heroine").
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import pairwise
from string import ascii_lowercase
from typing import Final, NamedTuple

from tamis.reading.language import language
from tamis.reading.lexicon import known, table, telling, words
from tamis.reading.text import Edit

WORD: Final = re.compile(r"[A-Za-z]+")
# A cut is one sign or one space; an apostrophe is spelling.
CUT: Final = frozenset(" -_.*~|/\\+=^")
LEAST: Final = 4
# Of four letters one that is another leaves too little: "bomb" is not "tomb". So does a first one.
SURE: Final = 5
# A name has a capital: only a long word is told from one.
LONG: Final = 6
LONGEST: Final = 20
# So many further words are corrected: each takes a look at some 300 others.
MOST: Final = 32
# Further words are corrected to those that are common.
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


def candidates(word: str, index: Keys) -> Iterator[str]:
    """The words that a slip may have made this of: the likeliest first."""
    if not LEAST - 1 <= len(word) <= LONGEST:
        return
    parts = [word[:n] + word[n + 1 :] for n in range(len(word))]
    alike = [w for part in parts for w in index.without.get(part, ())]
    missing, many = index.without.get(word, ()), (part for part in parts if part in index.words)
    yield from (w for w in alike if sorted(w) == sorted(word) and _near(word, w))
    yield from (w for w in missing if _same_start(word, w))
    yield from (w for w in many if len(w) >= LEAST and _same_start(word, w))
    yield from (w for w in alike if len(w) >= SURE and _same_start(word, w) and _near(word, w))


def misspelt(text: str) -> list[Edit]:
    """Words of harm as they are spelt, and with them the other words that are none."""
    spelt = WORD.findall(text.lower())
    odd = {word for word in set(spelt) if word not in words() and _strange(word)}
    if not odd or not _promising(spelt, odd):
        return []
    found = list(WORD.finditer(text))
    strange = [m[0].lower() in odd for m in found]
    if sum(strange) > (1 - ENGLISH) * len(strange) or language(text) == "foreign":
        return []
    sure = _joined(text, found, strange)
    for n, m in enumerate(found):
        said = _slip(m[0].lower()) if strange[n] and n not in sure else None
        if said is not None and (len(said) >= LONG or not _name(text, m)):
            sure[n] = Edit(*m.span(), _as(m[0], said))
    left = MOST if sure else 0
    for n, m in enumerate(found):
        if left and strange[n] and n not in sure and len(m[0]) >= LEAST and m[0].islower():
            left -= 1
            if (usual := _common(m[0])) is not None:
                sure[n] = Edit(*m.span(), usual)
    return sorted(set(sure.values()))


def _promising(spelt: list[str], odd: set[str]) -> bool:
    """Whether a strange word may be one of harm, alone or with a neighbour; most texts end here."""
    if any(_slip(word) is not None for word in odd):
        return True
    at = [n for n, word in enumerate(spelt) if word in odd]
    pairs = {"".join(spelt[m : m + 2]) for n in at for m in (n - 1, n) if m >= 0}
    return not telling().isdisjoint(pairs)


def _joined(text: str, found: list[re.Match[str]], strange: list[bool]) -> dict[int, Edit]:
    """Words of harm that were cut in two, by the number of either part."""
    sure: dict[int, Edit] = {}
    for n, (one, other) in enumerate(pairwise(found)):
        cut = text[one.end() : other.start()]
        if n in sure or not (strange[n] or strange[n + 1]) or cut not in CUT:
            continue
        joined = (one[0] + other[0]).lower()
        # "e-mail" and "x-ray" are spelt so; behind an apostrophe no word begins.
        lone = cut == "-" and 1 in (len(one[0]), len(other[0]))
        own = text[max(one.start() - 1, 0)] not in "'\u2019"
        if own and not lone and len(joined) >= LEAST and joined in telling():
            sure[n] = sure[n + 1] = Edit(one.start(), other.end(), _as(one[0], joined))
    return sure


def _strange(word: str) -> bool:
    return not known(word) and word not in ("a", "i")


@lru_cache(maxsize=4096)
def _slip(word: str) -> str | None:
    """The word of harm that one slip made this of."""
    return None if word in _alike() else next(candidates(word, _telling()), None)


def _near(word: str, other: str) -> bool:
    """Whether one letter is another, or two neighbours have changed places."""
    at = [n for n, (a, b) in enumerate(zip(word, other, strict=True)) if a != b]
    if len(at) == 2:
        return at[1] == at[0] + 1 and word[at[0]] == other[at[1]] and word[at[1]] == other[at[0]]
    return len(at) == 1


def _same_start(word: str, other: str) -> bool:
    return word[0] == other[0] or len(other) >= LONG


def _name(text: str, m: re.Match[str]) -> bool:
    """Whether a word has a capital of its own, which is not its sentence's nor the whole text's."""
    before = text[max(m.start() - 9, 0) : m.start()].rstrip()
    begins = before[-1:] in ("", ".", "!", "?", ":", '"', "'") and not m[0].isupper()
    return m[0][0].isupper() and not begins and not text.isupper()


def _as(like: str, said: str) -> str:
    """In the capitals of what stood there."""
    if like.isupper() and len(like) > 1:
        return said.upper()
    return said.capitalize() if like[0].isupper() else said


@lru_cache(maxsize=4096)
def _common(word: str) -> str | None:
    """The commonest word that this is with a letter too few or many, or two in each other's place.

    As Norvig, "How to write a spelling corrector" (2007).
    """
    ranks = words()
    cuts = [(word[:n], word[n:]) for n in range(1, len(word) + 1)]
    guesses = {a + b[1:] for a, b in cuts}
    guesses |= {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    guesses |= {a + c + b for a, b in cuts for c in ascii_lowercase}
    best = min((guess for guess in guesses if guess in ranks), key=ranks.__getitem__, default=None)
    return best if best is not None and ranks[best] < COMMON else None


@cache
def _telling() -> Keys:
    return keys(telling())


@cache
def _alike() -> frozenset[str]:
    return frozenset(table("alike.txt.gz"))
