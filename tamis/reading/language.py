"""Which body a text needs: one that knows English, one that knows many languages, or both.

Told by words, sentence by sentence. Letters of other scripts, words that are grammar in other
languages and none in English, and marks that no English word has, stand against words of the
English lexicon; unknown words count for the foreign side, but never by themselves. So what holds no
words (names, identifiers, code, noise) is left to the body that knows English.

``scripts/reading_tables.py`` makes the table of words; shares and times: ``docs/languages.md``.
"""

import gzip
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from operator import add
from typing import Final, Literal, NamedTuple

from tamis.reading.lexicon import known, words

Language = Literal["english", "foreign", "mixed"]

_MARKS: Final = (
    "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0dff\u0e31-\u0e4e\u0eb1-\u0ece"
    "\u102b-\u103e\u17b4-\u17d3"
)
WORD: Final = re.compile(rf"[\w{_MARKS}]+")
ASCII: Final = re.compile(r"[a-z0-9_]+")
END: Final = re.compile("[.!?;\n。！？；।؟]+")
LATIN: Final = re.compile("[a-zªº\u00c0-\u024f\u0300-\u036f\u1e00-\u1eff\ufb00-\ufb06]+")
# Letters in another dress, mathematical ones among them, and signs of sound: no script of theirs.
DRESSED: Final = re.compile("[a-z\u0250-\u02ff\u1d00-\u1dbf\u2070-\u218f\U0001d400-\U0001d7ff]")
# Code, addresses and sums.
SIGNS: Final = re.compile(r"[_=<>(){}\[\]/\\|#@$+*0-9]")
# What has none is an abbreviation, or noise.
VOWEL: Final = re.compile("[aeiouy]")
# Scripts that put no space between words; so many of their letters are about a word.
UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
LETTERS: Final = 2
# One or two letters of another script are a symbol.
SYMBOL: Final = 2
# What an unknown word says for "foreign" beside a word of foreign grammar, and one that English has
# as well ("die", "war").
UNKNOWN: Final = 0.7
SHARED: Final = 0.5
# Of so few words none may be grammar: commands have two. They are no English where hardly one of
# them is, and one is no word that is known. An English word that is none of the commonest says
# little: names and loan words are among them, and words of others by accident ("femme", "mach").
FEW: Final = 9
HARDLY: Final = 0.75
COMMON: Final = 3_000
RARE: Final = 0.35
# Words of grammar that names have in English as well ("La Scala", "Leonardo da Vinci"); other words
# as short are parts of codes.
ARTICLES: Final = frozenset(
    ("da", "de", "di", "du", "el", "en", "et", "il", "la", "le", "lo", "um", "un")
)
# So many unknown words for each of those at most: else it is no language.
MOST: Final = 6
# The foreign side must have more than the English one by this much.
LEAD: Final = 0.8
# A sentence counts by itself from so many words on (an English one from one more), a longer one is
# taken in pieces.
LEAST: Final = 3
LONGEST: Final = 24


class Count(NamedTuple):
    """Words by what they are."""

    foreign: float = 0.0
    english: int = 0
    unknown: int = 0
    shared: int = 0
    rare: int = 0
    """Those of the English ones that are none of the commonest."""

    @property
    def all(self) -> float:
        """All that are words at all."""
        return self.foreign + self.english + self.unknown + self.shared

    @property
    def is_foreign(self) -> bool:
        """Whether English is the smaller part, and something but unknown words says so."""
        told = self.foreign + self.shared
        # One word that English has as well tells something where no other word is English.
        alone = self.shared == 1 and not self.english and self.unknown > 1
        if not (self.foreign >= 1 or self.shared > 1 or alone) or self.unknown > MOST * told:
            return False
        weight = self.foreign + UNKNOWN * self.unknown + SHARED * self.shared
        return weight > self.english + LEAD

    @property
    def is_no_english(self) -> bool:
        """Whether so few words that grammar tells nothing hold hardly an English one."""
        strange = self.unknown + self.foreign + self.shared
        english = self.english - (1 - RARE) * self.rare
        return self.all <= FEW and english < HARDLY and self.unknown > 0 and strange > 1


def language(text: str) -> Language:
    """Whether a text is English (or no language), another language, or holds sentences of both.

    In time linear in its length; of a text that was obfuscated, ask of what it reads
    (``reader.read``).
    """
    total = Count()
    english = foreign = False
    word = ASCII if text.isascii() else WORD
    for piece in _pieces(word.findall(part) for part in END.split(text.lower())):
        count = _count(piece)
        total = Count(*map(add, total, count))
        if count.is_foreign:
            foreign = foreign or (count.all >= LEAST and count.foreign + count.shared > 1)
        else:
            english = english or count.english > LEAST
            foreign = foreign or (count.foreign >= LEAST and _holds_foreign(piece))
    if total.is_foreign or (total.is_no_english and SIGNS.search(text) is None):
        return "mixed" if english else "foreign"
    return "mixed" if foreign else "english"


def _pieces(sentences: Iterable[list[str]]) -> Iterator[list[str]]:
    """Sentences' words, of long ones in pieces; of those of one or two words several together."""
    short: list[str] = []
    for found in sentences:
        if len(found) < LEAST:
            short += found
            if len(short) < LONGEST:
                continue
            found, short = short, []
        yield from (found[at : at + LONGEST] for at in range(0, len(found), LONGEST))
    yield short


def _holds_foreign(piece: Sequence[str]) -> bool:
    """Whether some words in a row of a sentence that is English are of another script."""
    row = 0.0
    for word in piece:
        latin = word.isascii() or LATIN.fullmatch(word) is not None
        row = 0.0 if latin else row + _count([word]).foreign
        if row >= LEAST:
            return True
    return False


def _count(found: list[str]) -> Count:
    ranks, grammar = words(), _grammar()
    foreign, english, unknown, shared, rare = 0.0, 0, 0, 0, 0
    for word in found:
        if word in grammar:
            if word in ranks:
                shared += 1
            else:
                foreign += 1
        elif (rank := ranks.get(word)) is not None:
            english += 1
            rare += rank > COMMON
        elif word.isascii() or LATIN.fullmatch(word) is not None:
            if len(word) < 2 or (word.isascii() and not word.isalpha()):
                continue  # part of a code, or of a word that could not be read
            if known(word):
                english += 1
            elif word in ARTICLES:
                shared += 1
            elif word.isascii():
                unknown += len(word) > 2 and VOWEL.search(word) is not None
            elif not known(_bare(word)):
                foreign += 1
        elif letters := len(UNSPACED.findall(word)):
            foreign += max(1.0, letters / LETTERS)
        elif len(word) > SYMBOL and DRESSED.search(word) is None:
            foreign += 1
    return Count(foreign, english, unknown, shared, rare)


@cache
def _grammar() -> frozenset[str]:
    """Words of grammar in other languages; 2 ms once, 1 MB."""
    blob = files("tamis.reading").joinpath("data/grammar.txt.gz").read_bytes()
    return frozenset(gzip.decompress(blob).decode().split("\n"))


def _bare(word: str) -> str:
    """Without marks: "naïve" and "café" are English."""
    # Character by character: of a whole word all marks are put in order, in quadratic time.
    parts = (c for char in word for c in unicodedata.normalize("NFKD", char))
    return "".join(c for c in parts if not unicodedata.combining(c))
