"""From which fast scores on a second opinion is worth asking: chosen on rows held out of training.

What is unsafe is rare in traffic, so what a cascade costs is how often it asks of *safe* texts. Of
all bands up to the highest score that hold no more than a stated share of those, that one is taken
in which both bundles together rank and decide best: the mean over sources of average precision and
of F1 at each bundle's own thresholds. Across sources a model may simply recognise the source, so
every source counts by itself. Whatever the fast bundle would flag lies within: a false alarm at .95
is heard again like one at .55, which a band around the threshold left alone.
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

# Places a band is tried to begin at.
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
        share: of each question's safe rows, so many at most are asked twice.
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
        safe = np.array([not rows[n].label for n in at])
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
            left = share * ATTACK_PART if score == ATTACK else share - asked[safe].mean()
            band = _best(scored, int(left * (~scored.truth).sum()))
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


def _best(scored: Scored, most: int) -> tuple[float, float] | None:
    """From which score on both together are best; None where nowhere better than the fast one.

    No more than ``most`` safe rows reach it.
    """
    safe = np.sort(scored.fast[~scored.truth])[::-1]
    best, worth = None, _worth(scored, np.zeros(len(scored.fast), dtype=bool))
    for count in np.unique(np.linspace(1, most, PLACES).astype(int)) if most else ():
        low = float(safe[count - 1])
        # Equal scores may let in more than there should be.
        if (safe >= low).sum() > most:
            continue
        if (found := _worth(scored, scored.fast >= low)) > worth:
            best, worth = (low, 1.0), found
    return best


def _worth(scored: Scored, asked: np.ndarray) -> float:
    quality = scored.quality(asked)
    return quality["average_precision"] + quality["f1"]
