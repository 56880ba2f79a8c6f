"""What public sets do not ask: refusals, languages, severities, conversations, documents.

    tamis evaluate --held-out DATA/annotated DATA/contexts --json OUT.json

On the held-out slice of rows that were read (``Row.severity``), with the engine that serves. None
of them was trained on; thresholds saw them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tamis.deciding import decide
from tamis.policy import Policy, Thresholds
from tamis.taxonomy import DOCUMENT, REFUSAL
from tamis.verdict import Finding, Provenance, Severity, Verdict
from training.datasets import mixing
from training.datasets.registry import source_of
from training.datasets.schema import Row
from training.evaluation.suite import JudgeAll, content_of

Judged = tuple[Row, Verdict]
ENGLISH: Final = "en"


def rows_of(directories: Sequence[Path]) -> list[Row]:
    """The held-out rows of folders that were read, documents among them.

    Raises:
        FileNotFoundError, SchemaError: where a folder or a row cannot be read.
    """
    _, held = mixing.split(mixing.load(directories, "permissive"))
    return [row for row in held if row.read and source_of(row).calibrates]


def measure(
    rows: Sequence[Row],
    judge_all: JudgeAll,
    policy: Policy,
    own: Mapping[str, Thresholds],
    provenance: Provenance,
) -> dict[str, Any]:
    """Figures by subject; ``rows`` as ``rows_of`` gives them."""
    found = list(judge_all([content_of(row) for row in rows]))
    judged = [
        (row, decide([one], policy, own, provenance)) for row, one in zip(rows, found, strict=True)
    ]
    documents = [pair for pair in judged if pair[0].target == DOCUMENT]
    judged = [pair for pair in judged if pair[0].target != DOCUMENT]
    alone = [pair for pair in judged if not pair[0].context]
    written = [pair for pair in alone if pair[0].source.startswith("written_")]
    answers = [(row, one) for row, one in zip(rows, found, strict=True) if row.stance is not None]
    others = {row.id for row, one in zip(rows, found, strict=True) if _is_others(one)}
    return {
        "bundle": provenance.bundle,
        "targets": _by(alone, lambda row: row.target),
        "languages": _by(written, lambda row: row.lang or ENGLISH),
        "by_language": by_language(written, others),
        "in_context": _by([p for p in judged if p[0].context], lambda row: row.target),
        "severities": severities(judged),
        "refusals": refusals(answers, own) | _stopped(judged),
        "documents": _documents(documents),
    }


def _documents(judged: Iterable[Judged]) -> dict[str, dict[str, int]]:
    """Documents that carry an attack and that carry none, and how many are flagged."""
    found = {kind: {"rows": 0, "flagged": 0} for kind in ("clean", "injected")}
    for row, verdict in judged:
        cell = found["injected" if row.label else "clean"]
        cell["rows"] += 1
        cell["flagged"] += verdict.flagged
    return found


def _stopped(judged: Iterable[Judged]) -> dict[str, Any]:
    """How many answers that refuse are flagged; those in English, which the bodies read, apart."""
    refused = [(row, verdict.flagged) for row, verdict in judged if row.stance == "refuses"]
    english = [flagged for row, flagged in refused if row.english]
    return {
        "flagged": sum(flagged for _, flagged in refused),
        "english": {"refuse": len(english), "flagged": sum(english)},
    }


def _by(pairs: Iterable[Judged], key: Callable[[Row], str]) -> dict[str, dict[str, Any]]:
    """Rows, and how many are called unsafe, by a key and by the severity that was read."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for row, verdict in pairs:
        assert row.severity is not None
        levels = table.setdefault(key(row), {s.value: {"rows": 0, "flagged": 0} for s in Severity})
        cell = levels[list(Severity)[row.severity].value]
        cell["rows"] += 1
        cell["flagged"] += verdict.severity is Severity.UNSAFE
    return dict(sorted(table.items()))


def _is_others(finding: Finding) -> bool:
    """Whether it is that of the multilingual bundle."""
    return finding.second is not None and finding.second.role == "multilingual"


def by_language(
    pairs: Sequence[Judged], others: Collection[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """As ``_by``, by language and target, and how many rows a multilingual bundle judged.

    Those are the ``others``, by id.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for tongue in sorted({row.lang or ENGLISH for row, _ in pairs}):
        mine = [(row, verdict) for row, verdict in pairs if (row.lang or ENGLISH) == tongue]
        found[tongue] = _by(mine, lambda row: row.target)
        for target, levels in found[tongue].items():
            levels["multilingual"] = sum(
                row.id in others for row, _ in mine if row.target == target
            )
    return found


def refusals(
    answers: Sequence[tuple[Row, Finding]], own: Mapping[str, Thresholds]
) -> dict[str, Any]:
    """How well the refusal head finds the answers that refuse; counts alone without one."""
    truth = [row.stance == "refuses" for row, _ in answers]
    figures: dict[str, Any] = {"answers": len(answers), "refuse": sum(truth)}
    if REFUSAL not in own:
        return figures
    said = [(found.refusal or 0.0) >= found.limits(own)[REFUSAL].flag for _, found in answers]
    hits = sum(one and other for one, other in zip(truth, said, strict=True))
    return figures | {
        "precision": round(hits / max(sum(said), 1), 4),
        "recall": round(hits / max(sum(truth), 1), 4),
    }


def severities(pairs: Iterable[Judged]) -> dict[str, dict[str, int]]:
    """Rows by the severity that was read and the one that was said."""
    table = {one.value: {other.value: 0 for other in Severity} for one in Severity}
    for row, verdict in pairs:
        assert row.severity is not None
        table[list(Severity)[row.severity].value][verdict.severity.value] += 1
    return table
