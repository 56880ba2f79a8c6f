"""Judge labelled directories with the engine that serves, and measure it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Final

import numpy as np

from tamis import content
from tamis.content import Content
from tamis.deciding import decide
from tamis.policy import Policy, Thresholds
from tamis.taxonomy import ATTACK
from tamis.verdict import Finding, Provenance, Verdict
from training.datasets.registry import QUESTION_OF, Source, sources
from training.datasets.schema import Row, data_files, read_rows
from training.evaluation import metrics

JudgeAll = Callable[[Sequence[Content]], Iterator[Finding]]
# Wraps the findings of a named set, n in all, in a progress bar.
Progress = Callable[[Iterator[Finding], int, str], Iterable[Finding]]
OVERALL: Final = "overall"


@dataclass(frozen=True, slots=True)
class SetResult:
    """One set's figures; None where the set has one class only. ``question``: what was asked."""

    question: str
    n: int
    positives: int
    f1: float | None
    precision: float | None
    recall: float | None
    fpr: float | None
    auprc: float | None
    auroc: float | None
    floor_f1: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain data, fractions rounded to four digits."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name in self.__slots__
            for value in (getattr(self, name),)
        }


def content_of(row: Row) -> Content:
    """What a row's label judges."""
    if row.target == "response":
        return content.response(row.response or "", row.prompt, earlier=row.context)
    if row.target == "prompt":
        return content.prompt(row.prompt, earlier=row.context)
    if row.target == "document":
        return content.document(row.prompt, next(iter(row.context), None))
    return content.plain(row.prompt)


def question_of(rows: Sequence[Row]) -> str:
    """What a set asks: ``overall``, or the one category (or attack) that all its positives carry.

    A set of jailbreaks labelled 1 asks "is it an attack?", a set of hateful posts "is it hateful?";
    its source's own category names, mapped in ``sources.yaml``, say so. A source of training data
    says itself what its label answers, whatever its positives are about.
    """
    asked: set[frozenset[str]] = set()
    for row in rows:
        source = sources().get(row.source, Source())
        if source.unsafe:
            overall = QUESTION_OF[row.target] in source.unsafe
            asked.add(frozenset(() if overall else source.unsafe))
        elif row.label:
            known = source.categories_of(row)
            asked.add(frozenset(name for name, value in known.items() if value))
    (only,) = asked if len(asked) == 1 else (frozenset[str](),)
    return next(iter(only)) if len(only) == 1 else OVERALL


def measure(rows: Sequence[Row], verdicts: Sequence[Verdict], question: str) -> SetResult:
    """Figures of one set at the policy's thresholds."""
    truth = np.array([row.label for row in rows], dtype=bool)
    answers = [_answer(verdict, question) for verdict in verdicts]
    scores = np.array([score for score, _ in answers])
    flagged = np.array([flag for _, flag in answers], dtype=bool)
    positives, n = int(truth.sum()), len(rows)
    both = 0 < positives < n
    hits = int((flagged & truth).sum())
    recall = hits / positives if positives else None
    precision = hits / int(flagged.sum()) if flagged.any() else 0.0
    base = positives / n
    return SetResult(
        question=question,
        n=n,
        positives=positives,
        f1=metrics.f1(precision, recall or 0.0) if both else None,
        precision=precision if both else None,
        recall=recall,
        fpr=int((flagged & ~truth).sum()) / (n - positives) if positives < n else None,
        auprc=metrics.average_precision(truth, scores) if both else None,
        auroc=metrics.roc_auc(truth, scores) if both else None,
        floor_f1=metrics.f1(base, 1.0) if both else None,
    )


def _answer(verdict: Verdict, question: str) -> tuple[float, bool]:
    if question == OVERALL:
        return verdict.score, verdict.score >= (verdict.threshold or math.inf)
    found = verdict.attack if question == ATTACK else verdict.categories.get(question)
    return (0.0, False) if found is None else (found.score, found.flagged)


def category_figures(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> dict[str, dict[str, Any]]:
    """F1 by category where the source's names are mapped; safe rows count as negatives.

    A category that the bundle was not taught has no figure, only its count of positives.
    """
    truth: dict[str, list[tuple[bool, Verdict]]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        source = sources().get(row.source, Source())
        known: Mapping[str, int] = (
            source.categories_of(row) if row.label else dict.fromkeys(source.covers, 0)
        )
        for name, value in known.items():
            if name != ATTACK:
                truth.setdefault(name, []).append((bool(value), verdict))
    figures: dict[str, dict[str, Any]] = {}
    for name, judged in sorted(truth.items()):
        positives = sum(value for value, _ in judged)
        found = [(value, verdict.categories.get(name)) for value, verdict in judged]
        flagged = sum(1 for _, score in found if score and score.flagged)
        hits = sum(1 for value, score in found if value and score and score.flagged)
        taught = all(score is not None for _, score in found)
        precision, recall = hits / flagged if flagged else 0.0, hits / max(positives, 1)
        figures[name] = {
            "n": len(judged),
            "positives": positives,
            "f1": round(metrics.f1(precision, recall), 4) if taught else None,
            "precision": round(precision, 4) if taught else None,
            "recall": round(recall, 4) if taught else None,
        }
    return figures


def evaluate(
    directory: Path,
    judge_all: JudgeAll,
    policy: Policy,
    own: Mapping[str, Thresholds],
    provenance: Provenance,
    progress: Progress = lambda findings, _n, _name: findings,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Every ``*.jsonl.gz`` of a directory: ``{"bundle", "sets", "categories"}``.

    Of a cascade also ``asked_twice``: by set, the share of rows that got a second opinion. Where a
    set holds harm that our taxonomy has no category for (copyright), ``within`` is it without.

    ``each`` is told of every row: set, id, label, score and whether it was flagged; never the text.

    Raises:
        FileNotFoundError, SchemaError: where the directory or a row cannot be read.
    """
    results: dict[str, Any] = {"bundle": provenance.bundle, "sets": {}, "categories": {}}
    for path in data_files(directory):
        name = path.name.removesuffix(".jsonl.gz")
        rows = list(read_rows(path))
        if not rows:
            continue
        findings = progress(judge_all([content_of(row) for row in rows]), len(rows), name)
        judged = list(findings)
        # What the multilingual bundle judges in place of the first is asked once.
        if asked := sum(f.second is not None and f.second.role == "accurate" for f in judged):
            results.setdefault("asked_twice", {})[name] = round(asked / len(judged), 4)
        verdicts = [decide([finding], policy, own, provenance) for finding in judged]
        question = question_of(rows)
        if each is not None:
            for row, verdict in zip(rows, verdicts, strict=True):
                score, flagged = _answer(verdict, question)
                told = {"set": name, "id": row.id, "label": row.label}
                each(told | {"score": round(score, 6), "flagged": flagged})
        results["sets"][name] = measure(rows, verdicts, question).as_json()
        ours = [
            not (row.label and sources().get(row.source, Source()).is_aside(row)) for row in rows
        ]
        if any(ours) and not all(ours):
            kept = list(compress(rows, ours)), list(compress(verdicts, ours))
            within = measure(*kept, question)
            results.setdefault("within", {})[name] = within.as_json()
        if categories := category_figures(rows, verdicts):
            results["categories"][name] = categories
    return results


def table(results: Mapping[str, Any]) -> str:
    """The sets as an aligned text table."""
    columns = ("n", "positives", "f1", "precision", "recall", "fpr", "auprc", "auroc", "floor_f1")
    width = max(len(name) for name in results["sets"]) + 1
    lines = ["set".ljust(width) + "question".ljust(9) + "".join(c.rjust(10) for c in columns)]
    for name, row in results["sets"].items():
        cells = "".join(_cell(row[c]).rjust(10) for c in columns)
        lines.append(name.ljust(width) + row["question"].ljust(9) + cells)
    for name, share in results.get("asked_twice", {}).items():
        lines.append(f"{name}: {share:.1%} asked twice")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
