"""Rows with slips of the pen: a text that was read, misspelt as attackers and people do.

A classifier that scores a request at .98 let it pass with two typing errors in words that do not
count. Reading (``tamis.reading``) corrects most slips; what it leaves (words of three letters,
slips that make other words, two in one word) is what a model has to have seen. Served, a text is
judged as it stands and as it reads, so half of the rows are the one and half the other, of harmful
and harmless texts alike: else slips would themselves be a sign.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tamis.reading import read
from training.datasets import mixing
from training.datasets.schema import Row, write_lines

SOURCE: Final = "tamis_slips"
FILE: Final = "slips.jsonl.gz"
TARGETS: Final = ("prompt", "text")
WORD: Final = re.compile(r"[A-Za-z]{3,}")
# Words of a text that is worth it; and the share of them that is misspelt, one at least.
WORDS: Final = (4, 80)
SHARE: Final = (0.08, 0.35)
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
LOOKS: Final = str.maketrans("aeiocpxy", "аеіосрху")
SIGNS: Final = str.maketrans("aeiost", "431057")
# Signs that are put into a word; nothing at all is the likeliest of what is typed.
CUTS: Final = (" ", "-", ".", "*", "\u200b")


def write(data: Sequence[Path], out: Path, count: int, seed: int = 0) -> int:
    """Write ``out/slips.jsonl.gz``; returns how many rows there are.

    They are drawn from English rows that are trained on: what is held out stays unseen.

    Raises:
        ValueError: where the data has no rows that were read.
    """
    rows, _ = mixing.split(mixing.load(data, "permissive"))
    rows = [row for row in rows if _is_worth_it(row)]
    if not rows:
        raise ValueError("slips: the data has no short rows that were read")
    draw = np.random.default_rng(seed)
    made: dict[str, dict[str, Any]] = {}
    # Harmful and harmless ones in turns, as far as both go.
    ranked = [rows[n] for n in draw.permutation(len(rows))]
    labels = [[row for row in ranked if row.label == label] for label in (0, 1)]
    for row in [row for pair in zip(*labels, strict=False) for row in pair][:count]:
        text = misspelt(row.prompt, draw)
        if draw.random() < 0.5:
            text = read(text).views[-1].text
        if text != row.prompt:
            line = _line(replace(row, prompt=text), row)
            made[line["id"]] = line
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / FILE, map(json.dumps, made.values()))
    return len(made)


def misspelt(text: str, draw: np.random.Generator) -> str:
    """A text with slips in some of its words."""
    found = list(WORD.finditer(text))
    share = draw.uniform(*SHARE)
    chosen = draw.permutation(len(found))[: max(1, round(share * len(found)))]
    parts, at = [], 0
    for n in sorted(chosen.tolist()):
        parts += [text[at : found[n].start()], _slip(found[n][0], draw)]
        at = found[n].end()
    return "".join([*parts, text[at:]])


def _slip(word: str, draw: np.random.Generator) -> str:
    at = int(draw.integers(0, len(word) - 1))
    before, letter, behind = word[:at], word[at], word[at + 1 :]
    moves = (
        before + behind[0] + letter + behind[1:],
        before + behind,
        before + letter + letter + behind,
        before + LETTERS[int(draw.integers(26))] + behind,
        before + letter + CUTS[int(draw.integers(len(CUTS)))] + behind,
        word.translate(LOOKS),
        word.translate(SIGNS),
    )
    return moves[int(draw.integers(len(moves)))]


def _is_worth_it(row: Row) -> bool:
    shortest, longest = WORDS
    english = row.english and not row.context
    return (
        english
        and row.severity is not None
        and row.target in TARGETS
        and shortest <= len(WORD.findall(row.prompt)) <= longest
    )


def _line(row: Row, origin: Row) -> dict[str, Any]:
    digest = hashlib.sha256(row.prompt.encode()).hexdigest()
    return {
        "id": f"{SOURCE}-{digest[:16]}",
        "source": SOURCE,
        "target": row.target,
        "label": row.label,
        "prompt": row.prompt,
        "response": None,
        "categories": list(row.categories),
        "licence": row.licence,
        "severity": row.severity,
        "attack": row.attack,
        # On the side of the split where the text is that it was made of.
        "group": origin.group or origin.prompt,
    }
