"""Which generated requests become rows: those whose intended label the judge confirms."""

import json
from collections import Counter
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.adversarial.rewards import complexity, of_label
from training.curation.judge import Judge
from training.datasets.schema import data_files, read_pairs, write_lines

EXAMPLES: Final = 20
DISAGREES: Final = "the judge disagrees"


def survivors(
    candidates: Path,
    out: Path,
    classifier: Judge,
    judge: Judge,
    gate: float,
    made: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``out/rows.jsonl.gz``; returns counts, and ids with reasons.

    Rows carry what the judge thought of their label and how hard they are, in fields that the
    schema ignores. ``made`` is the report of their synthesis, whose rejected ones are named, too.
    """
    pairs = [pair for path in data_files(candidates) for pair in read_pairs(path)]
    lines, rows = [line for line, _ in pairs], [row for _, row in pairs]
    judged = np.array([of_label(p, r.label) for p, r in zip(judge.unsafe(rows), rows, strict=True)])
    known = np.array(
        [of_label(p, r.label) for p, r in zip(classifier.unsafe(rows), rows, strict=True)]
    )
    kept = judged >= gate
    out.mkdir(parents=True, exist_ok=True)
    worth = (
        json.loads(lines[n])
        | {"judge": round(float(judged[n]), 4), "complexity": _hardness(known[n])}
        for n in np.flatnonzero(kept)
    )
    write_lines(out / "rows.jsonl.gz", (json.dumps(row, ensure_ascii=False) for row in worth))
    dropped = [
        {"id": rows[n].id, "reason": DISAGREES, "judge": round(float(judged[n]), 4)}
        for n in np.flatnonzero(~kept)
    ]
    by_filter = [
        [{"id": name, "reason": reason} for name in ids]
        for reason, ids in made["dropped_ids"].items()
    ]
    # Of every reason in turn, so that the commonest does not fill the list alone.
    turns = [e for found in zip_longest(dropped, *by_filter) for e in found if e is not None]
    return {
        "candidates": len(rows),
        "kept": int(kept.sum()),
        "by_label": dict(Counter(str(rows[n].label) for n in np.flatnonzero(kept))),
        "candidates_by_label": dict(Counter(str(row.label) for row in rows)),
        "agreement": round(float((judged >= 0.5).mean()), 4),
        "wrong_for_classifier": {
            "candidates": round(float((known < 0.5).mean()), 4),
            "kept": round(float((known[kept] < 0.5).mean()), 4) if kept.any() else None,
        },
        "survived": [
            {
                "id": rows[n].id,
                "judge": round(float(judged[n]), 4),
                "complexity": _hardness(known[n]),
            }
            for n in np.flatnonzero(kept)[:EXAMPLES]
        ],
        "rejected": turns[:EXAMPLES],
    }


def _hardness(probability: float) -> float:
    return round(complexity(float(probability)), 4)
