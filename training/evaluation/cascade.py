"""Where the fast bundle's scores leave the answer open: bands chosen on rows held out of training.

A band is worth what a second opinion within it changes. Of all bands that ask for a second opinion
of a stated share of rows, that one is taken in which both together rank and decide best: the mean
over sources of average precision and of F1 at each bundle's own thresholds. Across sources a model
may simply recognise the source, so every source counts by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tamis.policy import Thresholds
from tamis.taxonomy import ATTACK, TOXICITY
from tamis.tiers import OVERALL
from tamis.verdict import Finding
from training.datasets.registry import CATEGORIES, QUESTION_OF, source_of
from training.datasets.schema import Row
from training.evaluation import metrics

# Places a band is tried at, from the lowest scores to the highest.
PLACES: Final = 60
# Of a share, so much goes to the question whether a prompt or a post is an attack.
ATTACK_PART: Final = 0.25
# Sources with fewer rows of either label measure nothing.
FEWEST: Final = 5


@dataclass(frozen=True, slots=True)
class Scored:
    """What both bundles say to one question: truth, scores and flags (N,); sources (N,)."""

    truth: np.ndarray
    sources: np.ndarray
    fast: np.ndarray
    accurate: np.ndarray
    flags: tuple[float, float]

    def quality(self, asked: np.ndarray) -> dict[str, float]:
        """Mean average precision and F1 over sources, where the asked rows got a second opinion."""
        scores = np.where(asked, self.accurate, self.fast)
        flagged = scores >= np.where(asked, self.flags[1], self.flags[0])
        found = []
        for source in np.unique(self.sources):
            mine = self.sources == source
            truth, said = self.truth[mine], flagged[mine]
            if min(truth.sum(), (~truth).sum()) < FEWEST:
                continue
            hits = (truth & said).sum()
            f1 = metrics.f1(hits / max(said.sum(), 1), hits / truth.sum())
            found.append((metrics.average_precision(truth, scores[mine]), f1))
        ap, f1 = np.mean(found, axis=0) if found else (0.0, 0.0)
        return {"average_precision": round(float(ap), 4), "f1": round(float(f1), 4)}


def choose(
    rows: Sequence[Row],
    fast: Sequence[Finding],
    accurate: Sequence[Finding],
    own: tuple[Mapping[str, Thresholds], Mapping[str, Thresholds]],
    share: float,
) -> dict[str, Any]:
    """Bands by question as ``cascade.json`` holds them, and what was measured of them.

    Args:
        rows: held out of the training of both.
        fast: what the one bundle says of them.
        accurate: what the other one does.
        own: the bundles' thresholds by head.
        share: of each question's rows, so many at most are asked twice.
    """
    bands: dict[str, dict[str, list[float]]] = {}
    measured: dict[str, Any] = {}
    for question in ("prompt", "response", TOXICITY):
        at = [n for n, row in enumerate(rows) if QUESTION_OF[row.target] == question]
        if not at:
            continue
        mine = [fast[n] for n in at]
        found: dict[str, list[float]] = {}
        asked = np.zeros(len(at), dtype=bool)
        for score, head in ((ATTACK, ATTACK), (OVERALL, question)):
            if score == ATTACK and question == "response":
                continue
            labels = np.array([_label(rows[n], head) for n in at])
            known = (labels == 0) | (labels == 1)
            first = _scores(mine, score)
            scored = Scored(
                truth=labels[known] == 1,
                sources=np.array([rows[n].source for n in at])[known],
                fast=first[known],
                accurate=_scores([accurate[n] for n in at], score)[known],
                flags=(own[0][head].flag, own[1][head].flag),
            )
            left = share * ATTACK_PART if score == ATTACK else share - asked.mean()
            band = _best(scored, first, left) if known.any() else None
            if band is None:
                continue
            inside = _within(first, band)
            asked |= inside
            found[score] = [float(limit) for limit in band]
            nobody = np.zeros(known.sum(), dtype=bool)
            measured.setdefault(question, {})[score] = {
                "rows": int(known.sum()),
                "fast": scored.quality(nobody),
                "cascade": scored.quality(inside[known]),
                "accurate": scored.quality(~nobody),
            }
        if found:
            bands[question] = found
            safe = np.array([not rows[n].label for n in at])
            measured[question]["asked_twice"] = round(float(asked.mean()), 4)
            measured[question]["asked_twice_of_safe"] = round(float(asked[safe].mean()), 4)
    return {"bands": bands, "share": share, "rows": len(rows), "measured": measured}


def better_told(fast: Mapping[str, Any], accurate: Mapping[str, Any]) -> list[str]:
    """Categories that the fast bundle tells better, or alone, by the F1 that manifests state.

    Both were held out the same rows. A body that is better at what is unsafe may have seen too
    little of a rare category to tell it from others.
    """
    mine, theirs = (
        {head["name"]: head["f1"] for head in manifest["heads"] if head["name"] in CATEGORIES}
        for manifest in (fast, accurate)
    )
    return [name for name, f1 in mine.items() if f1 > theirs.get(name, 0.0)]


def _label(row: Row, head: str) -> float:
    return source_of(row).labels_of(row).get(head, -1.0)


def _scores(findings: Sequence[Finding], score: str) -> np.ndarray:
    return np.array([(f.attack if score == ATTACK else f.overall) or 0.0 for f in findings])


def _within(scores: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    return np.asarray((scores >= band[0]) & (scores <= band[1]))


def _best(scored: Scored, scores: np.ndarray, share: float) -> tuple[float, float] | None:
    """The best band that holds this share of scores; None where none is better than no band."""
    count = len(scores)
    width = int(share * count)
    if width < 1:
        return None
    order = np.sort(scores)
    best, worth = None, _worth(scored, np.zeros(len(scored.fast), dtype=bool))
    for start in np.unique(np.linspace(0, count - width, PLACES).astype(int)):
        band = float(order[start]), float(order[start + width - 1])
        # Equal scores may make a band wider than it should be.
        if _within(scores, band).mean() > share:
            continue
        if (found := _worth(scored, _within(scored.fast, band))) > worth:
            best, worth = band, found
    return best


def _worth(scored: Scored, asked: np.ndarray) -> float:
    quality = scored.quality(asked)
    return quality["average_precision"] + quality["f1"]
