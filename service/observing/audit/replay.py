"""Decide again what an audit log says was decided, and, given the texts, judge them again.

The same bundle and the same policy give the same verdict: this is where that is put to the test.
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.observing.answered import Digest
from service.observing.audit.history import Log, Recorded
from service.observing.audit.record import (
    AuditError,
    digest_of,
    finding_json,
    finding_of,
    outcome_json,
)
from tamis.content import OTHERS, Message, behind, last_asked
from tamis.deciding import decide
from tamis.policy import Policy
from tamis.verdict import Finding, Provenance

Again = Callable[[Mapping[str, Any], str, Policy], Finding | None]
"""Judges a recorded content again, by the fingerprint of the bundle that was asked first and a
policy; None where its text is not there."""
# What records did not always have is compared where they do.
ADDED: Final = {"severity", "fields", "refusal", "other"}
FIELDS: Final = ("text", "prompt", "response", "document")
# Of what differs, so many are named.
NAMED: Final = 100


@dataclass(slots=True)
class Report:
    """What replaying found; counts of records."""

    same: int = 0
    different: int = 0
    not_found: int = 0
    """Decided again, but not judged again: a text of theirs was not given."""
    other_bundles: Counter[str] = field(default_factory=Counter)
    """Not replayed, since other weights judged them; by fingerprint."""
    other_cascades: Counter[str] = field(default_factory=Counter)
    """Not replayed, since other bands and weights settled two opinions on them; by version."""
    differences: list[dict[str, Any]] = field(default_factory=list)
    """The first of them: where, id, and by field what was recorded and what came out now."""
    altered_policies: list[str] = field(default_factory=list)
    torn_lines: int = 0
    missing_records: int = 0

    @property
    def good(self) -> bool:
        """Whether everything was replayed and came out the same."""
        refused = self.other_bundles or self.other_cascades
        return not (self.different or refused or self.altered_policies)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        names = ("same", "different", "not_found", "other_bundles", "other_cascades")
        more = ("altered_policies", "torn_lines", "missing_records", "differences")
        return {name: getattr(self, name) for name in (*names, *more)}

    def __str__(self) -> str:
        total = self.same + self.different
        total += self.other_bundles.total() + self.other_cascades.total()
        lines = [f"{total:,} verdicts: {self.same:,} same, {self.different:,} different"]
        if self.not_found:
            lines.append(f"{self.not_found:,} decided again only: their texts were not given")
        for bundle, count in self.other_bundles.items():
            lines.append(f"{count:,} refused: judged by bundle {bundle}, which this is not")
        for cascade, count in self.other_cascades.items():
            lines.append(f"{count:,} refused: settled by cascade {cascade}, which this is not")
        altered = "its recorded rules do not come to this version"
        lines += [f"policy {policy}: {altered}" for policy in self.altered_policies]
        if self.missing_records:
            lines.append(f"{self.missing_records:,} missing between the records given")
        if self.torn_lines:
            lines.append(f"{self.torn_lines:,} torn lines, as a crash leaves them")
        for difference in self.differences:
            changes = ", ".join(f"{n}: {a} → {b}" for n, (a, b) in difference["changes"].items())
            lines.append(f"different: {difference['id']} ({difference['where']}): {changes}")
        if self.different > len(self.differences):
            lines.append(f"… and {self.different - len(self.differences):,} more")
        return "\n".join(lines)


def replay(
    sources: Sequence[str],
    *,
    bundles: Collection[str] | None = None,
    cascades: Collection[str] = (),
    again: Again | None = None,
) -> Report:
    """Replay logs.

    Args:
        sources: files (``.gz``, too) or PostgreSQL URLs.
        bundles: fingerprints; records of others are refused. None takes all, whatever settled them.
        cascades: versions of the bands that settle the opinions of two of those bundles.
        again: with it, contents are judged again by those bundles.

    Raises:
        AuditError: where a source is no audit log.
        OSError: where it cannot be read.
    """
    report, log = Report(), Log(sources)
    for recorded in log.verdicts():
        if bundles is not None:
            asked = recorded.asked
            if others := [bundle for bundle, _ in asked if bundle not in bundles]:
                report.other_bundles[others[0]] += 1
                continue
            if unsettled := [cascade for _, cascade in asked if cascade not in (None, *cascades)]:
                report.other_cascades[str(unsettled[0])] += 1
                continue
        try:
            changes, complete = _compare(recorded, again)
        except (KeyError, TypeError, ValueError) as error:
            raise AuditError(f"{recorded.where}: {type(error).__name__} {error}") from None
        report.not_found += not complete
        report.same += not changes
        report.different += bool(changes)
        if changes and len(report.differences) < NAMED:
            report.differences.append(
                {"where": recorded.where, "id": recorded.id, "changes": changes}
            )
    report.altered_policies = sorted(log.altered)
    report.torn_lines, report.missing_records = log.torn, log.missing
    return report


def wanted(sources: Sequence[str]) -> set[str]:
    """The hashes of all texts that a log tells of.

    Raises:
        AuditError, OSError: as ``replay``.
    """
    found = set()
    for recorded in Log(sources).verdicts():
        for content in recorded.raw["contents"]:
            found.add(digest_of(content))
            if (context := content.get("context")) is not None:
                found.add(digest_of(context))
    return found


def texts_of(path: Path, hashes: set[str], secret: str | None) -> dict[str, str]:
    """Those of the given hashes whose text is in a file of JSON lines.

    Rows have ``text``, ``prompt``, ``response``, or ``messages`` with ``content``.

    Raises:
        AuditError: where a line is not such a row.
        OSError: where it cannot be read.
    """
    # Records say by which they are hashed; texts are looked for by both.
    digests = [Digest(), *([Digest(secret)] if secret else [])]
    found: dict[str, str] = {}
    for text in _texts(path):
        for digest in digests:
            if (name := digest(text)) in hashes:
                found[name] = text
    return found


def _texts(path: Path) -> Iterator[str]:
    # A text may be empty, and the context of a response without a prompt is.
    yield ""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for n, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                texts = [row.get(name) for name in FIELDS]
                turns = row.get("messages") or ()
                texts += _contexts(turns)
                for turn in turns:
                    texts.append(turn.get("content"))
                    calls = turn.get("tool_calls") or ()
                    texts += [call["function"].get("arguments") for call in calls]
            except (ValueError, AttributeError, TypeError, KeyError):
                # Neither the line nor the parser's quotation of it belongs into a message.
                raise AuditError(f"{path.name} line {n}: not an object with texts") from None
            yield from (text for text in texts if isinstance(text, str))


def _contexts(turns: Sequence[Mapping[str, Any]]) -> Iterator[str | None]:
    """What turns of a conversation were read behind, whichever of them was the latest one."""
    said = [Message(str(turn.get("role")), turn.get("content") or "") for turn in turns]
    for n, turn in enumerate(said, 1):
        if turn.role not in OTHERS:  # a user's, as it was judged
            asked = last_asked(said[:n])
            yield behind(asked.earlier)
            yield behind(asked.earlier, asked.request)


def _compare(recorded: Recorded, again: Again | None) -> tuple[dict[str, tuple[Any, Any]], bool]:
    """What comes out otherwise than recorded, and whether all texts could be judged again."""
    changes: dict[str, tuple[Any, Any]] = {}
    complete = True
    contents = recorded.raw["contents"]
    policy = recorded.policy
    findings = [finding_of(content, recorded.models, policy) for content in contents]
    for n, content in enumerate(contents):
        if again is None:
            break
        if (new := again(content, recorded.raw["bundle"], policy)) is None:
            complete = False
        else:
            found = _changes(content, finding_json(new))
            changes |= {f"contents[{n}].{name}": pair for name, pair in found.items()}
    return changes | _changes(recorded.raw, _decided(recorded, findings)), complete


def _decided(recorded: Recorded, findings: Sequence[Finding]) -> dict[str, Any]:
    raw, policy = recorded.raw, recorded.policy
    provenance = Provenance(raw["model"], raw["bundle"], policy.name, policy.version)
    return outcome_json(decide(findings, policy, recorded.thresholds, provenance))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    compared = {name: value for name, value in new.items() if name in old or name not in ADDED}
    return {n: (old.get(n), value) for n, value in compared.items() if old.get(n) != value}
