"""Write the tables of misspelt words: words of harm, and words that only look like misspelt ones.

    python -m scripts.telling_words DATA DICTIONARY...

DATA is the folder of data sets that training reads: only prompts under permissive licences count.
A DICTIONARY is a list of words, one a line (``/usr/share/dict/*-english`` of Debian's packages
wamerican and wbritish 2020.12.07, which are SCOWL): it says which strange words are words.
Nothing of a row is kept but that a word stands in many harmful ones.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scripts.reading_tables import write_words
from tamis.reading.lexicon import known, words
from tamis.reading.misspelt import LEAST, SHORT, candidates, guess, keys
from training.datasets.mixing import is_held_out
from training.datasets.schema import read_rows

FILES: Final = ("annotated/annotated", "train/prompt")
WORD: Final = re.compile(f"[a-z]{{{SHORT},}}")
BEGINNING: Final = 600
# A word tells of harm by odds of 3 to 1 in some rows, or of 2 to 1 in so many that it is sure.
SOME, MANY = 6, 25
ODDS, SURE = 3.0, 2.0
# By rank: commoner words tell nothing, and are misspelt most.
USUAL: Final = 450
# Twice in harmless rows is no slip of the pen.
TWICE: Final = 2


def counted(data: Path) -> tuple[dict[bool, Counter[str]], dict[bool, int]]:
    """In how many harmless and harmful prompts each word stands, and how many there are."""
    found: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    rows = {False: 0, True: 0}
    for name in FILES:
        for row in read_rows(data / f"{name}.jsonl.gz"):
            foreign = row.lang or row.licence not in (None, "permissive")
            if row.target != "prompt" or foreign or is_held_out(row):
                continue
            harmful = bool(row.label or row.attack)
            rows[harmful] += 1
            found[harmful].update(set(WORD.findall(row.prompt[:BEGINNING].lower())))
    return found, rows


def telling(data: Path, dictionary: set[str]) -> tuple[list[str], Counter[str]]:
    """Words of harm, and how often each word stands in harmless rows."""
    found, rows = counted(data)
    ranks, chosen = words(), []
    for word, n in found[True].items():
        strange = not known(word) and word not in dictionary
        if len(word) < LEAST or strange or ranks.get(word, USUAL) < USUAL:
            continue
        odds = (n + 0.5) / rows[True] / ((found[False][word] + 0.5) / rows[False])
        if (n >= SOME and odds > ODDS) or (n >= MANY and odds > SURE):
            chosen.append(word)
    return sorted(chosen), found[False]


def alike(chosen: list[str], dictionary: set[str], harmless: Counter[str]) -> Iterator[str]:
    """Words, and names, that look like misspelt ones and are meant."""
    index = keys(chosen)
    for word in sorted(dictionary | {word for word, n in harmless.items() if n >= TWICE}):
        if known(word) or word in index.words:
            continue
        if any(candidates(word, index, SHORT)) or guess(word) is not None:
            yield word


def main(data: Path, *dictionaries: Path) -> None:
    """Write both."""
    lines = [line for path in dictionaries for line in path.read_text("utf-8").splitlines()]
    listed = {line.lower() for line in lines if line.isascii() and line.isalpha()}
    chosen, harmless = telling(data, listed)
    write_words("telling.txt.gz", chosen)
    write_words("alike.txt.gz", list(alike(chosen, listed, harmless)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
