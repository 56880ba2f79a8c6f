"""What the audit log holds: verdicts, and the policies and models that they came from.

A log is self-contained: the first verdict of a policy, a bundle or a cascade in a file is preceded
by a record of it, so that the verdict can be reached again from nothing but the file. No text is in
it: a content is a SHA-256 (under a secret where one is set), a length, and what the model found.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from service.observing.answered import Answered, Judgement
from service.observing.logs import json_line, timestamp
from tamis.bundle import Bundle
from tamis.content import Content, Question
from tamis.policy import CalibratedThresholds, Policy, Thresholds
from tamis.taxonomy import ATTACK
from tamis.tiers import second_of
from tamis.verdict import FieldVerdict, Finding, Ruled, Second, Verdict

FORMAT: Final = "tamis.audit/1"
POSTGRES: Final = ("postgresql://", "postgres://")
# Callers may write out a new policy with every request; to record one twice does no harm.
MOST_KNOWN: Final = 10_000

# Of a policy or a bundle: its kind, and what tells it from others of its kind.
Key = tuple[str, ...]
Who = tuple[str, str | None]
"""By whose thresholds a finding is held: a bundle's fingerprint and, where it was settled with the
first one's, the version of the cascade."""


class AuditError(ValueError):
    """An audit log that cannot be used; the message names the source and the line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A verdict's record on its way to a sink, and what must come before it.

    ``writer`` and ``number`` count what a process had to write: a number that is missing in the log
    is a record that was lost.
    """

    at: float
    writer: str
    number: int
    line: bytes
    """The record as JSON with a line feed."""
    policy: Policy
    bundle: Bundle
    seconds: tuple[Second, ...] = ()
    """The bundles that were asked after it, each once for each cascade."""


def verdict_records(answered: Answered, judgement: Judgement) -> Iterator[dict[str, Any]]:
    """One record for each item of a request."""
    common = {
        "type": "verdict",
        "time": timestamp(judgement.at),
        "request_id": answered.request_id,
        "trace_id": answered.trace.trace_id,
        "caller": answered.caller,
        "route": answered.route,
        "model": judgement.bundle.name,
        "bundle": judgement.bundle.fingerprint,
        "policy": judgement.policy.name,
        "policy_version": judgement.policy.version,
        "mode": judgement.policy.mode,
        "explain": "evidence" if judgement.evidence else None,
    }
    name, digest = judgement.digest.name, judgement.digest
    for n, verdict in enumerate(judgement.verdicts):
        contents, digests = judgement.items[n], judgement.digests[n]
        found = [
            _content(content, name, said) | finding_json(finding) | _opinion(finding)
            for content, said, finding in zip(contents, digests, judgement.findings[n], strict=True)
        ]
        # What contents are read behind is mostly the item's own prompt, whose hash is known.
        known = dict(zip((c.text for c in contents), digests, strict=True))
        for record, content in zip(found, contents, strict=True):
            if content.context is not None:
                said = known.get(content.context) or digest(content.context)
                record["context"] = {"characters": len(content.context), name: said}
        yield common | {"item": n, **outcome_json(verdict), "contents": found}


def _opinion(finding: Finding) -> dict[str, Any]:
    """Whose finding it is where it is not the record's bundle's, or that no other was to be had."""
    if (second := finding.second) is not None:
        said = {"model": second.model, "bundle": second.bundle, "role": second.role}
        return said if second.cascade is None else said | {"cascade": second.cascade}
    return {} if finding.missed is None else {"missed": finding.missed}


def seconds_of(findings: Sequence[Finding]) -> tuple[Second, ...]:
    """All whose findings these are beside the bundle that is asked first, each once."""
    found = [one.second for f in findings for one in f.opinions]
    found += [f.ruled.by for f in findings if f.ruled is not None]
    return tuple({(one.bundle, one.cascade): one for one in found if one is not None}.values())


def _content(content: Content, name: str, digest: str) -> dict[str, Any]:
    return {
        "field": content.field,
        "question": content.question,
        "characters": len(content.text),
        name: digest,
    }


def outcome_json(verdict: Verdict) -> dict[str, Any]:
    """What a policy made of an item; what replaying compares."""
    flagged = [name for name, category in verdict.categories.items() if category.flagged]
    if verdict.attack is not None and verdict.attack.flagged:
        flagged.append(ATTACK)
    return {
        "action": verdict.action.value,
        "score": verdict.score,
        "threshold": verdict.threshold,
        "flagged": sorted(flagged),
        "severity": verdict.severity.value,
        "fields": {name: _field_json(field) for name, field in verdict.fields.items()},
    }


def _field_json(field: FieldVerdict) -> dict[str, Any]:
    refusal = field.refusal
    return {
        "action": field.action.value,
        "score": field.score,
        "threshold": field.threshold,
        "severity": field.severity.value,
        "refuses": None if refusal is None else refusal.flagged,
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """What the model said of a content: every head, unrounded, so that equality means something.

    ``rules``, what the policy encoder said, stands only where it was asked, and ``other`` where two
    bundles read the content: whose that is, and what it says.
    """
    found = {
        "overall": finding.overall,
        "categories": dict(finding.categories),
        "attack": finding.attack,
        "refusal": finding.refusal,
        "severity": finding.severity,
        "windows": finding.windows,
        "tokens": finding.tokens,
        "transforms": list(finding.transforms),
    }
    if (ruled := finding.ruled) is not None:
        scores = {rule.name: score for rule, score in ruled.scores.items()}
        found["rules"] = {"bundle": ruled.by.bundle, "scores": scores}
    if (other := finding.other) is not None:
        found["other"] = finding_json(other) | _opinion(other)
    return found


def finding_of(raw: Mapping[str, Any], models: Mapping[Who, Second], policy: Policy) -> Finding:
    """The finding of a recorded content; ``models`` are the bundles that the log has told of.

    Raises:
        KeyError, TypeError, ValueError: where the record does not hold one.
    """
    question: Question = raw["question"]
    attack, refusal, severity = raw["attack"], raw.get("refusal"), raw.get("severity")
    return Finding(
        question=question,
        overall=float(raw["overall"]),
        categories={str(name): float(score) for name, score in raw["categories"].items()},
        attack=None if attack is None else float(attack),
        windows=int(raw["windows"]),
        tokens=int(raw["tokens"]),
        refusal=None if refusal is None else float(refusal),
        severity=None if severity is None else float(severity),
        field=str(raw["field"]),
        # Records from before texts were read have none.
        transforms=tuple(map(str, raw.get("transforms", ()))),
        second=_second(raw, models) if "bundle" in raw else None,
        missed=raw.get("missed"),
        ruled=_ruled(raw["rules"], models, policy) if "rules" in raw else None,
        other=finding_of(_about(raw) | raw["other"], models, policy) if "other" in raw else None,
    )


def _about(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: raw[name] for name in ("question", "field")}


def who_of(raw: Mapping[str, Any]) -> Who:
    """Who is meant where a record names a bundle."""
    # Records from before cascades were named hold the settled thresholds as the bundle's own.
    return raw["bundle"], raw.get("cascade")


def digest_of(raw: Mapping[str, Any]) -> str:
    """The hash of a recorded text."""
    digest: str = raw["hmac_sha256"] if "hmac_sha256" in raw else raw["sha256"]
    return digest


def _ruled(raw: Mapping[str, Any], models: Mapping[Who, Second], policy: Policy) -> Ruled:
    scores = {rule: float(raw["scores"][rule.name]) for rule in policy.rules}
    return Ruled(replace(models[who_of(raw)], role="rules"), scores)


def _second(raw: Mapping[str, Any], models: Mapping[Who, Second]) -> Second:
    # Records from before there was a multilingual bundle name no role.
    return replace(models[who_of(raw)], role=raw.get("role", "accurate"))


def policy_record(policy: Policy) -> dict[str, Any]:
    """A policy as ``Policy.parse`` takes it, with the version it should come to."""
    rules = _given(asdict(policy))
    if policy.overall is not None:
        rules.setdefault("overall", {})
    rules.setdefault("categories", {})
    return {
        "type": "policy",
        "format": FORMAT,
        "name": policy.name,
        "version": policy.version,
        "policy": rules,
    }


def model_record(model: Second) -> dict[str, Any]:
    """A bundle's name, fingerprint, and own thresholds: ``[flag, block]`` by head.

    ``strict`` and ``loose`` hold those of the heads that have further sets. ``cascade`` stands
    where the thresholds are of this bundle's opinion and the first one's together.
    """
    sets: dict[str, dict[str, list[float]]] = {"strict": {}, "loose": {}}
    for name, limits in model.thresholds.items():
        if isinstance(limits, CalibratedThresholds):
            sets["strict"][name] = _pair(limits.strict)
            sets["loose"][name] = _pair(limits.loose)
    return {
        "type": "model",
        "format": FORMAT,
        "name": model.model,
        "fingerprint": model.bundle,
        **({} if model.cascade is None else {"cascade": model.cascade}),
        "thresholds": {name: _pair(limits) for name, limits in model.thresholds.items()},
        **sets,
    }


def _pair(limits: Thresholds) -> list[float]:
    return [limits.flag, limits.block]


def model_of(record: Mapping[str, Any]) -> Second:
    """A model's record read back.

    Raises:
        KeyError, TypeError, ValueError: where it lacks something.
    """
    strict, loose = record.get("strict", {}), record.get("loose", {})
    found: dict[str, Thresholds] = {}
    for name, pair in record["thresholds"].items():
        plain = _thresholds(pair)
        if name in strict:
            further = _thresholds(strict[name]), _thresholds(loose[name])
            plain = CalibratedThresholds(plain.flag, plain.block, *further)
        found[str(name)] = plain
    return Second(record["name"], record["fingerprint"], found, cascade=record.get("cascade"))


def _thresholds(pair: Any) -> Thresholds:
    flag, block = pair
    return Thresholds(float(flag), float(block))


class Leads:
    """Which policies and bundles a file or table has by now, and the records of those it lacks."""

    def __init__(self) -> None:
        self._known: set[Key] = set()

    def before(self, entry: Entry) -> list[tuple[Key, bytes]]:
        """What must precede an entry: keys to ``note`` once written, and the records."""
        policy: Key = ("policy", entry.policy.name, entry.policy.version)
        missing: list[tuple[Key, bytes]] = []
        for model in (second_of(entry.bundle), *entry.seconds):
            key: Key = ("model", model.bundle, model.cascade or "")
            if key not in self._known:
                missing.append((key, json_line(model_record(model))))
        if policy not in self._known:
            missing.append((policy, json_line(policy_record(entry.policy))))
        return missing

    def note(self, keys: Iterable[Key]) -> None:
        """They are written."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        self._known.update(keys)


def _given(value: Any) -> Any:
    """Mappings without what is None, to any depth."""
    if isinstance(value, dict):
        return {key: _given(inner) for key, inner in value.items() if inner is not None}
    return value
