"""Audit logs read back: records in order, and what is missing between them."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.observing.audit.record import FORMAT, POSTGRES, AuditError, Who, model_of, who_of
from tamis.policies.parsing import parse_policy
from tamis.policy import Policy, PolicyError, Thresholds
from tamis.verdict import Second


@dataclass(frozen=True, slots=True)
class Recorded:
    """A verdict's record, and what it was reached by."""

    where: str
    raw: Mapping[str, Any]
    policy: Policy
    models: Mapping[Who, Second]
    """The bundles that the log has told of."""

    @property
    def thresholds(self) -> Mapping[str, Thresholds]:
        """Those of the bundle that was asked first."""
        return self.models[who_of(self.raw)].thresholds

    @property
    def asked(self) -> list[Who]:
        """All whose findings it holds, each once, whom it names first ahead."""
        contents = [*self.raw["contents"]]
        contents += [content["other"] for content in contents if "other" in content]
        others = [content for content in contents if "bundle" in content]
        others += [content["rules"] for content in contents if "rules" in content]
        return list(dict.fromkeys(who_of(raw) for raw in (self.raw, *others)))

    @property
    def id(self) -> str:
        """The request's id and the item's number, as the API names verdicts."""
        return f"{self.raw['request_id']}-{self.raw['item']}"


@dataclass(slots=True)
class Log:
    """One or more logs that belong together: a file and what was rotated from it, or a table.

    After ``verdicts`` was read to its end: ``torn`` lines, cut off by a crash; ``altered``
    policies, whose rules do not come to their version; numbers ``missing`` in a writer's sequence.
    """

    sources: Iterable[str]
    torn: int = 0
    altered: set[str] = field(default_factory=set)
    _numbers: dict[str, "_Sequence"] = field(default_factory=dict)

    def verdicts(self) -> Iterator[Recorded]:
        """Every verdict's record.

        Raises:
            AuditError: where a source is no audit log.
            OSError: where it cannot be read.
        """
        self.torn = 0
        self._numbers.clear()
        for source in self.sources:
            policies: dict[tuple[str, str], Policy] = {}
            models: dict[Who, Second] = {}
            for where, raw in self._records(source):
                try:
                    match raw["type"]:
                        case "policy":
                            policies[raw["name"], raw["version"]] = self._policy(raw)
                        case "model":
                            model = model_of(raw)
                            models[model.bundle, model.cascade] = model
                        case "verdict":
                            self._numbers.setdefault(raw["writer"], _Sequence()).add(raw["number"])
                            policy = policies[raw["policy"], raw["policy_version"]]
                            recorded = Recorded(where, raw, policy, models)
                            if unknown := set(recorded.asked) - set(models):
                                raise KeyError("@".join(filter(None, unknown.pop())))
                            yield recorded
                        case _:
                            raise AuditError(f"{where}: not a record of {FORMAT}")
                except (KeyError, TypeError, ValueError) as error:
                    if isinstance(error, AuditError):
                        raise
                    raise AuditError(
                        f"{where}: not a record of {FORMAT}: {type(error).__name__} {error}"
                    ) from None

    @property
    def missing(self) -> int:
        """Numbers that a writer gave out between those that were read."""
        return sum(numbers.missing for numbers in self._numbers.values())

    def _policy(self, raw: Mapping[str, Any]) -> Policy:
        if raw["format"] != FORMAT:
            raise ValueError(f"format is {raw['format']!r}")
        try:
            policy = parse_policy(raw["policy"])
        except PolicyError as error:
            raise ValueError(str(error)) from None
        if policy.version != raw["version"]:
            self.altered.add(f"{raw['name']}@{raw['version']}")
        return policy

    def _records(self, source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if source.startswith(POSTGRES):
            from service.observing.audit.postgres import rows

            for n, row in enumerate(rows(source), 1):
                yield f"row {n}", row
            return
        path = Path(source)
        torn = read = 0
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for n, line in enumerate(lines, 1):
                try:
                    raw = json.loads(line)
                except ValueError:
                    torn += bool(line.strip())
                    continue
                if not isinstance(raw, dict):
                    raise AuditError(f"{path.name} line {n}: not a record of {FORMAT}")
                read += 1
                yield f"{path.name} line {n}", raw
        if torn and not read:
            # Not what a crash leaves: packed otherwise, say, and nothing of it would be missed.
            raise AuditError(f"{path.name}: not a line of it is a record of {FORMAT}")
        self.torn += torn


@dataclass(slots=True)
class _Sequence:
    """What a writer numbered, in constant memory: files may come in any order."""

    first: int | None = None
    last: int = 0
    count: int = 0

    def add(self, number: int) -> None:
        self.first = number if self.first is None else min(self.first, number)
        self.last = max(self.last, number)
        self.count += 1

    @property
    def missing(self) -> int:
        return 0 if self.first is None else max(0, self.last - self.first + 1 - self.count)
