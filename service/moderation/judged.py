"""What judging gives."""

from dataclasses import dataclass

from service.engine.timings import Timings
from tamis.verdict import Finding, Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts in the order of the items, and how long each stage took."""

    verdicts: list[Verdict]
    timings: Timings
    findings: list[list[Finding]]
    """What the verdicts were made of, content by content."""
