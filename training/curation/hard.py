"""The stage ``tamis train hard``: rows that a converged classifier finds hard, less the noise.

The first paper (2507.08284): train for at least three epochs, drop the fifth of the rows with the
highest loss as noise, keep what of the rest lies above the mean loss. Here the mean is taken over
the rest, not over all rows: of a converged classifier the losses of a few rows are so high that
their mean lies above the cut, and nothing would be left. Targets are cut one by one, since each has
a head, and a loss, of its own. A loss is what lies above the least that a row's label allows, or
rows whose label is a share would all be hard.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.curation import stage
from training.curation.checkpoint import Checkpoint, epochs_of
from training.datasets.mixing import Variant
from training.datasets.schema import Row

DROP: Final = 0.20
# The paper's open question 2: is a fifth the right share?
SWEEP: Final = (0.10, 0.15, 0.20, 0.25)
EPOCHS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Selection:
    """One target's cuts: above ``noise`` a row is noise, at most ``mean`` it is easy."""

    noise: float
    mean: float
    dropped: np.ndarray
    """(n,) bool."""
    hard: np.ndarray
    """(n,) bool."""


def select(losses: np.ndarray, drop: float) -> Selection:
    """Cut losses (n,): the top share is noise; of the rest, what lies above its mean is hard.

    Ties at the cut are decided by order, so that exactly the share is dropped.
    """
    count = round(drop * len(losses))
    order = np.argsort(-losses, kind="stable")
    dropped = np.zeros(len(losses), dtype=bool)
    dropped[order[:count]] = True
    rest = losses[~dropped]
    mean = float(rest.mean()) if len(rest) else 0.0
    noise = float(losses[order[count - 1]]) if count else float("inf")
    return Selection(noise, mean, dropped, ~dropped & (losses > mean))


def hard(
    data: Sequence[Path],
    out: Path,
    checkpoint: Path,
    drop: float = DROP,
    variant: Variant = "permissive",
    limit: int | None = None,
) -> dict[str, Any]:
    """Write the hard rows, ``report.json`` and ``losses.png``; returns the report.

    Rows that answer no question are left out. Losses are kept in ``out/losses``: interrupted, or
    with another share, the same call does not compute them again.

    Args:
        data: folders of rows.
        out: folder of the hard rows.
        checkpoint: the classifier; the paper's has seen three epochs.
        drop: share of the rows with the highest loss, of each target, that is taken for noise.
        variant: which rows.
        limit: only so many rows, drawn at random.

    Raises:
        StageError: for a share that means nothing, or folders that cannot be used.
        CheckpointError: where the classifier is not all there.
    """
    if not 0 <= drop < 1:
        raise stage.StageError("hard: --drop must be at least 0 and below 1")
    began = time.monotonic()
    entries = stage.read(data, variant)
    if limit is not None and limit < len(entries):
        chosen = np.random.default_rng(0).choice(len(entries), limit, replace=False)
        entries = [entries[n] for n in sorted(chosen)]
    stage.prepare(out, entries, data)
    model = Checkpoint(checkpoint)
    epochs = epochs_of(checkpoint)
    warning = None
    if epochs is None or epochs < EPOCHS:
        seen = "for how many epochs is not on record" if epochs is None else f"{epochs:g} epochs"
        warning = (
            f"{model.name} was trained for fewer than {EPOCHS:g} epochs, or it cannot be told "
            f"({seen}): rows that it has not learnt yet look hard"
        )
    rows = [entry.row for entry in entries]
    # Losses that were kept by versions which did not subtract the least are made anew.
    who = f"above the least {model.sha256} {model.training.get('pooling')}"
    losses = stage.in_shards(rows, model.losses, out / "losses", who, "losses")
    dropped = np.zeros(len(rows), dtype=bool)
    kept = np.zeros(len(rows), dtype=bool)
    cuts: dict[str, Selection] = {}
    targets: dict[str, Any] = {}
    asked = np.isfinite(losses)
    names = np.array([row.target for row in rows])
    for target in sorted({row.target for row in rows}):
        mine = np.flatnonzero(asked & (names == target))
        if not len(mine):
            continue
        found = cuts[target] = select(losses[mine], drop)
        dropped[mine], kept[mine] = found.dropped, found.hard
        labels = np.array([rows[n].label for n in mine])
        targets[target] = {
            "rows": len(mine),
            "cut": _cut(found, labels),
            "sweep": sweep(losses[mine], labels),
        }
    report = {
        "checkpoint": {"name": model.name, "sha256": model.sha256, "epochs": epochs},
        "warning": warning,
        "drop": drop,
        "variant": variant,
        "rows": {
            "read": len(rows),
            "unasked": int((~asked).sum()),
            "dropped": int(dropped.sum()),
            "hard": int(kept.sum()),
            "easy": int((asked & ~dropped & ~kept).sum()),
        },
        "targets": targets,
        "hard_by": stage.counts_by(rows, kept),
        "dropped_by": stage.counts_by(rows, dropped),
        "examples": {
            name: _highest(rows, losses, chosen)
            for name, chosen in (("dropped", dropped), ("hard", kept))
        },
    }
    _plot(out / "losses.png", {t: losses[asked & (names == t)] for t in cuts}, cuts)
    return stage.finish(out, entries, kept, report, began)


def sweep(losses: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
    """What other shares would select of one target, and how much it overlaps with a fifth's."""
    usual = select(losses, DROP).hard
    out = {}
    for share in SWEEP:
        found = select(losses, share)
        together, either = (found.hard & usual).sum(), (found.hard | usual).sum()
        out[f"{share:.2f}"] = _cut(found, labels) | {
            "overlap_with_0.20": round(float(together / max(1, either)), 4)
        }
    return out


def _cut(found: Selection, labels: np.ndarray) -> dict[str, float]:
    def unsafe(chosen: np.ndarray) -> float:
        return round(float(labels[chosen].mean()), 4) if chosen.any() else 0.0

    return {
        "noise_above": round(found.noise, 4),
        "mean_of_rest": round(found.mean, 4),
        "dropped": int(found.dropped.sum()),
        "hard": int(found.hard.sum()),
        "dropped_unsafe_share": unsafe(found.dropped),
        "hard_unsafe_share": unsafe(found.hard),
    }


def _highest(rows: Sequence[Row], losses: np.ndarray, chosen: np.ndarray) -> list[dict[str, Any]]:
    order = [int(n) for n in np.argsort(-np.where(chosen, losses, -np.inf))[: stage.EXAMPLES]]
    return [
        {"id": rows[n].id, "label": rows[n].label, "loss": round(float(losses[n]), 3)}
        for n in order
        if chosen[n]
    ]


def _plot(path: Path, losses: Mapping[str, np.ndarray], cuts: Mapping[str, Selection]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * max(1, len(losses)), 3), layout="constrained")
    panels = figure.subplots(1, max(1, len(losses)), squeeze=False)[0]
    bins = np.geomspace(1e-3, 20, 60).tolist()
    for axes, (target, values) in zip(panels, losses.items(), strict=False):
        axes.hist(np.clip(values, bins[0], bins[-1]), bins=bins, color="#888888")
        axes.axvline(cuts[target].mean, color="tab:green", label="mean of the rest")
        if np.isfinite(cuts[target].noise):
            axes.axvline(cuts[target].noise, color="tab:red", label="noise above")
        axes.set(
            xscale="log", title=f"{target} ({len(values):,} rows)", xlabel="loss above the least"
        )
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("rows")
    figure.savefig(path, dpi=100)
