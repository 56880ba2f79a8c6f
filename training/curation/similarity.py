"""The stage ``tamis train similar``: synthetic rows that look like real ones, and no copies.

A synthetic row is kept where its nearest real row of the same target has a cosine of at least τ
(the first paper's "sim-to-real", τ = 0.60) and below ``NEAR``; from there it repeats that row. Of
such rows that repeat one another the first is kept.
"""

import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.curation.embedding import SentenceEncoder
from training.datasets.mixing import Variant
from training.datasets.schema import Row, data_files, read_pairs, read_rows, write_lines

TAU: Final = 0.60
NEAR: Final = 0.95
# Thresholds whose shares a report gives, so that τ can be chosen from it.
TRIED: Final = (0.4, 0.5, 0.6, 0.7, 0.8)
BLOCK: Final = 2048
EXAMPLES: Final = 20


def nearest(texts: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest cosine and its index for unit vectors: (n, d) against (m, d) → (n,), (n,).

    Without others the cosine is -1.
    """
    best = np.full(len(texts), -1.0, dtype=np.float32)
    where = np.full(len(texts), -1, dtype=np.int64)
    for at in range(0, len(texts), BLOCK):
        block = texts[at : at + BLOCK]
        for start in range(0, len(others), 8 * BLOCK):
            cosines = block @ others[start : start + 8 * BLOCK].T
            index = cosines.argmax(axis=1)
            value = cosines[np.arange(len(block)), index]
            better = value > best[at : at + BLOCK]
            best[at : at + BLOCK][better] = value[better]
            where[at : at + BLOCK][better] = index[better] + start
    return best, where


def repeats(texts: np.ndarray, near: float) -> np.ndarray:
    """Which texts come after one that is kept and at least ``near`` to it: (n, d) → (n,) bool."""
    kept = np.zeros_like(texts)
    count = 0
    out = np.zeros(len(texts), dtype=bool)
    for at in range(0, len(texts), BLOCK):
        block = texts[at : at + BLOCK]
        earlier, _ = nearest(block, kept[:count])
        within = block @ block.T >= near
        for n in range(len(block)):
            # Only texts that are kept themselves can make others repeats.
            out[at + n] = earlier[n] >= near or (within[n, :n] & ~out[at : at + n]).any()
            if not out[at + n]:
                kept[count] = block[n]
                count += 1
    return out


def similar(
    real: Path,
    synthetic: Path,
    out: Path,
    tau: float = TAU,
    near: float = NEAR,
    variant: Variant = "permissive",
    encoder: SentenceEncoder | None = None,
) -> dict[str, Any]:
    """Write ``out/rows.jsonl.gz``, ``report.json`` and ``similarity.png``; returns the report.

    Embeddings are kept in ``out/embeddings``: interrupted, the same call does not repeat them.

    Raises:
        ValueError: for thresholds that leave nothing between them.
    """
    if not -1 <= tau < near <= 1:
        raise ValueError("similar: thresholds must be -1 <= tau < near <= 1")
    began = time.monotonic()
    encoder = encoder or SentenceEncoder()
    pairs = [(line, row) for path in data_files(synthetic) for line, row in read_pairs(path)]
    rows = [row for _, row in pairs]
    genuine = [row for path in data_files(real) for row in read_rows(path)]
    genuine = [r for r in genuine if variant == "all" or r.licence == "permissive"]
    cosine = np.full(len(rows), -1.0, dtype=np.float32)
    repeated = np.zeros(len(rows), dtype=bool)
    neighbours = [""] * len(rows)
    cache = out / "embeddings"
    for target in sorted({row.target for row in rows}):
        mine = [n for n, row in enumerate(rows) if row.target == target]
        theirs = [row for row in genuine if row.target == target]
        vectors = encoder.embed([rows[n].judged for n in mine], cache, f"synthetic {target}")
        others = encoder.embed([row.judged for row in theirs], cache, f"real {target}")
        cosine[mine], index = nearest(vectors, others)
        for n, found in zip(mine, index, strict=True):
            neighbours[n] = theirs[found].id if found >= 0 else ""
        # Of two that repeat each other the one is kept that has no other reason to go.
        fit = (cosine[mine] >= tau) & (cosine[mine] < near)
        repeated[np.array(mine)[fit]] = repeats(vectors[fit], near)

    reasons = _reasons(cosine, repeated, tau, near)
    out.mkdir(parents=True, exist_ok=True)
    kept = (line for (line, _), reason in zip(pairs, reasons, strict=True) if not reason)
    write_lines(out / "rows.jsonl.gz", kept)
    report = _report(pairs, len(genuine), cosine, repeated, reasons, neighbours, tau, near)
    report["encoder"] = {"name": encoder.base.name, "sha256": encoder.base.sha256}
    report["variant"] = variant
    report["seconds"] = round(time.monotonic() - began, 1)
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _plot(out / "similarity.png", [_maker(line) for line, _ in pairs], cosine, tau, near)
    return report


def _reasons(cosine: np.ndarray, repeated: np.ndarray, tau: float, near: float) -> Sequence[str]:
    """Why each row is dropped; empty where it is kept."""
    return [
        "unlike anything real"
        if value < tau
        else "repeats a real row"
        if value >= near
        else "repeats a synthetic row"
        if again
        else ""
        for value, again in zip(cosine.tolist(), repeated.tolist(), strict=True)
    ]


def _maker(line: str) -> str:
    return str(json.loads(line).get("generator", "unknown"))


def _report(
    pairs: Sequence[tuple[str, Row]],
    real: int,
    cosine: np.ndarray,
    repeated: np.ndarray,
    reasons: Sequence[str],
    neighbours: Sequence[str],
    tau: float,
    near: float,
) -> dict[str, Any]:
    extra = [json.loads(line) for line, _ in pairs]

    def survivors(chosen: np.ndarray) -> dict[str, float]:
        total = max(1, int(chosen.sum()))
        kept = chosen & (cosine < near) & ~repeated
        return {f"{t:.1f}": round(float((kept & (cosine >= t)).sum()) / total, 4) for t in TRIED}

    groups = {}
    for name in ("generator", "task", "tier", "target", "label"):
        values = np.array([str(e.get(name, "unknown")) for e in extra])
        groups[name] = {v: survivors(values == v) for v in sorted(set(values.tolist()))}
    # category/subtopic/hash, where sexual/minors has a slash of its own.
    sections = np.array([str(e.get("leaf", "unknown")).rsplit("/", 2)[0] for e in extra])
    groups["category"] = {v: survivors(sections == v) for v in sorted(set(sections.tolist()))}
    examples: dict[str, list[dict[str, Any]]] = {}
    for (_, row), value, reason, neighbour in zip(pairs, cosine, reasons, neighbours, strict=True):
        found = examples.setdefault(reason or "kept", [])
        if len(found) < EXAMPLES:
            found.append({"id": row.id, "nearest": neighbour, "cosine": round(float(value), 3)})
    return {
        "tau": tau,
        "near": near,
        "rows": {"synthetic": len(pairs), "real": real, "kept": sum(not r for r in reasons)},
        "reasons": dict(Counter(reason or "kept" for reason in reasons)),
        "surviving_share_by_tau": survivors(np.ones(len(pairs), dtype=bool)) | {"by": groups},
        "quantiles": {
            str(q): round(float(np.quantile(cosine, q)), 3) for q in (0.05, 0.25, 0.5, 0.75, 0.95)
        }
        if len(cosine)
        else {},
        "examples": examples,
    }


def _plot(path: Path, makers: list[str], cosine: np.ndarray, tau: float, near: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    bins = np.linspace(0, 1, 51).tolist()
    for name in sorted(set(makers)):
        values = cosine[np.array(makers) == name]
        # Shares, or a small generator would not be seen beside a large one.
        weights = np.full(len(values), 1 / len(values))
        label = f"{name} ({len(values):,})"
        axes.hist(values, bins=bins, weights=weights, histtype="step", linewidth=1.5, label=label)
    for value, name in ((tau, f"τ = {tau:g}"), (near, f"near = {near:g}")):
        axes.axvline(value, color="black", linestyle="--", linewidth=1)
        axes.text(value, axes.get_ylim()[1], name, ha="center", va="bottom", fontsize=8)
    axes.set_xlabel("cosine to the nearest real row")
    axes.set_ylabel("share of synthetic rows")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
