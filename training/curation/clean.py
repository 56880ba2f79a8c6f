"""The stage ``tamis train clean``: entropy cleaning of a mixture of rows, with its own refusal.

Rows of one target share a network, since their labels answer one question. By default each source
has a mixture of its own (see docs/lab-log.md for the measurements): what is an outlier of one
source is everyday business in another.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from training.curation import entropy, stage
from training.curation.embedding import SentenceEncoder
from training.curation.entropy import Cut, Recipe
from training.curation.features import features
from training.datasets.mixing import Variant
from training.datasets.schema import Row

By = Literal["source", "target", "all"]
BY: Final[By] = "source"
# Fewer rows, or fewer of either label, carry no mixture of three.
FEWEST_ROWS: Final = 500
FEWEST_OF_A_LABEL: Final = 50
# A cluster of more than this share is not "the anomalies", whatever its mean.
MINORITY: Final = 1 / 3
# Histograms in the plot: of the largest groups.
PANELS: Final = 12


def clean(
    data: Sequence[Path],
    out: Path,
    recipe: Recipe | None = None,
    variant: Variant = "permissive",
    by: By = BY,
    force: bool = False,
    encoder: SentenceEncoder | None = None,
) -> dict[str, Any]:
    """Write the rows whose labels hold, ``report.json`` and ``losses.png``; returns the report.

    Rows whose label does not answer the overall question are kept unasked. Where a group's
    clusters are not told apart, or the highest is no minority, nothing of it is dropped and the
    report says so (the paper's break condition), unless ``force``. Embeddings are kept in
    ``out/embeddings``: interrupted, the same call does not repeat them.

    Args:
        data: folders of rows: the mixture of real and synthetic ones.
        out: folder of what is kept.
        recipe: how the losses come about and are cut.
        variant: which rows.
        by: one mixture for each source and target, for each target, or one for all.
        force: drop the highest cluster even of groups that refuse, where there is a mixture at all.
        encoder: whose embeddings the networks read.

    Raises:
        StageError: for folders that cannot be used.
    """
    recipe = recipe or Recipe()
    began = time.monotonic()
    entries = stage.read(data, variant)
    stage.prepare(out, entries, data)
    rows = [entry.row for entry in entries]
    asked = np.flatnonzero(stage.asked(rows))
    judged = [rows[n] for n in asked]
    encoder = encoder or SentenceEncoder()
    inputs = features(entries, encoder, out / "embeddings")[asked]
    labels = np.array([row.label for row in judged])
    losses = losses_by_target(inputs, labels, [row.target for row in judged], recipe)

    bad = np.zeros(len(judged), dtype=bool)
    groups: dict[str, dict[str, Any]] = {}
    cuts: dict[str, tuple[np.ndarray, Cut]] = {}
    names = np.array([group_of(row, by) for row in judged])
    for name in sorted(set(names.tolist())):
        mine = np.flatnonzero(names == name)
        cut, refused = decide(losses[mine], labels[mine], recipe)
        if cut is not None:
            cuts[name] = (losses[mine], cut)
            if refused is None or force:
                bad[mine] = cut.suspicious > 0.5
        groups[name] = {
            "rows": len(mine),
            "unsafe": int(labels[mine].sum()),
            "dropped": int(bad[mine].sum()),
            "refused": refused,
            "mixture": cut and cut.as_json(),
        }
    dropped = np.zeros(len(rows), dtype=bool)
    dropped[asked] = bad
    report = {
        "recipe": asdict(recipe),
        "encoder": {"name": encoder.base.name, "sha256": encoder.base.sha256},
        "variant": variant,
        "by": by,
        "forced": force,
        "rows": {
            "read": len(rows),
            "asked": len(judged),
            "dropped": int(dropped.sum()),
            "kept": int((~dropped).sum()),
        },
        "groups": groups,
        "dropped_by": stage.counts_by(rows, dropped),
        "most_suspicious": _most(judged, losses),
        "most_suspicious_dropped": _most(judged, np.where(bad, losses, -np.inf)),
    }
    plot(out / "losses.png", cuts)
    return stage.finish(out, entries, ~dropped, report, began)


def losses_by_target(
    inputs: np.ndarray, labels: np.ndarray, targets: Sequence[str], recipe: Recipe
) -> np.ndarray:
    """(n,): the log-loss of each row under the networks of its target."""
    out = np.zeros(len(labels))
    for target in sorted(set(targets)):
        mine = np.array(targets) == target
        out[mine] = entropy.losses(inputs[mine], labels[mine], recipe)
    return out


def group_of(row: Row, by: By) -> str:
    """The name of the mixture that a row belongs to."""
    return {"source": f"{row.source}/{row.target}", "target": row.target, "all": "all"}[by]


def decide(losses: np.ndarray, labels: np.ndarray, recipe: Recipe) -> tuple[Cut | None, str | None]:
    """(mixture, refusal) of one group's log-losses: None where there is none."""
    if len(losses) < FEWEST_ROWS:
        return None, f"{len(losses)} rows, fewer than {FEWEST_ROWS}"
    fewest = int(min(labels.sum(), (1 - labels).sum()))
    if fewest < FEWEST_OF_A_LABEL:
        return None, f"{fewest} rows of one label, fewer than {FEWEST_OF_A_LABEL}"
    cut = entropy.cut(losses, recipe.components, recipe.seed)
    return cut, refusal(cut)


def refusal(cut: Cut) -> str | None:
    """Why a cut means nothing; None where it holds."""
    if not cut.holds:
        return f"not told apart: Ashman's D {cut.separation:.2f}, under {entropy.SEPARATE:g}"
    if cut.means[-1] <= 0:
        return "the highest cluster agrees with its labels more often than not"
    if cut.weights[-1] > MINORITY:
        return f"the highest cluster holds {cut.weights[-1]:.0%}, over {MINORITY:.0%}"
    return None


def _most(rows: Sequence[Row], losses: np.ndarray) -> list[dict[str, Any]]:
    order = [int(n) for n in np.argsort(-losses, kind="stable")[: stage.EXAMPLES]]
    return [
        {"id": rows[n].id, "label": rows[n].label, "loss": round(float(np.exp(losses[n])), 3)}
        for n in order
        if np.isfinite(losses[n])
    ]


def plot(path: Path, cuts: Mapping[str, tuple[np.ndarray, Cut]]) -> None:
    """Histograms of the largest groups' losses with the densities fitted to them."""
    from matplotlib.figure import Figure

    largest = sorted(cuts.items(), key=lambda item: -len(item[1][0]))[:PANELS]
    across = min(4, max(1, len(largest)))
    down = max(1, -(-len(largest) // across))
    figure = Figure(figsize=(3 * across, 2.3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    for axes in panels:
        axes.set_visible(False)
    for axes, (name, (losses, cut)) in zip(figure.axes, largest, strict=False):
        axes.set_visible(True)
        draw(axes, losses, cut)
        axes.set_title(f"{name} (D {cut.separation:.1f})", fontsize=7)
    figure.savefig(path, dpi=100)


def draw(axes: Any, losses: np.ndarray, cut: Cut) -> None:
    """One histogram of what the mixture was fitted to, and its components."""
    values = entropy.scale(losses)
    _, bins, _ = axes.hist(values, bins=60, color="#bbbbbb")
    at = np.linspace(bins[0], bins[-1], 200)
    unit = len(values) * (bins[1] - bins[0])
    for mean, deviation, weight in zip(cut.means, cut.deviations, cut.weights, strict=True):
        density = np.exp(-0.5 * ((at - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))
        axes.plot(at, unit * weight * density, linewidth=1)
    axes.tick_params(labelsize=6)
    axes.set_xlabel("log-odds of the other label", fontsize=6)
