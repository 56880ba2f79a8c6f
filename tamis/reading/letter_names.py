"""Letters by their names: ``tango echo lima lima``, ``:regional_indicator_t:``, ``LETTER T``."""

import re
from collections import Counter
from itertools import pairwise
from typing import Final

from tamis.reading.letters import spelled
from tamis.reading.text import Edit

# Of radio telephony (ICAO, and as they are often spelt), a to z.
RADIO: Final = (
    *("alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india"),
    *("juliett", "kilo", "lima", "mike", "november", "oscar", "papa", "quebec", "romeo"),
    *("sierra", "tango", "uniform", "victor", "whiskey", "xray", "yankee", "zulu"),
)
SPELT: Final = {"alpha": "a", "juliet": "j", "whisky": "w", "x-ray": "x", "x ray": "x"}
LETTERS: Final = {name: name[0] for name in RADIO} | SPELT
NAME: Final = re.compile(
    rf"\b(?:{'|'.join(sorted(LETTERS, key=len, reverse=True))})\b"
    r"|:regional_indicator_([a-z]):|\bLATIN (?:SMALL|CAPITAL) LETTER ([A-Z])\b",
    re.IGNORECASE,
)
# Hardly a word has none of four vowels; looking for these is ten times as fast as for all names.
SIGNS: Final = ("alfa", "alpha", "echo", "india", "oscar", "regional_indicator_", "latin ")
GAP: Final = re.compile(r"[\W_]{0,8}")
# The first three of them are a list.
FEW: Final = 4


def named(text: str) -> list[Edit]:
    """Names of letters, one behind the other, that spell English words."""
    lower = text.lower()
    if not any(name in lower for name in SIGNS):
        return []
    runs: list[list[re.Match[str]]] = [[]]
    for m in NAME.finditer(text):
        last = runs[-1]
        if last and GAP.fullmatch(text, last[-1].end(), m.start()) is None:
            runs.append([m])
        else:
            last.append(m)
    return [edit for run in runs if len(run) >= FEW and (edit := _spelt(text, run))]


def _spelt(text: str, run: list[re.Match[str]]) -> Edit | None:
    gaps = [text[one.end() : other.start()] for one, other in pairwise(run)]
    ((usual, _),) = Counter(gaps).most_common(1)
    joined = ""
    for m, gap in zip(run, [*gaps, ""], strict=True):
        letter = m[1] or m[2] or LETTERS[m[0].lower()]
        joined += letter.lower() + ("" if gap in (usual, "") else " ")
    # In the order of the alphabet they are a list.
    row = sum(ord(other) - ord(one) == 1 for one, other in pairwise(joined))
    said = spelled(joined) if 2 * row < len(joined) else None
    return None if said is None else Edit(run[0].start(), run[-1].end(), said)
