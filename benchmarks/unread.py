"""Both kinds of mistakes on texts whose author saw the guide alone (``tests/data/unread``).

Public sets are years old, and what is written here is written against mistakes that were seen.
These are neither: nobody learns from them, and no rule is made of what is wrong with them. They
stand on the page of ``benchmarks/overblocking.py``, which judges them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.rows import Judged, Row, read

ROWS: Final = Path(__file__).parents[1] / "tests" / "data" / "unread"
SEVERITIES: Final = {2: "unsafe, flagged", 1: "borderline, flagged", 0: "safe, flagged"}


def rows(folder: Path = ROWS) -> dict[Row, int]:
    """All texts and their severities."""
    found = {}
    for raw in read(folder):
        severity = raw.pop("severity")
        found[Row(**raw)] = severity
    return found


def shares(judged: Sequence[Judged], severities: Mapping[Row, int]) -> dict[int, tuple[int, int]]:
    """By severity: how many were flagged, of how many."""
    found = {}
    for severity in SEVERITIES:
        some = [one.flagged for one in judged if severities[one.row] == severity]
        found[severity] = sum(some), len(some)
    return found


def table(
    named: Mapping[str, Sequence[Judged]], severities: Mapping[Row, int]
) -> list[dict[str, str]]:
    """A line for each group and judge, and for all of a judge's."""
    lines = []
    for group in [*dict.fromkeys(row.group for row in severities), "all"]:
        for who, judged in named.items():
            some = [one for one in judged if group in (one.row.group, "all")]
            counts = shares(some, severities)
            cells = {said: "{} of {}".format(*counts[level]) for level, said in SEVERITIES.items()}
            lines.append({"seen by nobody": group, "judged by": who, **cells})
    return lines
