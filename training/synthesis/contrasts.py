"""Contrasts: small groups of rows, written by hand, that share words and differ in what they ask.

Where the line runs is learnt from pairs that differ in little else (contrast sets, Gardner et al.
2020): "destroy old bank statements" beside "destroy the books before the audit", one sentence about
six groups of people. They are labelled under the guide of all rows with a severity, and
committed as seeds are (``contrasts/*.jsonl``): short, mild, and without a detail of any harm.

Beside them everyday requests, answers and posts in other languages than English
(``languages/*.jsonl``, a file for each), in groups or alone: public sets hold next to none; and
what people ordinarily send in them (``ordinary/*.jsonl``), all of it safe, which says how often
that alarms. And what tools and pages return, with and without words for the model
(``documents/*.jsonl``). All of these calibrate and measure as well.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from training.datasets.contamination import Seen
from training.datasets.schema import parse_row, write_lines

# The source that each folder's rows are of (``sources.yaml``).
SOURCES: Final = {
    "contrasts": "tamis_contrasts",
    "languages": "written_languages",
    "ordinary": "ordinary_languages",
    "documents": "tamis_documents",
}
FILE: Final = "contrasts.jsonl.gz"


def contrasts(kinds: Iterable[str] = SOURCES) -> Iterator[dict[str, Any]]:
    """Every row of the kinds, in the data schema."""
    for kind in kinds:
        folder = files("training.synthesis").joinpath(kind)
        for file in sorted(folder.iterdir(), key=lambda each: each.name):
            yield from _rows(file, SOURCES[kind])


def _rows(file: Traversable, source: str) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
        about = {"id": f"{source}-{digest[:16]}", "source": source, "licence": "permissive"}
        # What a tool returned has no severity: the schema reads its label from `attack`.
        label = {"label": int(raw["severity"] == 2)} if "severity" in raw else {}
        yield raw | about | label


def write(out: Path, exclude: Path | None = None) -> tuple[int, int]:
    """Write ``out/contrasts.jsonl.gz``; returns (rows written, rows that ``exclude`` repeats).

    A row that meets the evaluation sets of ``exclude`` takes its whole group with it: what is left
    of a contrast teaches one side of it.

    Raises:
        FileNotFoundError, SchemaError: of the excluded sets, see ``Seen.of``.
    """
    seen = Seen() if exclude is None else Seen.of(exclude)
    rows = [(raw, json.dumps(raw, ensure_ascii=False)) for raw in contrasts()]
    met = {raw["group"] for raw, line in rows if seen.meets(parse_row(line, FILE))}
    kept = [line for raw, line in rows if raw["group"] not in met]
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / FILE, kept)
    return len(kept), len(rows) - len(kept)
