"""Words with a slip of the pen in them: ``exlposive``, ``explosve``, ``annd``.

Whoever sees a classifier's scores gets past it with one typing error in a word that counts
(docs/robustness.md). Corrected is what is no word and one slip away from one that stands in
harmful requests far more often than in others, or from a common one.

``scripts/telling_words.py`` makes the tables: the words of harm, and those that look like misspelt
ones and are meant ("heroine").
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Final, NamedTuple

from tamis.reading.language import language
from tamis.reading.lexicon import ENDINGS, GRAMMAR, LAXER, known, prose, table, telling, words
from tamis.reading.text import Edit, Text, cased
from tamis.reading.torn import COMMON, LONGEST, SIGN, gathered, scrap, torn

WORD: Final = re.compile(r"[A-Za-z]+")
# Beside letters that are not English, "Świętosława" is no "awa".
WHOLE: Final = re.compile(r"(?<![^\W\d_])[A-Za-z]+(?![^\W\d_])")
ADDRESS: Final = re.compile(r"https?://\S+")
LEAST: Final = 4
# Three letters are a word of grammar that has two of them in each other's place, or lacks one.
SHORT: Final = 3
# Of four letters one that is another leaves too little: "bomb" is not "tomb". So does a first one.
SURE: Final = 5
# A name has a capital: only a long word of harm is told from one, and at a sentence's beginning a
# common one of five letters.
LONG: Final = 6
# Common words are corrected to, and of longer ones, which are told from fewer others, rarer ones.
RARER: Final = 14_000
# What sentences begin with.
FIRST: Final = 3_000
# Of fewer words none tells what another one is to be.
FEWEST: Final = 3
# With a scrap among so many words most of them are torn.
TORN: Final = 5
# No slip is told from another language where less of the words than this are English.
ENGLISH: Final = 0.5
# Nor from a text that is not English as it stands, with more of them left.
LEFT: Final = 0.15


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
    if "://" in text:
        text = ADDRESS.sub(lambda m: " " * len(m[0]), text)
    found = list((WORD if text.isascii() else WHOLE).finditer(text))
    spelt = [m[0].lower() for m in found]
    scraps = {word for word in set(spelt) if scrap(word)}
    odd = {word for word in scraps if not known(word)}
    # Most texts end here.
    if len(spelt) < FEWEST or (not scraps and SIGN.search(text) is None):
        return []
    said = torn(text, found, scraps)
    if TORN * sum(word in scraps for word in spelt) > len(spelt):
        whole = gathered(text, found, scraps)
        if whole and prose(Text(text).edit(sorted(set(whole.values()))).text) >= LAXER:
            said = whole
    for n, m in enumerate(found):
        if spelt[n] in odd and n not in said:
            word = slip(spelt[n])
            if word is not None and not _name(text, m, word):
                said[n] = Edit(*m.span(), cased(m[0], word))
    if not said:
        return []
    # Told by what it reads then: slips in most words are still English, where few are left.
    left = sum(word in odd and n not in said for n, word in enumerate(spelt))
    if left > (1 - ENGLISH) * len(spelt) and 2 * len(said) < left:
        return []
    mended = Text(text).edit(sorted(set(said.values()))).text
    if language(mended) == "foreign":
        return []
    if left > LEFT * len(spelt) and language(text) == "foreign":
        return []
    # Three letters are a word of harm without one of its own only in such company.
    for n, m in enumerate(found):
        if spelt[n] in odd and n not in said and m[0].islower() and (lost := _lost(m[0])):
            said[n] = Edit(*m.span(), lost)
    return sorted(set(said.values()))


def slip(word: str) -> str | None:
    """The word that one slip made this strange one of: one of harm, or else the commonest."""
    # A cache of words, not of keys and files: whatever is longer is no slip.
    return None if len(word) > LONGEST else _slip(word)


@lru_cache(maxsize=16_384)
def _slip(word: str) -> str | None:
    return None if word in _alike() else guess(word)


def guess(word: str) -> str | None:
    """The same, were nothing known of words that only look like misspelt ones."""
    if len(word) == SHORT:
        turned = (word[0] + word[2] + word[1], word[1] + word[0] + word[2])
        lacking = sorted(candidates(word, _common(), SHORT), key=words().__getitem__)
        return next((w for w in (*turned, *lacking) if words().get(w, GRAMMAR) < GRAMMAR), None)
    return next(candidates(word, _telling()), None) or _usual(word) or _ending(word)


def _lost(word: str) -> str | None:
    """The word of harm that lacks one of its four letters."""
    if len(word) != SHORT or word in _alike():
        return None
    return next(candidates(word, _telling(), SHORT), None)


def _usual(word: str) -> str | None:
    """The commonest word that is one slip away, if it is a common one."""
    found = [*candidates(word, _common()), *_doubled(word)]
    return min(found, key=words().__getitem__, default=None)


def _doubled(word: str) -> Iterator[str]:
    """The words of grammar that have one of their three letters twice: ``annd``."""
    if len(word) == LEAST:
        for n in range(1, LEAST):
            said = word[:n] + word[n + 1 :]
            if word[n] == word[n - 1] and words().get(said, GRAMMAR) < GRAMMAR:
                yield said


def _ending(word: str) -> str | None:
    """The same of a word with an ending that no table has: ``negelcting``."""
    for ending in ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= SURE and (said := slip(stem)) is not None:
            return said + ending
    return None


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
    usual = said in telling() or (words().get(said, FIRST) < FIRST and len(m[0]) >= SURE)
    return not text.isupper() and not (begins and usual)


@cache
def _telling() -> Keys:
    return keys(telling())


@cache
def _common() -> Keys:
    """Some 100,000 keys; 70 ms once, 15 MB."""
    return keys(
        word
        for word, rank in words().items()
        if len(word) >= LEAST and rank < (RARER if len(word) > LONG else COMMON)
    )


@cache
def _alike() -> frozenset[str]:
    return frozenset(table("alike.txt.gz"))
