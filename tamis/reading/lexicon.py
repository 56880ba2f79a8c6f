"""Whether letters are English: what tells a decoded message from noise that happens to decode.

Moves that turn one text into many (ciphers, spacing, digits for letters) are only made where words
come out of what was none. So names, code, and other languages stay what they are.
"""

import gzip
import math
import re
from functools import cache
from importlib.resources import files
from typing import Final

WORD: Final = re.compile(r"[A-Za-z]{2,}")
# Of a message's characters this share belongs to English words; of noise that decodes, far less.
PROSE: Final = 0.75
# So many words may have more strange ones, names and misspelt ones, among them.
MANY: Final = 5
LAXER: Final = 0.6
LONGEST: Final = 18
# Words of grammar, by rank: a third of what people write, and hardly ever part of an identifier.
GRAMMAR: Final = 250
# Words so common hold a sentence together: it has two, and one in eight of its words.
COMMON: Final = 400
EIGHTH: Final = 8
# Of fewer words names are made.
FEWEST: Final = 5
# What a letter of an unknown word costs, beside a word of rank n at log(n): more than any word.
UNKNOWN: Final = 14.0
# As the last of the ranked words, and a letter's worth more.
RARE: Final = 13.0
ENDINGS: Final = ("s", "ed", "d", "ing", "ly", "er", "r", "ers")


def table(name: str) -> list[str]:
    """The lines of a table."""
    blob = files("tamis.reading").joinpath("data", name).read_bytes()
    return gzip.decompress(blob).decode().split("\n")


@cache
def words() -> dict[str, int]:
    """English words and their rank; 3 ms once, 2 MB."""
    found = {word: n for n, word in enumerate(table("words.txt.gz"))}
    return found | {word: n for n, word in enumerate(sorted(telling() - found.keys()), len(found))}


@cache
def telling() -> frozenset[str]:
    """Words that stand in harmful requests far more often than in others."""
    return frozenset(table("telling.txt.gz"))


@cache
def rare() -> frozenset[str]:
    """Rarer English words, of five letters and more: by chance hardly anything is one of them."""
    return frozenset(table("rare.txt.gz"))


def attested(word: str) -> bool:
    """Whether a word in lower case is English, if rare: what tells that something was undone."""
    return known(word) or word in rare()


def known(word: str) -> bool:
    """Whether a word in lower case is usual English, plain or with an ending."""
    ranks = words()
    if word in ranks:
        return True
    if len(word) < 6 or word[-1] not in "sdgyr":
        return False
    return any(word.endswith(ending) and word[: -len(ending)] in ranks for ending in ENDINGS)


def prose(text: str) -> float:
    """The share of a text that is English words and the spaces between them, 0 to 1."""
    if not text or text.isspace():
        return 0.0
    letters = sum(len(word) for word in WORD.findall(text.lower()) if attested(word))
    # A single space a word is part of prose; layout is not.
    return (letters + min(text.count(" "), letters // 3)) / len(text.strip())


def reads(text: str) -> bool:
    """Whether a text is an English message of several words."""
    found = WORD.findall(text.lower())
    # Most guesses are wrong, which plain words tell ten times as fast as those with endings.
    if sum(map(len, filter(words().__contains__, found))) < 0.35 * len(text):
        return False
    several = len({word for word in found if len(word) > 2})
    return several > 2 and prose(text) >= (PROSE if several < MANY else LAXER)


@cache
def _costs() -> dict[str, float]:
    costs = {word: math.log(rank + 20) + 2.0 for word, rank in words().items()}
    return dict.fromkeys(rare(), RARE) | costs | {"a": 5.5, "i": 5.5}


def cost(word: str) -> float:
    """What a word costs in a sentence: of a strange one each letter."""
    return _costs().get(word, UNKNOWN * len(word))


def segment(letters: str, unknown: float = 0.1) -> list[str] | None:
    """The likeliest English words in a run of letters without spaces; None where it is no English.

    That is where more than a share of it is ``unknown``.
    Costs of unigrams, as in Norvig's "Natural Language Corpus Data" (2009); linear in the letters.
    """
    costs, text = _costs(), letters.lower()
    # A capital among small letters begins a word: "doI" is no "doi".
    cased = not (letters.isupper() or letters[1:].islower())
    best: list[tuple[float, int]] = [(0.0, 0)]
    first = 0
    for end in range(1, len(text) + 1):
        choices = [(best[end - 1][0] + UNKNOWN, end - 1)]
        if cased and letters[end - 1].isupper():
            first = end - 1
        for start in range(max(first, end - LONGEST), end):
            cost = costs.get(text[start:end])
            if cost is not None:
                choices.append((best[start][0] + cost, start))
        best.append(min(choices))
    spans: list[tuple[int, int]] = []
    end, alone = len(text), False
    while end:
        start = best[end][1]
        # Letters that are no word of their own are one unknown word together.
        if alone and end - start == 1:
            spans[-1] = start, spans[-1][1]
        else:
            spans.append((start, end))
        end, alone = start, end - start == 1
    found = [letters[start:end] for start, end in reversed(spans)]
    strange = sum(len(word) for word in found if word.lower() not in costs)
    if strange > unknown * len(text) or len(text) < 3 * len(found):
        return None
    return found


def holds_together(found: list[str]) -> bool:
    """Whether words in lower case have such among them as a sentence needs."""
    ranks = words()
    common = sum(len(word) > 1 and ranks.get(word, COMMON) < COMMON for word in found)
    return common >= max(2, len(found) / EIGHTH)


def sentence(found: list[str]) -> bool:
    """Whether letters that were cut into words are a sentence rather than a name of many parts."""
    lower = [word.lower() for word in found]
    scraps = sum(len(word) == 1 and word not in "ai" for word in lower)
    return len(lower) >= FEWEST and EIGHTH * scraps <= len(lower) and holds_together(lower)
