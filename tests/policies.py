"""A policy that says something in every field, and what tells where one does not."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from tamis.policy import MaskRule, Policy, Rule, SeverityRule

FULL = Policy(
    name="full",
    categories={
        "toxicity": Rule(0.25, 0.75, "Rude to guests of the garden."),
        "attack": Rule(0.3, 0.9, "Talks the gardener out of the rules."),
        "loan promises": Rule(0.35, 0.85, "Promises a loan."),
    },
    # Nobody reads what the overall question is about.
    overall=Rule(0.2, 0.6, None),
    description="For the garden: on the #1 path",
    mode="score",
    deadline_ms=200,
    shadow="default",
    sensitivity="strict",
    severity=SeverityRule(borderline="flag"),
    mask=MaskRule(pii=("email", "national_id"), evidence=True, countries=("gb", "us")),
    judge=("response",),
)


def unset(said: Any, where: str = "") -> Iterator[str]:
    """The fields that are as they are by default, by path."""
    if isinstance(said, Mapping):
        for name, value in said.items():
            yield from unset(value, f"{where}.{name}")
    elif is_dataclass(said):
        for field in fields(said):
            value, path = getattr(said, field.name), f"{where}.{field.name}"
            if field.default is not MISSING and value == field.default:
                yield path
            yield from unset(value, path)
