"""Categories, their definitions, and what other taxonomies call them (data: ``taxonomy.yaml``)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

import yaml

ATTACK: Final = "attack"
TOXICITY: Final = "toxicity"
REFUSAL: Final = "refusal"
SEVERITY: Final = "severity"
# By what a document's attack is held where that has limits of its own; no category.
DOCUMENT: Final = "document"


class UnknownCategoryError(ValueError):
    """A category name that the taxonomy does not have."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a foreign category follows from ours: the best of several conjunctions."""

    any_of: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read ``"a | b & c"``; ``&`` binds tighter than ``|``."""
        return cls(tuple(tuple(n.strip() for n in term.split("&")) for term in text.split("|")))

    @property
    def names(self) -> frozenset[str]:
        """Every category of ours that the rule mentions."""
        return frozenset(name for term in self.any_of for name in term)

    def score(self, scores: Mapping[str, float]) -> float | None:
        """Fuzzy or/and (max/min) over ``scores``; None where no conjunction is fully scored."""
        known = [term for term in self.any_of if all(name in scores for name in term)]
        return max((min(scores[name] for name in term) for term in known), default=None)

    def holds(self, names: Iterable[str]) -> bool:
        """Whether the set of flagged categories satisfies the rule."""
        flagged = set(names)
        return any(flagged.issuperset(term) for term in self.any_of)


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Harm categories in a fixed order, the separate attack signal, and the crosswalks."""

    categories: Mapping[str, str]
    attack: str
    crosswalk: Mapping[str, Mapping[str, Rule | None]]

    def definition(self, name: str) -> str:
        """The one-sentence definition of a category or of the attack signal.

        Raises:
            UnknownCategoryError: naming the category and the known ones.
        """
        self.check([name])
        return self.attack if name == ATTACK else self.categories[name]

    def check(self, names: Iterable[str]) -> None:
        """Refuse names that are not ours.

        Raises:
            UnknownCategoryError: naming the first unknown category and the known ones.
        """
        for name in names:
            if name != ATTACK and name not in self.categories:
                known = ", ".join([*self.categories, ATTACK])
                raise UnknownCategoryError(f"unknown category {name!r}; known: {known}")


def _rules(raw: Mapping[str, str | None]) -> Mapping[str, Rule | None]:
    return MappingProxyType({n: None if r is None else Rule.parse(r) for n, r in raw.items()})


@cache
def taxonomy() -> Taxonomy:
    """The taxonomy that ships with Tamis."""
    raw: dict[str, Any] = yaml.safe_load(
        files("tamis").joinpath("taxonomy.yaml").read_text(encoding="utf-8")
    )
    return Taxonomy(
        categories=MappingProxyType(raw["categories"]),
        attack=raw["attack"],
        crosswalk=MappingProxyType({s: _rules(r) for s, r in raw["crosswalk"].items()}),
    )
