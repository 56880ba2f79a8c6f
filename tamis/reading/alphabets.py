"""English in another alphabet: ``нσω ¢αη ι``, ``ⱧØ₩ ₵₳₦ ł``, ``卄ㄖ山``, ``Hôw çåñ Ì``, ``тхе``.

Generators of fancy text write so, letter by letter (``data/alphabets.txt``), and so does who knows
Russian letters by their sound. A letter may stand for several. Believed are stretches of words that
are English sentences once read and were none: of words in Russian, Greek or Vietnamese a few are
English by chance, and never most of a sentence with its words of grammar.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import islice, product
from string import ascii_lowercase
from typing import Final, NamedTuple

from tamis.reading import letters
from tamis.reading.lexicon import PROSE, attested, holds_together, prose, reads
from tamis.reading.text import Edit

TOKEN: Final = re.compile(r"\S+")
WORD: Final = re.compile("[A-Za-z]+")
STRANGER: Final = re.compile(r"[^\x00-\x7f]")
RUSSIAN: Final = re.compile("[\u0400-\u045f]")
# Beyond Latin letters with marks, and signs: what is left of most words of another script.
FOREIGN: Final = re.compile("[\u0370-\u1cff\u3040-\uffdc]")
MARKS: Final = frozenset(map(chr, range(0x300, 0x370)))
# Less than so many strange letters are in a name, or in a word of another language,
FEW: Final = 8
# and so is less than this share of them: French has a tenth.
STRANGE: Final = 0.2
# Plain words between strange ones: "I", "a", and what a generator has no letters for.
PLAIN: Final = 3
# Words in a row that are none of English part two stretches.
MISSES: Final = 2
# Ways to read a word that are tried, and characters of the longest.
MOST_CHOICES: Final = 32
LONGEST: Final = 40
# What was written is English by no more than this share of what is read.
BEFORE: Final = 0.5
# Cyrillic letters by their sound, as the usual tables of transliteration have them, but for those
# that English has no letter for: half of the words of Russian have one.
SOUNDS: Final = (
    "а:a б:b в:v,w г:g ґ:g д:d е:e ж:zh,j з:z и:i і:i й:y,j ј:j к:k,c,q л:l м:m н:n о:o п:p р:r "
    "с:s т:t у:u,w ў:w ф:f х:h,kh ц:c,ts ч:ch ш:sh э:e ѯ:x"
)
# What two of them are together.
PAIRS: Final = (("дж", "ј"), ("кс", "ѯ"))


class Word(NamedTuple):
    """A word as it stands, or as it reads where it is strange and a word of English: a hit."""

    start: int
    end: int
    said: str
    strange: bool
    hit: bool


class Table(NamedTuple):
    """What letters may stand for, and what they are likeliest to (``str.translate``)."""

    options: dict[str, tuple[str, ...]]
    first: dict[int, str]


def _table(options: Mapping[str, Iterable[str]]) -> Table:
    """A table with capitals, where those have no meaning of their own."""
    found = {char: tuple(dict.fromkeys(looks)) for char, looks in options.items()}
    capitals = {char.upper(): looks for char, looks in found.items() if len(char.upper()) == 1}
    found = {char: looks for char, looks in (capitals | found).items() if not char.isascii()}
    return Table(found, {ord(char): looks[0] for char, looks in found.items()})


@cache
def _looks() -> Table:
    """What a letter may stand for by its look: the alphabets' own ones first."""
    found: dict[str, list[str]] = {}
    text = files("tamis.reading").joinpath("data", "alphabets.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        for char, look in zip(line, ascii_lowercase, strict=True):
            found.setdefault(char, []).append(look)
    similar = {point: chr(look) for point, look in letters.SIMILAR.items()}
    for table in (letters.looks("lookalikes.txt"), similar, letters.looks("styled.txt")):
        for point, look in table.items():
            found.setdefault(chr(point), []).append(look.lower())
    return _table(found)


@cache
def _sounds() -> Table:
    """What a Cyrillic letter may stand for by its sound."""
    return _table({pair[0]: pair[2:].split(",") for pair in SOUNDS.split()})


def alphabets(text: str) -> list[Edit]:
    """Stretches of words that are English letter by letter."""
    if len(STRANGER.findall(text)) < FEW:
        return []
    if edits := _read(text, _looks()):
        return edits
    sounds = len(RUSSIAN.findall(text)) >= FEW
    return _read(text, _sounds()) if sounds else []


def _read(text: str, table: Table) -> list[Edit]:
    found: list[Edit] = []
    for stretch in _stretches(text, table):
        if _english(text, stretch):
            found += [Edit(w.start, w.end, _guess(w, table)) for w in stretch if w.strange]
    return found


def _guess(word: Word, table: Table) -> str:
    """What a word says, of a name or a rare one among English ones what it looks like."""
    return word.said if word.hit else _bare(word.said.translate(table.first)) or word.said


def _stretches(text: str, table: Table) -> Iterator[list[Word]]:
    """Words from a strange one to another, with few plain ones and no two unread ones between."""
    stretch: list[Word] = []
    plain = misses = 0
    for m in TOKEN.finditer(text):
        word = _word(m, table)
        misses = misses + 1 if word.strange and not word.hit else misses * (not word.strange)
        plain = 0 if word.strange else plain + 1
        if misses >= MISSES or plain > PLAIN:
            if stretch:
                yield _trimmed(stretch)
            stretch = []
        elif stretch or word.hit:
            stretch.append(word)
    if stretch:
        yield _trimmed(stretch)


def _trimmed(stretch: list[Word]) -> list[Word]:
    """Without what was not read behind the last word that was."""
    last = max(n for n, word in enumerate(stretch) if word.hit)
    return stretch[: last + 1]


def _word(m: re.Match[str], table: Table) -> Word:
    token = m[0]
    if token.isascii() or len(token) > LONGEST:
        return Word(*m.span(), token, False, False)
    said = _spelt(token, table)
    if said is None and table is _sounds():
        for pair, letter in PAIRS:
            token = token.replace(pair, letter)
        said = _spelt(token, table) if len(token) < len(m[0]) else None
    # Signs between words are none.
    strange = said is not None or any(map(str.isalnum, token))
    return Word(*m.span(), said or m[0], strange, said is not None)


def _spelt(token: str, table: Table) -> str | None:
    """A word as English has it, if it may stand for one."""
    said = _bare(token.translate(table.first))
    if said is None or _known(said):
        return said
    options = [table.options.get(char, char) for char in token]
    for choice in islice(product(*options), 1, MOST_CHOICES):
        said = _bare("".join(choice))
        if said is not None and _known(said):
            return said
    return None


def _bare(said: str) -> str | None:
    """Letters without their marks, signs as they are; None where others are among them."""
    if said.isascii():
        return said
    if FOREIGN.search(said) is not None:
        return None
    said = "".join(char for char in unicodedata.normalize("NFD", said) if char not in MARKS)
    return None if any(char.isalnum() and not char.isascii() for char in said) else said


def _known(said: str) -> bool:
    lower = said.lower()
    if lower.isalpha():
        return len(lower) == 1 or attested(lower)
    parts = WORD.findall(lower)
    return bool(parts) and all(len(part) == 1 or attested(part) for part in parts)


def _english(text: str, stretch: list[Word]) -> bool:
    """Whether a stretch is an English sentence, and was none."""
    start, end = stretch[0].start, stretch[-1].end
    strange = sum(not char.isascii() for char in text[start:end])
    if strange < FEW or strange < STRANGE * (end - start):
        return False
    said = " ".join(word.said for word in stretch)
    english = prose(said)
    if english < PROSE or prose(text[start:end]) > BEFORE * english or not reads(said):
        return False
    return holds_together(WORD.findall(said.lower()))
