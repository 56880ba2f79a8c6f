"""The stage ``tamis train disagree``: rows whose label a classifier contradicts most confidently.

A list to be read by a person, not a filter: of the rows where a trained classifier and a source
disagree, some are hard, some are wrong, and some show that the source's label means another thing.
Every source and either direction get their share, or one noisy set would fill the list.
"""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.curation import stage
from training.curation.checkpoint import CheckpointJudge
from training.datasets.mixing import Variant
from training.datasets.readings import readings
from training.datasets.registry import source_of
from training.datasets.schema import Row, write_lines

FILE = "disagreements.jsonl.gz"


def disagree(
    data: Sequence[Path],
    out: Path,
    checkpoint: Path,
    count: int = 1500,
    variant: Variant = "permissive",
    limit: int | None = None,
) -> dict[str, Any]:
    """Write ``disagreements.jsonl.gz`` (rows with ``said``) and ``report.json``; returns it.

    Args:
        data: folders of rows; synthetic ones, and those that were read already, are left out.
        out: folder of the list.
        checkpoint: a calibrated classifier that has not learnt these rows by heart.
        count: how many rows at the most.
        variant: which rows.
        limit: only so many rows are asked about, drawn at random.

    Raises:
        StageError: for folders that cannot be used.
        CheckpointError: where the classifier is not all there.
    """
    began = time.monotonic()
    entries = [entry for entry in stage.read(data, variant) if _unread(entry.row)]
    keep = stage.asked([entry.row for entry in entries])
    entries = [entry for entry, known in zip(entries, keep, strict=True) if known]
    if limit is not None and limit < len(entries):
        drawn = np.random.default_rng(0).choice(len(entries), limit, replace=False)
        entries = [entries[n] for n in sorted(drawn)]
    judge = CheckpointJudge(checkpoint)
    rows = [entry.row for entry in entries]
    said = stage.in_shards(rows, judge.unsafe, out / "said", judge.identity, "ask")
    labels = np.array([row.label for row in rows])
    against = np.where(labels == 1, 1 - said, said)
    chosen = select([(r.source, r.target, r.label) for r in rows], against, count)
    lines = [
        json.dumps(json.loads(entries[n].line) | {"said": round(float(said[n]), 4)}) for n in chosen
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / FILE, lines)
    picked = np.zeros(len(rows), dtype=bool)
    picked[chosen] = True
    report = {
        "checkpoint": {"name": judge.name, "sha256": judge.sha256},
        "rows": {"asked": len(rows), "listed": len(chosen)},
        "contradicted": int((against > 0.5).sum()),
        "listed_by": stage.counts_by(rows, picked),
    }
    return stage.save_report(out, report, began)


def select(groups: Sequence[Any], against: np.ndarray, count: int) -> list[int]:
    """At most ``count`` contradicted rows: the surest of every group in turn, surest groups last.

    A group gives one row a round until it has none above one half.
    """
    waiting: dict[Any, list[int]] = defaultdict(list)
    for n in np.argsort(-against, kind="stable"):
        if against[n] > 0.5:
            waiting[groups[n]].append(int(n))
    chosen: list[int] = []
    turn = 0
    while len(chosen) < count and any(len(queue) > turn for queue in waiting.values()):
        chosen += [queue[turn] for queue in waiting.values() if len(queue) > turn]
        turn += 1
    return chosen[:count]


def _unread(row: Row) -> bool:
    return row.severity is None and row.id not in readings() and not source_of(row).synthetic
