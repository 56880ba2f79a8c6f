"""Padded rows: a short text that was read, among calm sentences, with the label that it had.

Most training texts are harmful or harmless from end to end, so a classifier learns to judge a text
by all of it: an insult beside one calm sentence fell from .84 to .45, because its very tokens are
read in the light of their neighbours. Harmless texts are padded alike, or calm company would
itself be a sign.

And requests and answers behind an exchange about something else: rows with earlier turns are few,
and their last turn mostly goes on with the topic, so that half of the innocent requests after an
answered harmful one were flagged; later, with ordinary exchanges before requests alone, 42 of 100
innocent last turns after an alarming exchange (16 without it). An old topic says nothing of a new
one, and half of the exchanges are alarming: a harmful answer, or a request that was refused.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.datasets import mixing
from training.datasets.schema import Row, write_lines

SOURCE: Final = "tamis_padded"
FILE: Final = "padded.jsonl.gz"
# Ordinary requests and answers; what is benign in other sources is the twin of something harmful.
CALM: Final = ("dolly_sub", "gpteacher_roleplay", "oasst_100trees_user")
TARGETS: Final = ("prompt", "text", "response")
SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n+")
# Words of a text that is worth padding, and of a calm sentence.
CORE: Final = 40
SENTENCE_WORDS: Final = (4, 30)
# Calm words around a text: evenly by their logarithm, from a sentence to about a window.
LEAST, MOST = 8, 150
# One request in so many is put behind other turns, rather than among sentences; answers all are.
BEHIND: Final = 3
# So many of the exchanges that others are put behind are alarming.
ALARMING: Final = 0.5


def write(data: Sequence[Path], out: Path, count: int, seed: int = 0) -> int:
    """Write ``out/padded.jsonl.gz``; returns how many rows there are.

    Both are drawn from English rows that are trained on: what is held out stays unseen.

    Raises:
        ValueError: where the data has no short rows that were read, or no calm ones.
    """
    rows, _ = mixing.split(mixing.load(data, "permissive"))
    rows = [row for row in rows if row.english and not row.context]
    calm = [*_sentences(rows)]
    cores = [row for row in rows if _is_core(row)]
    if not cores or not calm:
        raise ValueError("padded: the data has no short rows that were read, or none that are calm")
    draw = np.random.default_rng(seed)
    answers = [row for row in rows if row.target == "response"]
    alarming = [row for row in answers if row.label or row.stance == "refuses"]
    made: dict[str, dict[str, Any]] = {}
    for n, i in enumerate(draw.permutation(len(cores))[:count]):
        row = cores[i]
        if row.target == "response" or (answers and n % BEHIND == 0 and row.target == "prompt"):
            padded = _row(row, row.prompt, _exchanges(answers, alarming, draw))
        else:
            padded = _row(row, _among(row, calm, draw))
        made[padded["id"]] = padded
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / FILE, map(json.dumps, made.values()))
    return len(made)


def drawn(
    sentences: Sequence[str], wanted: int, count: Callable[[str], int], draw: np.random.Generator
) -> list[str]:
    """Sentences in random order until ``count`` of them (words, tokens) is ``wanted`` or more."""
    found: list[str] = []
    while wanted > 0:
        found.append(sentences[int(draw.integers(len(sentences)))])
        wanted -= count(found[-1])
    return found


def _sentences(rows: Sequence[Row]) -> Iterator[str]:
    shortest, longest = SENTENCE_WORDS
    for row in rows:
        if row.source in CALM and not row.label:
            for sentence in SENTENCE.split(row.judged):
                if shortest <= len(sentence.split()) <= longest:
                    yield sentence.strip()


def _is_core(row: Row) -> bool:
    read = row.severity is not None and row.target in TARGETS
    return read and 0 < len(row.judged.split()) <= CORE


def _exchanges(
    answers: Sequence[Row], alarming: Sequence[Row], draw: np.random.Generator
) -> list[str]:
    """The turns of one exchange or of two."""
    turns: list[str] = []
    for _ in range(int(draw.integers(1, 3))):
        some = alarming if alarming and draw.random() < ALARMING else answers
        row = some[int(draw.integers(len(some)))]
        turns += [row.prompt, row.judged]
    return turns


def _among(row: Row, calm: Sequence[str], draw: np.random.Generator) -> str:
    wanted = round(float(np.exp(draw.uniform(np.log(LEAST), np.log(MOST)))))
    around = drawn(calm, wanted, lambda sentence: len(sentence.split()), draw)
    at = int(draw.integers(len(around) + 1))
    core = row.prompt.strip()
    core = core if core[-1] in ".!?…\"'" else f"{core}."
    return " ".join([*around[:at], core, *around[at:]])


def _row(row: Row, text: str, turns: Sequence[str] = ()) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join([*turns, text]).encode()).hexdigest()
    return {
        "id": f"{SOURCE}-{digest[:16]}",
        "source": SOURCE,
        "target": row.target,
        "label": row.label,
        "prompt": text,
        "response": row.response,
        "stance": row.stance,
        "categories": list(row.categories),
        "licence": row.licence,
        "severity": row.severity,
        "attack": row.attack,
        # On the side of the split where the text is that it was made of.
        "group": row.group or row.prompt,
        "context": [{"content": turn} for turn in turns],
    }
