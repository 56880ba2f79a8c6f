"""What is written of a judged row: one JSON object a line, and the sums over all of them."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from service.bulk.rows import Row
from service.dialects.native import verdict_json
from tamis.verdict import Action, Verdict


@dataclass(slots=True)
class Counts:
    """Rows by what became of them."""

    allow: int = 0
    flag: int = 0
    block: int = 0
    errors: int = 0

    def count(self, verdict: Verdict | None) -> None:
        """Count one row; None is one that could not be judged."""
        match verdict and verdict.action:
            case None:
                self.errors += 1
            case Action.ALLOW:
                self.allow += 1
            case Action.FLAG:
                self.flag += 1
            case Action.BLOCK:
                self.block += 1

    def add(self, other: Self) -> None:
        """Count what another one counted."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def rows(self) -> int:
        """All of them."""
        return self.allow + self.flag + self.block + self.errors

    def __str__(self) -> str:
        faulty = f", {self.errors:,} not judged" if self.errors else ""
        return (
            f"{self.rows:,} rows: {self.allow:,} allowed, {self.flag:,} flagged, "
            f"{self.block:,} blocked{faulty}"
        )


def line(row: Row, verdict: Verdict | None, *, keep: bool, evidence: bool) -> bytes:
    """One line of output, with its end.

    ``row`` (its number in the input, from 0) and ``id`` come first, then ``kept`` where columns
    pass through, then the verdict as ``POST /moderate`` gives it, without ``timings``; or ``error``
    with the ``field`` at fault and a ``message``.
    """
    out: dict[str, Any] = {"row": row.number, "id": row.id}
    if keep:
        out["kept"] = row.kept
    if verdict is None:
        assert row.error is not None
        out["error"] = {"field": row.error.field, "message": row.error.message}
    else:
        said = verdict_json(verdict, None, None)
        del said["id"]
        if not evidence:
            del said["evidence"]
        out |= said
    text = json.dumps(out, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"
