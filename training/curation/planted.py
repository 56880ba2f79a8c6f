"""The stage ``tamis train plant``: how many wrong labels are found that are known to be wrong.

Labels of real rows are flipped at random in sources that hold both labels. Then every method ranks
the rows by how wrong their label looks, and says which it would drop: entropy cleaning, the same
without the entropy (the loss mixture of Arazo et al. 2019), and confident learning (cleanlab,
Northcutt et al. 2021) on cross-validated probabilities of a logistic regression. All three read
the same frozen embeddings. Precision has a ceiling: real data has wrong labels of its own, which
count as false alarms here.

Beside it, for the paper's open question 2, how much of the noise lies in the share of rows with the
highest losses that hard-sample selection drops.
"""

import hashlib
import json
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from training.curation import clean, entropy, hard, stage
from training.curation.embedding import SentenceEncoder
from training.curation.entropy import Recipe
from training.curation.features import features
from training.datasets.mixing import Variant
from training.datasets.schema import Row, fingerprint
from training.evaluation.metrics import average_precision

# Without a flip nothing should be dropped: what a refusal has to see.
SHARES: Final = (0.0, 0.05, 0.1, 0.2)
METHODS: Final = ("entropy", "loss mixture", "confident learning")
SEEDS: Final = 3
# Of the method "entropy", where the recipe leaves it out.
ENTROPY_WEIGHT: Final = 0.3
FOLDS: Final = 5
_HITS: Final = ("precision", "recall")
_SHOWN: Final = ("flips_dropped", "flips_in_hard", "hard_flipped")


def plant(
    data: Sequence[Path],
    out: Path,
    recipe: Recipe | None = None,
    variant: Variant = "permissive",
    seeds: int = SEEDS,
    limit: int | None = None,
    encoder: SentenceEncoder | None = None,
) -> dict[str, Any]:
    """Write ``planted.json``, ``planted.md`` and a histogram for each share; returns the figures.

    What is finished is kept in ``out/runs``: interrupted, the same call goes on.

    Args:
        data: folders of rows.
        out: folder of figures and plots.
        recipe: of entropy cleaning.
        variant: which rows.
        seeds: plantings of each share.
        limit: at most so many rows of each target, drawn at random.
        encoder: whose embeddings all methods read.

    Raises:
        StageError: where no source holds rows enough of both labels.
    """
    recipe = recipe or Recipe()
    began = time.monotonic()
    entries = stage.read(data, variant)
    chosen = plantable([entry.row for entry in entries], limit)
    rows = [entries[n].row for n in chosen]
    if not rows:
        raise stage.StageError("plant: no source holds rows enough of both labels")
    encoder = encoder or SentenceEncoder()
    inputs = features(entries, encoder, out / "embeddings")[chosen]
    identity = f"{asdict(recipe)} {encoder.base.name} {encoder.base.sha256} {fingerprint(rows)}"
    found: list[dict[str, Any]] = []
    # Without flips one seed is enough: only the networks differ.
    bar = tqdm([(s, n) for s in SHARES for n in range(seeds if s else 1)], desc="plant")
    for share, seed in bar:
        digest = hashlib.sha256(f"{identity} {share} {seed}".encode()).hexdigest()[:24]
        path = out / "runs" / f"{digest}.json"
        if not path.exists() or (seed == 0 and not _image(out, share).exists()):
            runs = _planting(rows, inputs, recipe, share, seed, _image(out, share))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(runs) + "\n", encoding="utf-8")
        found += json.loads(path.read_text(encoding="utf-8"))
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "command": _command(variant, seeds, limit),
        # Of all legs of an interrupted run, embedding not counted.
        "seconds_of_methods": round(sum(_seconds(found).values()), 1),
        "recipe": asdict(recipe) | {"entropy_weight": recipe.entropy_weight or ENTROPY_WEIGHT},
        "by": clean.BY,
        "encoder": {"name": encoder.base.name, "sha256": encoder.base.sha256},
        "variant": variant,
        "limit": limit,
        "seeds": seeds,
        "rows": {t: sum(r.target == t for r in rows) for t in sorted({r.target for r in rows})},
        "sources": sorted({clean.group_of(row, "source") for row in rows}),
        "data_sha256": fingerprint(rows),
        "runs": found,
    }
    out.mkdir(parents=True, exist_ok=True)
    stage.save_report(out, report, began)
    (out / "report.json").rename(out / "planted.json")
    (out / "planted.md").write_text(table(report) + "\n", encoding="utf-8")
    return report


def plantable(rows: Sequence[Row], limit: int | None) -> list[int]:
    """Which rows are of sources that hold both labels: elsewhere the source alone betrays a flip.

    With a limit at most so many of each target, drawn at random.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for n, one in enumerate(stage.asked(rows)):
        if one:
            groups.setdefault((rows[n].target, rows[n].source), []).append(n)
    by_target: dict[str, list[int]] = {}
    for (target, _), group in groups.items():
        unsafe = sum(rows[n].label for n in group)
        fewest = min(unsafe, len(group) - unsafe)
        if len(group) >= clean.FEWEST_ROWS and fewest >= clean.FEWEST_OF_A_LABEL:
            by_target.setdefault(target, []).extend(group)
    out: list[int] = []
    for _, some in sorted(by_target.items()):
        if limit is not None and limit < len(some):
            some = np.random.default_rng(0).choice(some, limit, replace=False).tolist()
        out += sorted(some)
    return out


def _planting(
    rows: Sequence[Row], inputs: np.ndarray, recipe: Recipe, share: float, seed: int, image: Path
) -> list[dict[str, Any]]:
    """Every method on one planting, by target."""
    labels = np.array([row.label for row in rows])
    flipped = np.random.default_rng(seed).random(len(rows)) < share
    noisy = np.where(flipped, 1 - labels, labels)
    targets = np.array([row.target for row in rows])
    names = np.array([clean.group_of(row, clean.BY) for row in rows])
    own = replace(recipe, seed=recipe.seed + 100 * seed)
    out: list[dict[str, Any]] = []
    for method in METHODS:
        began = time.monotonic()
        if method == "confident learning":
            scores, dropped = _confident(inputs, noisy, targets)
            separations: dict[str, float] = {}
            refused = dict.fromkeys(set(names.tolist()), False)
        else:
            weight = (recipe.entropy_weight or ENTROPY_WEIGHT) if method == "entropy" else 0.0
            fitted = replace(own, entropy_weight=weight)
            scores = clean.losses_by_target(inputs, noisy, targets.tolist(), fitted)
            dropped, separations, refused = _mixtures(scores, noisy, names, fitted)
            if method == "loss mixture" and seed == 0:
                _plot(image, scores, flipped, targets, share)
        seconds = round(time.monotonic() - began, 1)
        for target in sorted(set(targets.tolist())):
            mine = targets == target
            held = mine & ~np.array([refused[name] for name in names.tolist()])
            of = [name for name in refused if (names[mine] == name).any()]
            out.append(
                {
                    "method": method,
                    "target": target,
                    "share": share,
                    "seed": seed,
                    "rows": int(mine.sum()),
                    "ranking": _ranking(flipped[mine], scores[mine]),
                    # What is dropped where a group's refusal is overruled, and where it is not.
                    "forced": _hits(dropped & mine, flipped & mine),
                    "dropped": _hits(dropped & held, flipped & mine),
                    "separation": {n: round(separations[n], 3) for n in of if n in separations},
                    "refused": [name for name in of if refused[name]],
                    "seconds": seconds,
                }
                | ({"hard": _hard(scores[mine], flipped[mine])} if share else {})
            )
    return out


def _mixtures(
    losses: np.ndarray, labels: np.ndarray, names: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, dict[str, float], dict[str, bool]]:
    """(what the highest clusters hold, Ashman's D, whether it refuses) by group."""
    dropped = np.zeros(len(losses), dtype=bool)
    separations: dict[str, float] = {}
    refused: dict[str, bool] = {}
    for name in sorted(set(names.tolist())):
        mine = np.flatnonzero(names == name)
        cut, reason = clean.decide(losses[mine], labels[mine], recipe)
        refused[name] = reason is not None
        if cut is not None:
            dropped[mine] = cut.suspicious > 0.5
            separations[name] = cut.separation
    return dropped, separations, refused


def _confident(
    inputs: np.ndarray, noisy: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(how wrong each label looks, which are dropped), target by target."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    scores, dropped = np.zeros(len(noisy)), np.zeros(len(noisy), dtype=bool)
    for target in sorted(set(targets.tolist())):
        mine = np.flatnonzero(targets == target)
        # Columns that are 0 for all rows (only responses have a prompt) would only cost time.
        used = inputs[mine][:, inputs[mine].any(axis=0)]
        with warnings.catch_warnings():
            # That it stopped at max_iter, and cleanlab's notes on pandas.
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=0.01, tol=1e-3, max_iter=100)
            chances = cross_val_predict(model, used, noisy[mine], cv=FOLDS, method="predict_proba")
            dropped[mine] = find_label_issues(noisy[mine], chances, n_jobs=1)
            scores[mine] = -get_label_quality_scores(noisy[mine], chances)
    return scores, dropped


def _ranking(flipped: np.ndarray, scores: np.ndarray) -> float | None:
    """Average precision; None where nothing is flipped."""
    return round(average_precision(flipped, scores), 4) if flipped.any() else None


def _hits(dropped: np.ndarray, flipped: np.ndarray) -> dict[str, float]:
    """Precision (0 where nothing is dropped) and recall of what is dropped."""
    hits = int((dropped & flipped).sum())
    return {
        "rows": int(dropped.sum()),
        "precision": round(hits / max(1, int(dropped.sum())), 4),
        "recall": round(hits / max(1, int(flipped.sum())), 4),
    }


def _hard(losses: np.ndarray, flipped: np.ndarray) -> dict[str, dict[str, float]]:
    """Where the flips lie when the share with the highest losses is dropped, by share dropped."""
    out = {}
    for drop in hard.SWEEP:
        found = hard.select(np.exp(losses), drop)
        out[f"{drop:.2f}"] = {
            "flips_dropped": round(float(found.dropped[flipped].mean()), 4),
            "flips_in_hard": round(float(found.hard[flipped].mean()), 4),
            "dropped_flipped": round(float(flipped[found.dropped].mean()), 4),
            "hard_flipped": round(float(flipped[found.hard].mean()), 4) if found.hard.any() else 0,
        }
    return out


def _seconds(found: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], float]:
    """What each method took on each planting: targets are timed together."""
    return {(run["method"], run["share"], run["seed"]): run["seconds"] for run in found}


def _command(variant: Variant, seeds: int, limit: int | None) -> str:
    limited = f" --limit {limit}" if limit is not None else ""
    return f"tamis train plant --data DATA --out OUT --variant {variant} --seeds {seeds}{limited}"


def machine() -> str:
    """The processor, as the system names it, and how many of its cores there are."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def table(found: Mapping[str, Any]) -> str:
    """The figures of ``planted.json`` as Markdown: mean ± sd over the plantings."""
    lines = [
        "| flipped | labels of | method | average precision | precision / recall of its cut "
        "| … where it does not refuse | Ashman's D | groups refused |",
        "|--:|---|---|--:|--:|--:|--:|--:|",
    ]
    runs = found["runs"]
    for share in sorted({run["share"] for run in runs}):
        for target in sorted({run["target"] for run in runs}):
            for method in METHODS:
                mine = [
                    run
                    for run in runs
                    if (run["share"], run["target"], run["method"]) == (share, target, method)
                ]
                if mine:
                    lines.append(_line(share, target, method, mine))
    lines += ["", _hard_table(runs)]
    return "\n".join(lines)


def _line(share: float, target: str, method: str, runs: Sequence[Mapping[str, Any]]) -> str:
    def spread(values: Sequence[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{np.mean(known):.2f} ± {np.std(known):.2f}" if known else "–"

    def both(name: str) -> str:
        if not any(run[name]["rows"] for run in runs):
            return "nothing dropped"
        if not share:
            return f"{np.mean([run[name]['rows'] / run['rows'] for run in runs]):.0%} of the rows"
        return " / ".join(spread([run[name][key] for run in runs]) for key in _HITS)

    distances = [d for run in runs for d in run["separation"].values()]
    # Of groups that have a mixture; small ones have none.
    refused = sum(name in run["separation"] for run in runs for name in run["refused"])
    if method == METHODS[2]:
        rest = "– | – | –"
    else:
        apart = f"{min(distances):.1f}–{max(distances):.1f}" if distances else "–"
        rest = f"{both('dropped')} | {apart} | {refused} of {len(distances)}"
    ranking = spread([run["ranking"] for run in runs])
    return f"| {share:.0%} | {target} | {method} | {ranking} | {both('forced')} | {rest} |"


def _hard_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """What dropping the rows with the highest plain losses does to the noise, all targets."""
    lines = [
        "| flipped | dropped by loss | of the flips, dropped | of the flips, in the hard rows "
        "| of the hard rows, flipped |",
        "|--:|--:|--:|--:|--:|",
    ]
    plain = [run for run in runs if run["method"] == "loss mixture" and run["share"]]
    for share in sorted({run["share"] for run in plain}):
        for drop in hard.SWEEP:
            mine = [run["hard"][f"{drop:.2f}"] for run in plain if run["share"] == share]
            values = [np.mean([m[k] for m in mine]) for k in _SHOWN]
            lines.append(
                f"| {share:.0%} | {drop:.0%} | " + " | ".join(f"{v:.0%}" for v in values) + " |"
            )
    return "\n".join(lines)


def _image(out: Path, share: float) -> Path:
    return out / f"cleaning-{round(100 * share):02d}.png"


def _plot(
    path: Path, losses: np.ndarray, flipped: np.ndarray, targets: np.ndarray, share: float
) -> None:
    """Losses of flipped and other rows, by target, with the mixture fitted to all of them."""
    from matplotlib.figure import Figure

    names = sorted(set(targets.tolist()))
    figure = Figure(figsize=(3.4 * len(names), 2.6), layout="constrained")
    for axes, target in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        mine = targets == target
        cut = entropy.cut(losses[mine], 3)
        clean.draw(axes, losses[mine], cut)
        bins = np.linspace(*axes.get_xlim(), 60).tolist()
        axes.hist(
            entropy.scale(losses[mine & flipped]),
            bins=bins,
            color="tab:red",
            alpha=0.6,
            label="flipped",
        )
        axes.set_title(f"{target}: {share:.0%} flipped, D {cut.separation:.1f}", fontsize=8)
        axes.legend(frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
