"""Corrections → training rows: votes are counted, nobody counts for too much, and all is told."""

import gzip
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tamis.content import Question
from tamis.corrections.record import Correction
from tamis.corrections.store import read_corrections
from tamis.taxonomy import ATTACK, TOXICITY
from training.datasets.contamination import Seen
from training.datasets.schema import Row, Target

# The rows of a run, beside its checkpoint: a run that is resumed or calibrated later must not see
# what was said meanwhile. Provenance stands in every row.
SNAPSHOT: Final = "feedback.jsonl.gz"
# Users' own words: whoever trains on them answers for the right to.
LICENCE: Final = "own"
TARGETS: Final[dict[Question, Target]] = {
    "prompt": "prompt",
    "response": "response",
    "toxicity": "text",
    "attack": "document",
}
# Questions that may be answered of a prompt beside its own.
FURTHER: Final = (ATTACK, TOXICITY)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many corrections count, the newest first, of one reviewer and of one key.

    At the defaults one key gets at most 13 % of what an epoch draws beside 87,184 rows: 2,000
    prompts called safe, which make three rows each. The shipped bundles learnt from more.
    """

    per_reviewer: int = 1_000
    per_key: int = 2_000


@dataclass(slots=True)
class Report:
    """What became of the corrections. One may answer up to three questions, a row answers one."""

    corrections: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    rows: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Three lines and one for each source."""
        lines = [
            f"feedback: {self.corrections:,} corrections read, {_counts(self.dropped)}",
            f"  {self.answers:,} answers in them, {_counts(self.unused)}",
            f"  {self.rows.total():,} rows",
        ]
        for source in sorted({source for source, _ in self.rows}):
            safe, unsafe = self.rows[source, 0], self.rows[source, 1]
            lines.append(f"    {source:<18}{safe:>7,} of label 0{unsafe:>7,} of label 1")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Kept:
    """A row and the corrections that speak for it, newest first."""

    row: Row
    votes: Sequence[Correction]

    def as_json(self) -> dict[str, Any]:
        """A line of the training schema with its provenance, which the schema's reader skips."""
        return asdict(self.row) | {
            "context": [{"content": turn} for turn in self.row.context],
            "votes": [
                {
                    "id": vote.id,
                    "time": vote.time.isoformat(timespec="milliseconds"),
                    "reviewer": vote.reviewer,
                    "key": vote.key,
                    "verdict_id": vote.verdict_id,
                    "model": (vote.verdict or {}).get("model"),
                    "policy": (vote.verdict or {}).get("policy"),
                }
                for vote in self.votes
            ],
        }


@dataclass(frozen=True, slots=True)
class _Answer:
    correction: Correction
    source: str
    label: bool

    @property
    def about(self) -> tuple[str, str, str]:
        """What two people mean alike: source and texts, but for case and spacing."""
        content = self.correction.content
        return self.source, _folded(content.context or ""), _folded(content.text)


def curate(
    corrections: Iterable[Correction], limits: Limits, seen: Seen
) -> tuple[list[Kept], Report]:
    """Rows of what a majority of people say, and what became of everything else.

    Each (key, reviewer) has one vote on a question about a content, the newest; a tie is dropped.
    """
    report = Report()
    by_content: dict[tuple[str, str, str], list[_Answer]] = defaultdict(list)
    for correction in _within(limits, corrections, report):
        for answer in _answers(correction):
            report.answers += 1
            by_content[answer.about].append(answer)
    kept: list[Kept] = []
    for answers in by_content.values():
        newest: dict[tuple[str | None, str | None], _Answer] = {}
        for answer in answers:
            newest.setdefault(answer.correction.author, answer)
        votes = list(newest.values())
        report.unused["said again by the same reviewer"] += len(answers) - len(votes)
        unsafe = sum(vote.label for vote in votes)
        if 2 * unsafe == len(votes):
            report.unused["tied"] += len(votes)
            continue
        winners = [vote for vote in votes if vote.label == (2 * unsafe > len(votes))]
        report.unused["outvoted"] += len(votes) - len(winners)
        row = _row(winners)
        if seen.meets(row):
            report.unused["in an evaluation set"] += len(winners)
            continue
        report.unused["in the row of another that says the same"] += len(winners) - 1
        report.rows[row.source, row.label] += 1
        kept.append(Kept(row, [winner.correction for winner in winners]))
    return sorted(kept, key=lambda k: (k.row.source, k.row.id)), report


def _within(limits: Limits, corrections: Iterable[Correction], report: Report) -> list[Correction]:
    """Those that count, newest first; one that stands in two stores counts once."""
    found: dict[str, Correction] = {}
    reviewers: Counter[tuple[str | None, str | None]] = Counter()
    keys: Counter[str | None] = Counter()
    for correction in sorted(corrections, key=lambda c: (c.time, c.id), reverse=True):
        report.corrections += 1
        if correction.id in found:
            report.dropped["stored twice"] += 1
        elif reviewers[correction.author] >= limits.per_reviewer:
            report.dropped[f"over {limits.per_reviewer:,} of one reviewer"] += 1
        elif keys[correction.key] >= limits.per_key:
            report.dropped[f"over {limits.per_key:,} of one key"] += 1
        else:
            found[correction.id] = correction
            reviewers[correction.author] += 1
            keys[correction.key] += 1
    return list(found.values())


def _answers(correction: Correction) -> list[_Answer]:
    """One for each question that was answered; the sources' meanings stand in ``sources.yaml``."""
    own = correction.content.question
    sources = {question: f"feedback_{question}" for question in correction.answers}
    sources[own] = f"feedback_{TARGETS[own]}"
    return [_Answer(correction, sources[q], label) for q, label in correction.answers.items()]


def _row(winners: Sequence[_Answer]) -> Row:
    newest = winners[0]
    content = newest.correction.content
    answered = content.question == "response"
    return Row(
        id=newest.correction.id,
        source=newest.source,
        target=TARGETS[content.question],
        label=int(newest.label),
        prompt=(content.context or "") if answered else content.text,
        response=content.text if answered else None,
        categories=_categories(winners),
        licence=LICENCE,
        context=(content.context,) if content.context and not answered else (),
    )


def _categories(winners: Sequence[_Answer]) -> tuple[str, ...]:
    """Those that most of the winners name who name any; none are known where they do not agree."""
    source, label = winners[0].source, winners[0].label
    further = source.removeprefix("feedback_")
    if further in FURTHER:
        return (further,) if label else ()
    named = [set(w.correction.categories) for w in winners if w.correction.categories]
    counts = Counter(name for names in named for name in names)
    return tuple(sorted(name for name, count in counts.items() if 2 * count > len(named)))


def as_sets(locations: Sequence[str], out: Path) -> Path:
    """Write every row as evaluation sets, one for each question, and give the folder back.

    Raises:
        StoreError, ValueError, OSError: where something cannot be read.
    """
    everything = Limits(sys.maxsize, sys.maxsize)
    kept, _ = curate(_read(locations), everything, Seen())
    for source in {k.row.source for k in kept}:
        write((k for k in kept if k.row.source == source), out / f"{source}.jsonl.gz")
    return out


def _read(locations: Sequence[str]) -> Iterator[Correction]:
    return (correction for at in locations for correction in read_corrections(at))


def snapshot(
    locations: Sequence[str], out: Path, limits: Limits, evaluation: Path | None
) -> Report | None:
    """Write the rows of a new run to ``out``; None where a run goes on with those it began with.

    Args:
        locations: stores or exported files.
        out: folder of the checkpoint.
        limits: how much one reviewer and one key count.
        evaluation: folder of sets that no row may meet.

    Raises:
        StoreError, ValueError, OSError: where something cannot be read.
    """
    if (out / "last.pt").exists():
        return None
    out.mkdir(parents=True, exist_ok=True)
    (out / SNAPSHOT).unlink(missing_ok=True)
    seen = Seen.of(evaluation) if evaluation else Seen()
    kept, report = curate(_read(locations), limits, seen)
    if kept:
        write(kept, out / SNAPSHOT)
    return report


def write(kept: Iterable[Kept], path: Path) -> None:
    """Write rows as ``*.jsonl.gz``, for the owner's eyes only."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(k.as_json()) + "\n" for k in kept)


def _counts(counter: Counter[str]) -> str:
    dropped = [f"{count:,} {reason}" for reason, count in sorted(counter.items()) if count]
    return f"not used: {', '.join(dropped)}" if dropped else "all used"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
