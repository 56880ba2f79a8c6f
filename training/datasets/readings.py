"""Labels by reading: rows of public sources whose own label did not survive being read.

``readings.tsv`` holds ids and labels, no text: whoever has the data can check each. The guide is
that of the rows with a severity (``schema.Row``); what was read outranks what the source says.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast

from tamis.taxonomy import taxonomy
from training.datasets.schema import Row, Stance

FILE: Final = "readings.tsv"
PROFANITY: Final = "profanity"
_unread: ContextVar[bool] = ContextVar("unread", default=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader says of a row: see ``Row`` for the fields."""

    severity: int
    categories: tuple[str, ...]
    stance: Stance | None
    attack: bool | None


def parse(line: Mapping[str, str]) -> Reading:
    """One line of the table, by column.

    Raises:
        ValueError: naming the row's id and what is wrong.
    """
    where = f"{FILE}: {line['id']}"
    if line["severity"] not in ("0", "1", "2"):
        raise ValueError(f"{where}: severity must be 0, 1 or 2")
    if line["stance"] not in ("", "refuses", "deflects", "complies"):
        raise ValueError(f"{where}: no such stance: {line['stance']!r}")
    if line["attack"] not in ("", "0", "1"):
        raise ValueError(f"{where}: attack must be 0, 1 or empty")
    categories = tuple(filter(None, line["categories"].split(",")))
    taxonomy().check(name for name in categories if name != PROFANITY)
    return Reading(
        severity=int(line["severity"]),
        categories=categories,
        stance=cast("Stance", line["stance"]) if line["stance"] else None,
        attack=None if line["attack"] == "" else line["attack"] == "1",
    )


@cache
def readings() -> Mapping[str, Reading]:
    """Every reading by the id of its row.

    Raises:
        ValueError: where a line is not one, or a row was read twice.
    """
    found: dict[str, Reading] = {}
    text = files("training.datasets").joinpath(FILE).read_text(encoding="utf-8")
    for line in csv.DictReader(text.splitlines(), delimiter="\t"):
        if line["id"] in found:
            raise ValueError(f"{FILE}: {line['id']} was read twice")
        found[line["id"]] = parse(line)
    return found


def as_read(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, those that were read with what the reading says in place of their labels."""
    known = {} if _unread.get() else readings()
    for row in rows:
        reading = known.get(row.id)
        yield row if reading is None else _corrected(row, reading)


@contextmanager
def unread() -> Iterator[None]:
    """Within, rows keep their own labels: for ablations, which say what the readings are worth."""
    token = _unread.set(True)
    try:
        yield
    finally:
        _unread.reset(token)


def _corrected(row: Row, reading: Reading) -> Row:
    changes: dict[str, Any] = {name: getattr(reading, name) for name in Reading.__slots__}
    return replace(row, label=int(reading.severity == 2), **changes)
