"""Strings that a program puts together: ``'Tell' + ' my s' + 'ister'``, ``["tell", "my", …]``.

Joined they are an English sentence, and apart they are scraps or single words. Lists of words,
labels, records and long strings on several lines stay: what they hold is read as it stands.
"""

import re
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from tamis.reading.lexicon import (
    COMMON,
    EIGHTH,
    PROSE,
    attested,
    holds_together,
    prose,
    reads,
    words,
)
from tamis.reading.spacing import Deeper
from tamis.reading.text import Edit

# Nothing is read twice: between two quotes that open there is one that does not.
STRING: Final = re.compile(
    r"(?<!\\)\"((?:[^\"\n\\]|\\.)*)\""
    r"|(?<![\w\\])'((?:[^'\n\\]|\\.|(?<=\w)'(?=\w))*)'(?!\w)"
    r"|`([^`\n$]*)`"
)
ESCAPED: Final = re.compile(r"\\(.)")
KEY: Final = re.compile(r"\s{0,2}(?::|=>)")
# Signs between two strings, and a name that is given the second, or called with it.
GAP: Final = re.compile(
    r"[\s\d,+.&|~;:{}()\[\]$%<>?-]{0,16}"
    r"(?:(?:(?:const|let|var|set|my|local|string|auto)\s{1,2})?"
    r"[\w.$@]{1,24}\s{0,2}(?:[+.:]?=>?|[:(])[\s({\[$]{0,8})?",
    re.IGNORECASE,
)
FORMAT: Final = re.compile(r"(?:%[sd]|\{\d*\})+")
# Words without a digit would be cut into words again.
CODE: Final = re.compile(r"(?=[A-Za-z+/_-]*[0-9])[A-Za-z0-9+/_-]{16,}={0,2}")
WORD: Final = re.compile("[A-Za-z]+")
NAME: Final = re.compile("[A-Za-z]{3,}")
BETWEEN: Final = frozenset(" '\u2019")
LONE: Final = re.compile(r"[\"'(]?[A-Za-z][A-Za-z'’-]*[\"').,:;?!]{0,3}")
# Strings of code on several lines are longer, and so few are a greeting.
LONGEST: Final = 24
FEW: Final = 4
# A sentence of single words has so many of them.
WORDS: Final = 6
# Of a list of words all are as common as those of grammar, or have capitals.
FOURTH: Final = 4
# Of the places where strings meet so many are within a word, or beside a space.
MEET: Final = 0.8
ARTICLES: Final = frozenset(("a", "an", "the", "my", "your", "his", "their", "our"))
PERSONS: Final = frozenset(
    ("i", "me", "you", "she", "he", "it", "her", "him", "we", "they", "them", "how", "what")
)
PREPOSITIONS: Final = frozenset(("of", "to", "in", "on", "at", "by", "for", "with", "from", "into"))
# What stands behind neither an article nor a preposition.
NEVER: Final = PREPOSITIONS | {"and", "or", "but", "is", "are", "was", "were", "be", "not"}


class Piece(NamedTuple):
    """A string, and whether it is the key of what follows it."""

    start: int
    end: int
    said: str
    key: bool


def concatenated(text: str, deeper: Deeper) -> list[Edit]:
    """The strings of a program or a record that are one text together."""
    if text.count('"') + text.count("'") + text.count("`") < 2 * FEW:
        return []
    return [edit for run in _runs(text) if (edit := _joined(text, run, deeper)) is not None]


def _runs(text: str) -> Iterator[list[Piece]]:
    """Short strings with nothing but signs and names between them."""
    run: list[Piece] = []
    for m in STRING.finditer(text):
        raw = m[m.lastindex or 1]
        long = len(raw) > LONGEST
        if run and (long or GAP.fullmatch(text, run[-1].end, m.start()) is None):
            yield run
            run = []
        if not long:
            key = KEY.match(text, m.end()) is not None
            run.append(Piece(*m.span(), ESCAPED.sub(r"\1", raw), key))
    yield run


def _joined(text: str, run: list[Piece], deeper: Deeper) -> Edit | None:
    values = [piece for piece in run if not piece.key]
    # Words as keys have numbers for values.
    chosen = values if len(values) >= FEW else [piece for piece in run if piece.key]
    chosen = [piece for piece in chosen if piece.said and not FORMAT.fullmatch(piece.said)]
    if len(chosen) < FEW:
        return None
    parts = [piece.said for piece in chosen]
    whole = "".join(parts)
    said = _torn(parts) or _listed(parts)
    if said is None and CODE.fullmatch(whole) is not None:
        decoded = deeper(whole, False)
        said = None if decoded == whole else decoded
    if said is None:
        return None
    at, aside = run[0].start, []
    for piece in (*chosen, run[-1]):
        aside += NAME.findall(text, at, piece.start)
        at = piece.end
    # What the names and keys say, once each: somebody may talk in them.
    said = ". ".join(filter(None, (said, " ".join(dict.fromkeys(aside)))))
    return Edit(run[0].start, run[-1].end, said)


def _torn(parts: list[str]) -> str | None:
    """A sentence that was cut within words, or with its spaces."""
    said = "".join(parts)
    if " " not in said or not _sentence(said):
        return None
    strange = deque(m.span() for m in WORD.finditer(said) if not _word(m[0]))
    at = met = 0
    for part in parts[:-1]:
        at += len(part)
        while strange and strange[0][1] <= at:
            strange.popleft()
        beside = said[at - 1 : at + 1]
        unknown = bool(strange) and strange[0][0] < at
        met += not unknown if beside.isalpha() else not BETWEEN.isdisjoint(beside)
    return said if met >= MEET * (len(parts) - 1) else None


def _listed(parts: list[str]) -> str | None:
    """A sentence of single words, in their order."""
    lone = [part for part in parts if LONE.fullmatch(part) is not None]
    if len(lone) < WORDS or len(lone) < MEET * len(parts):
        return None
    # Names and labels have capitals.
    capitals = sum(part[0].isupper() and part != "I" for part in lone[1:])
    said = " ".join(filter(None, map(str.strip, parts)))
    named = FOURTH * capitals > len(lone) and not said.isupper()
    if named or not _sentence(said):
        return None
    # What stands among them in several words tells nothing of the list.
    found = WORD.findall(" ".join(lone).lower())
    ranks = words()
    rare = sum(len(word) > 2 and ranks.get(word, COMMON) >= COMMON for word in found)
    clashes = any(
        other in (NEVER if one in PREPOSITIONS else NEVER | ARTICLES)
        for one, other in pairwise(found)
        if one in PREPOSITIONS or one in ARTICLES
    )
    told = not (ARTICLES | PERSONS).isdisjoint(found) and found[-1] not in ARTICLES
    scraps = sum(len(word) == 1 and word not in "ai" for word in found)
    enough = rare >= max(2, len(found) / EIGHTH) and scraps <= len(found) / EIGHTH
    return said if enough and told and not clashes else None


def _sentence(said: str) -> bool:
    """Whether a text is English, with words of grammar in it."""
    if prose(said) < PROSE or not reads(said):
        return False
    return holds_together(WORD.findall(said.lower()))


def _word(word: str) -> bool:
    return len(word) == 1 or attested(word.lower())
