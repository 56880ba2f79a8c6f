"""The stage ``tamis train judge``: rows whose label an independent judge does not contradict."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.curation import stage
from training.curation.judge import Judge
from training.curation.stage import Entry

CONFIDENCE: Final = 0.8
# An endpoint answers some rows a second, so less may be lost than an encoder's shard.
SHARD: Final = 256
# Fields of generated rows that the schema ignores, and what to call rows without them.
MADE_BY: Final = ("generator", "task", "tier")
NOT_MADE: Final = "none"


def judge(
    rows: Sequence[Path],
    out: Path,
    who: Judge,
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """Write the rows that hold, and ``report.json``; returns the report.

    A row is dropped where the judge says the opposite of its label with at least ``confidence``.
    Rows whose label does not answer the overall question are kept unasked. What the judge has said
    is kept in ``out/judged``: interrupted, the same call does not ask again.

    Args:
        rows: folders of rows.
        out: folder of what is kept.
        who: the judge.
        confidence: above 0.5, at most 1.

    Raises:
        StageError: for a confidence that means nothing, or folders that cannot be used.
    """
    if not 0.5 < confidence <= 1:
        raise stage.StageError("judge: --confidence must be above 0.5 and at most 1")
    began = time.monotonic()
    entries = stage.read(rows, "all")
    stage.prepare(out, entries, rows)
    asked = stage.asked([entry.row for entry in entries])
    mine = [entry for entry, one in zip(entries, asked, strict=True) if one]
    judged = [entry.row for entry in mine]
    unsafe = stage.in_shards(
        judged, who.unsafe, out / "judged", f"{who.name} {who.identity}", f"judge {who.name}", SHARD
    )
    against = opposed(unsafe, np.array([row.label for row in judged]))
    kept = np.ones(len(entries), dtype=bool)
    kept[asked] = against < confidence
    report = {
        "judge": who.name,
        "confidence": confidence,
        "rows": {
            "read": len(entries),
            "judged": len(judged),
            "kept": int(kept.sum()),
            "dropped": int((~kept).sum()),
        },
        "overall": _rates(against, confidence),
        "by": _by(mine, against, confidence),
        "examples": _examples(mine, unsafe, against, confidence),
    }
    return stage.finish(out, entries, kept, report, began)


def opposed(unsafe: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,): the probability a judge gives to the opposite of each label."""
    return np.where(labels == 1, 1 - unsafe, unsafe)


def _rates(against: np.ndarray, confidence: float) -> dict[str, float]:
    """Agreement, open contradiction, and what lies between, as shares of the rows."""
    count = max(1, len(against))
    return {
        "rows": len(against),
        "agrees": round(float((against < 0.5).sum()) / count, 4),
        "undecided": round(float((against == 0.5).sum()) / count, 4),
        "disagrees": round(float((against > 0.5).sum()) / count, 4),
        "dropped": round(float((against >= confidence).sum()) / count, 4),
    }


def _by(
    entries: Sequence[Entry], against: np.ndarray, confidence: float
) -> dict[str, dict[str, dict[str, float]]]:
    extra = [json.loads(entry.line) for entry in entries]
    found: dict[str, list[str]] = {
        "source": [entry.row.source for entry in entries],
        "target": [entry.row.target for entry in entries],
        "label": [str(entry.row.label) for entry in entries],
        # category/subtopic/hash, where sexual/minors has a slash of its own.
        "category": [str(e.get("leaf", f"{NOT_MADE}//")).rsplit("/", 2)[0] for e in extra],
    }
    for name in MADE_BY:
        found[name] = [str(e.get(name, NOT_MADE)) for e in extra]
    return {
        name: {v: _rates(against[np.array(values) == v], confidence) for v in sorted(set(values))}
        for name, values in found.items()
    }


def _examples(
    entries: Sequence[Entry], unsafe: np.ndarray, against: np.ndarray, confidence: float
) -> dict[str, list[dict[str, Any]]]:
    """The surest contradictions, and the first of the kept."""
    order = np.argsort(-against, kind="stable")
    dropped = [int(n) for n in order if against[n] >= confidence][: stage.EXAMPLES]
    kept = [n for n in range(len(entries)) if against[n] < confidence][: stage.EXAMPLES]
    return {
        name: [
            {
                "id": entries[n].row.id,
                "label": entries[n].row.label,
                "unsafe": round(float(unsafe[n]), 3),
            }
            for n in chosen
        ]
        for name, chosen in (("dropped", dropped), ("kept", kept))
    }
