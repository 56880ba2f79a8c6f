"""When a second opinion is worth asking, and what both opinions come to: by held-out rows.

Two bundles err in different places, so where both were asked neither stands alone: their logits are
weighed together, question by question, and thresholds are chosen for what that gives as they are
for a bundle's own scores (``thresholds``). Before that, a text was flagged where *both* would flag
it, and recall fell below that of either.

What is unsafe is rare in traffic, so what a cascade costs is how often it asks of *safe* texts. Of
all bands up to the highest score that hold no more than a stated share of those, that one is taken
in which both together rank and decide best: the mean over sources of average precision and of F1.
Across sources a model may simply recognise the source, so every source counts by itself. Whatever
the fast bundle would flag lies within: a false alarm at .95 is heard again like one at .55, which a
band around the threshold left alone. Of what tools and pages say every second opinion is asked: the
fast bundle ranks new documents little better than chance would, and an agent that waits for a tool
can wait for that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tamis.deciding import as_answered
from tamis.policy import Thresholds
from tamis.taxonomy import ATTACK, DOCUMENT, REFUSAL, SEVERITY, TOXICITY
from tamis.tiers import OVERALL, Bands, Weighing, logit
from tamis.verdict import Finding, Second
from training.classifier.calibration import fit_logistic, limits
from training.classifier.thresholds import TARGETS, Chosen, Name, Scored, Target
from training.datasets import mixing
from training.datasets.registry import CATEGORIES, QUESTION_OF, source_of
from training.datasets.schema import Row
from training.evaluation import metrics

# Two opinions leave alarms to spare, which a prompt's threshold spends on recall as an answer's.
# Documents without an attack are twins of those with one here, most of them louder than those: to
# stop one in 25 of them would let more than half of the attacks pass.
LIMITS: Final[Mapping[str, Mapping[Name, Target]]] = {
    **TARGETS,
    "prompt": TARGETS["response"],
    DOCUMENT: {
        "strict": Target(alarms=0.2, cost=0.1),
        "balanced": Target(alarms=0.1, cost=0.05, early=True),
        "loose": Target(alarms=0.04, cost=0.1),
    },
}
# Sources with fewer rows of either label measure nothing.
FEWEST: Final = 5


@dataclass(frozen=True, slots=True)
class Opinions:
    """Of the rows that answer a head's question: what is true, and what each opinion says; (N,)."""

    head: str
    at: np.ndarray
    """Which rows."""
    truth: np.ndarray
    weight: np.ndarray
    sources: np.ndarray
    declines: np.ndarray
    fast: np.ndarray
    accurate: np.ndarray
    together: np.ndarray
    how: Weighing
    flags: Mapping[str, float]
    """By opinion."""

    def quality(self, opinion: str, asked: np.ndarray) -> dict[str, float]:
        """Mean average precision and F1 over sources, where the asked rows have this opinion."""
        scores = np.where(asked, getattr(self, opinion), self.fast)
        flagged = scores >= np.where(asked, self.flags[opinion], self.flags["fast"])
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

    def precision(self, asked: np.ndarray) -> float:
        """Mean average precision over sources, where the asked rows have both opinions."""
        return self.quality("together", asked)["average_precision"]

    def chosen(self) -> Chosen:
        """Thresholds of both opinions together, as if they were given on all rows.

        Of the asked ones alone they would depend on where the band happens to begin: below it no
        threshold alarms, so that low ones look as good as any.
        """
        scored = Scored(self.together, self.truth * 1.0, self.weight)
        return limits(self.head, scored, self.sources, self.declines, LIMITS)


@dataclass(frozen=True, slots=True)
class Judged:
    """Held-out rows that are telling, and what two bundles say of each, by their own thresholds."""

    rows: Sequence[Row]
    fast: Sequence[Finding]
    accurate: Sequence[Finding]
    own: tuple[Mapping[str, Thresholds], Mapping[str, Thresholds]]

    def opinions(self, head: str, given: Mapping[str, Weighing]) -> Opinions | None:
        """Of the rows that answer a head's question, with both opinions weighed.

        ``given`` is how other heads are: what an answer scores depends on whether it declines. None
        where rows are too few of either label to say anything.
        """
        labels = np.array([_label(row, head) for row in self.rows])
        at = np.flatnonzero((labels == 0) | (labels == 1))
        known: list[int] = at.tolist()
        if min((labels[at] == 1).sum(), (labels[at] == 0).sum()) < FEWEST:
            return None
        truth, weight = labels[at], mixing.probabilities(list(self.rows))[at]
        mine, theirs = [self.fast[n] for n in known], [self.accurate[n] for n in known]
        z = [[logit(score(f, head)) for f in found] for found in (mine, theirs)]
        (first, second), bias = fit_logistic(np.array(z).T, truth, weight)
        mine_own, their_own = (own[_asks(head)] for own in self.own)
        how = Weighing(first, second, bias, their_own)
        both = Bands("", "", {}, weighed={**given, head: how})
        who = Second("", "", self.own[1])
        together = [
            both.settle(f, replace(g, second=who), self.own[0])
            for f, g in zip(mine, theirs, strict=True)
        ]
        rows = [self.rows[n] for n in known]

        def said(findings: Sequence[Finding]) -> np.ndarray:
            return np.array([score(as_answered(one), head) for one in findings])

        found = Opinions(
            head=head,
            at=at,
            truth=truth == 1,
            weight=weight,
            sources=np.array([f"{row.source}/{row.target}" for row in rows]),
            declines=np.array([source_of(row).labels_of(row).get(REFUSAL) == 1 for row in rows]),
            fast=said(mine),
            accurate=said(theirs),
            together=said(together),
            how=how,
            flags={"fast": mine_own.flag, "accurate": their_own.flag},
        )
        flag = found.chosen().sets["balanced"].flag
        return replace(found, flags={**found.flags, "together": flag})


def telling(rows: Sequence[Row]) -> list[Row]:
    """English ones of sources that calibrate.

    Both bundles were taught English; another judges what they cannot read.
    """
    return [row for row in rows if row.english and source_of(row).calibrates]


def _label(row: Row, head: str) -> float:
    """What is true of a row by a head: 0 to 1; -1 where it does not say."""
    if (row.target == "document") != (head == DOCUMENT):
        return -1.0
    return source_of(row).labels_of(row).get(_asks(head), -1.0)


def choose(judged: Judged, share: float) -> dict[str, Any]:
    """Bands and weights as ``cascade.json`` holds them, and what was measured of them.

    ``share``: of each question's safe rows, so many at most are asked twice.
    """
    opinions: dict[str, Opinions] = {}
    refusal: dict[str, Weighing] = {}
    for head in (REFUSAL, "prompt", "response", TOXICITY, ATTACK, SEVERITY, DOCUMENT):
        if (told := judged.opinions(head, refusal)) is not None:
            opinions[head] = told
        if head == REFUSAL and told is not None:
            sets = told.chosen().sets["balanced"]
            refusal = {head: replace(told.how, thresholds=Thresholds(sets.flag, sets.block))}
    asks = np.array([_asked(row) for row in judged.rows])
    scores = np.array([finding.overall for finding in judged.fast])
    asked = np.zeros(len(asks), dtype=bool)
    bands: dict[str, dict[str, list[float]]] = {}
    for question in sorted(opinions.keys() & set(asks)):
        told, mine = opinions[question], asks == question
        safe = scores[told.at[mine[told.at] & ~told.truth]]
        low = 0.0 if question == DOCUMENT else _lowest(safe, share)
        inside = mine & (scores >= low)
        if told.precision(inside[told.at]) > told.precision(np.zeros(len(told.at), dtype=bool)):
            bands[_asks(question)] = {OVERALL: [low, 1.0]}
            asked |= inside
    heard = {head: told for head, told in opinions.items() if asked[told.at].any()}
    return {
        "bands": bands,
        "weighed": {head: _weighing(told) for head, told in heard.items()},
        "share": share,
        "rows": len(asks),
        "measured": {head: _measured(told, asked[told.at]) for head, told in heard.items()},
    }


def _asks(head: str) -> str:
    """The question of a bundle that a head of both opinions weighs: a document's is attack's."""
    return ATTACK if head == DOCUMENT else head


def _asked(row: Row) -> str:
    """The head that answers what is asked of a row."""
    return DOCUMENT if row.target == "document" else QUESTION_OF[row.target]


def score(finding: Finding, head: str) -> float:
    """What a finding says to a head's question, which need not be its own."""
    if head == DOCUMENT:
        return finding.overall
    beside = {ATTACK: finding.attack, REFUSAL: finding.refusal, SEVERITY: finding.severity}
    if head in beside:
        return beside[head] or 0.0
    return finding.overall if head == finding.question else finding.categories[head]


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


def _lowest(safe: np.ndarray, share: float) -> float:
    """The score that no more than a share of safe rows reaches; above 1 where that is nobody.

    The whole share is used: what a second opinion on one row more is worth is far less than what
    chance makes of it on some hundred rows.
    """
    most = int(share * len(safe))
    reached = np.sort(safe)[::-1]
    # Equal scores may let in more than there should be.
    fitting = [low for low in reached[:most] if (safe >= low).sum() <= most]
    return float(fitting[-1]) if fitting else 2.0


def _measured(told: Opinions, asked: np.ndarray) -> dict[str, Any]:
    """What each opinion is worth, by what was asked, for the file."""
    everybody, nobody = np.ones(len(asked), dtype=bool), np.zeros(len(asked), dtype=bool)
    return {
        "rows": len(asked),
        "fast": told.quality("fast", nobody),
        "accurate": told.quality("accurate", everybody),
        "together": told.quality("together", everybody),
        "cascade": told.quality("together", asked),
        "asked_twice": round(float(asked.mean()), 4),
        "asked_twice_of_safe": round(float(asked[~told.truth].mean()), 4),
    }


def _weighing(told: Opinions) -> dict[str, Any]:
    """How a head's opinions are weighed, with the thresholds of what that gives, for the file."""
    chosen = told.chosen()
    sets = {str(name): limits._asdict() for name, limits in chosen.sets.items()}
    plain = sets.pop("balanced")
    how = {name: getattr(told.how, name) for name in ("first", "second", "bias")}
    return how | plain | {"sensitivities": sets, "f1": chosen.f1, "alarms": chosen.alarms}
