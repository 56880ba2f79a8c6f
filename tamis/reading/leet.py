"""Digits and signs for letters: ``1gn0r3``, ``@ttack``."""

import re
from itertools import islice, product
from typing import Final

from tamis.reading.lexicon import GRAMMAR, attested, known, telling, words
from tamis.reading.text import Edit

SIGNS: Final = {
    "0": "o",
    "1": "il",
    "2": "z",
    "3": "e",
    "4": "a",
    "5": "s",
    "6": "gb",
    "7": "t",
    "8": "b",
    "9": "g",
    "@": "a",
    "$": "s",
    "!": "il",
    "|": "li",
    "+": "t",
    "€": "e",
    "£": "l",
}
_SIGN: Final = "[" + re.escape("".join(SIGNS)) + "]"
SUSPICIOUS: Final = re.compile(rf"{_SIGN}[A-Za-z]|[A-Za-z](?:{_SIGN}{{1,3}}[A-Za-z]|{_SIGN}{{2}})")
TOKEN: Final = re.compile(rf"(?:[A-Za-z]|{_SIGN})+")
# A letter behind a sign: "mp3", "team1", "hello!" have none; "@anna" and "$name" are their own.
INSIDE: Final = re.compile(rf"(?!^[@$]){_SIGN}[A-Za-z]")
HEX: Final = re.compile(r"[0-9a-fA-F]{6,}")
# In the company of words in digits, these are words as well; "70" and "15" are found like others.
LONE: Final = {"4": "a", "1": "i", "@": "a", "!": "i"}
LETTER: Final = re.compile("[A-Za-z]")
# A word of four letters stands alone in a text where it is this common, by rank.
USUAL: Final = 1_500
# Signs that are enough at the end of a word.
SIGNED: Final = 3
# Beyond that a token is a key or an identifier.
LONGEST: Final = 24
MOST_CHOICES: Final = 32


def leet(text: str) -> list[Edit]:
    """Tokens that are words once signs are letters; short ones and numbers in company."""
    if SUSPICIOUS.search(text) is None:
        return []
    strong: list[Edit] = []
    weak: list[Edit] = []
    rest: list[Edit] = []
    digits: list[Edit] = []
    for m in TOKEN.finditer(text):
        token = m[0]
        if len(token) > LONGEST or token.isalpha():
            continue
        start, core = m.start(), token if token in LONE else token.rstrip("!|+")
        if not core:
            continue
        if core.isalpha() and attested(core.lower()):
            if "|" in token and (said := _word(token)) is not None:
                digits.append(Edit(*m.span(), said))
            continue
        # "What'5": no word by itself.
        ends = text[max(start - 1, 0)] in "'\u2019" and not core.isalpha()
        if core.isdecimal() or core in LONE or ends or HEX.fullmatch(core) is not None:
            said = _word(core) or LONE.get(core) or (_plain(core) if ends else None)
            if said is not None:
                digits.append(Edit(start, start + len(core), said))
            continue
        if (word := _word(token) if core == token else _word(core) or _word(token)) is not None:
            end = start + len(word)
            inside = len(word) > 3 and (INSIDE.search(token) is not None or _mostly(word, token))
            (strong if inside else weak).append(Edit(start, end, word))
        elif LETTER.search(core) is not None and INSIDE.search(core) is not None:
            rest.append(Edit(start, start + len(core), _plain(core)))
        elif LETTER.search(core) is not None and core[0] not in "@$":
            digits.append(Edit(start, start + len(core), _plain(core)))
    if not strong:
        # "7h3" and "4ny" are no names of anything.
        ranks = words()
        return [e for e in weak if len(e.text) > 2 and ranks.get(e.text.lower(), GRAMMAR) < GRAMMAR]
    if len(strong) + len(weak) < 2:
        said = strong[0].text.lower()
        # "4REAL" is not "areal".
        usual = words().get(said, USUAL) < USUAL or said in telling()
        rare = not known(said) and not text[strong[0].start].isalpha()
        return strong if usual or not (len(said) < 5 or rare) else []
    sure = len(strong) + len(weak) > 2 and len(rest) <= len(strong)
    return sorted([*strong, *weak, *(rest + digits if sure else [])])


def _word(token: str) -> str | None:
    choices = product(*(SIGNS.get(char, char) for char in token))
    for chosen in islice(choices, MOST_CHOICES):
        if attested((word := "".join(chosen)).lower()):
            return word
    return None


def _mostly(word: str, token: str) -> bool:
    """Whether more signs end a token than versions and years have: ``cr3473``."""
    return sum(a != b for a, b in zip(word, token, strict=False)) >= SIGNED


def _plain(token: str) -> str:
    return "".join(SIGNS.get(char, char)[0] for char in token)
