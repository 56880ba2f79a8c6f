"""What is trained on: texts, each with a few rules and whether it breaks them.

Negatives are the other rules of the same policy, the one that shares most words with the text
among them; a right name over a wrong definition; and now and then a rule of somebody else's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np

from tamis.content import Content
from tamis.reasoner.protocol import Guideline
from training.reasoner.cases import Case
from training.reasoner.policies import Category
from training.rules.banks import Bank, Kind
from training.rules.organisations import ORGANISATIONS
from training.rules.wording import NAMES_ONLY, NAMES_ONLY_WRITTEN, swapped, worded

# How much of the texts each kind of bank gives.
SHARES: Final[Mapping[Kind, float]] = {
    "organisations": 0.62,
    "annotated": 0.12,
    "taxonomies": 0.22,
    "invented": 0.04,
}
UNSAFE: Final = 0.55
# Rules beside the broken one, and beside a text that breaks none.
BESIDE: Final = 3
SWAPPED: Final = 0.08
FOREIGN: Final = 0.15
# Pools count by the root of their size, as for the reasoner: large ones are narrow.
TEMPERATURE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Item:
    """A text and some rules; ``labels`` are 1 where it breaks the rule at that place."""

    content: Content
    rules: tuple[Guideline, ...]
    labels: tuple[float, ...]
    policy: str


@dataclass(frozen=True, slots=True)
class Mixture:
    """Banks and how often each is drawn."""

    banks: Sequence[Bank]
    shares: Mapping[Kind, float] = field(default_factory=lambda: SHARES)

    def chances(self) -> np.ndarray:
        """(banks,), summing to 1: kinds by their share, within one by the root of its sizes."""
        weights = np.array([bank.pool.size**TEMPERATURE for bank in self.banks])
        kinds = np.array([bank.kind for bank in self.banks])
        for kind in set(kinds):
            mine = kinds == kind
            weights[mine] *= self.shares[kind] / weights[mine].sum()
        found: np.ndarray = weights / weights.sum()
        return found


def draw(mixture: Mixture, seed: int) -> Iterator[Item]:
    """Texts without end; the same seed over the same banks draws the same."""
    for items in draw_together(mixture, seed, 1):
        yield from items


def draw_together(mixture: Mixture, seed: int, count: int) -> Iterator[list[Item]]:
    """Up to ``count`` texts of one policy at a time, to which it says its rules in the same words.

    No text comes twice in one draw.
    """
    chances = mixture.chances()
    rng = np.random.default_rng(seed)
    while True:
        bank = mixture.banks[int(rng.choice(len(chances), p=chances))]
        said: Wordings | None = None
        items: dict[str, Item] = {}
        for _ in range(count):
            case = _case(bank, rng)
            if case is None or case.content.text in items:
                continue
            said = said or Wordings(bank, rng)
            item = _item(bank, case, mixture.banks, said, rng)
            if item:
                items[case.content.text] = item
        if items:
            yield [*items.values()]


def _case(bank: Bank, rng: np.random.Generator) -> Case | None:
    pool = bank.pool
    if not pool.safe or rng.random() < UNSAFE:
        return _one(pool.unsafe, rng)
    return _one(pool.safe, rng, TEMPERATURE)


def _one(
    piles: Mapping[str, tuple[Case, ...]], rng: np.random.Generator, temperature: float = 0
) -> Case | None:
    cases = list(piles.values())
    if not cases:
        return None
    weights = np.array([len(pile) for pile in cases], dtype=float) ** temperature
    pile = cases[int(rng.choice(len(cases), p=weights / weights.sum()))]
    return pile[int(rng.integers(len(pile)))]


class Wordings:
    """How a policy says its rules for once: each in the same words, however often it is asked."""

    def __init__(self, bank: Bank, rng: np.random.Generator) -> None:
        names_only = NAMES_ONLY_WRITTEN if bank.kind == ORGANISATIONS else NAMES_ONLY
        self._defined = bool(rng.random() >= names_only)
        self._rng = rng
        self._known: dict[Category, Guideline] = {}

    def __call__(self, category: Category) -> Guideline:
        """A rule's name, with or without its definition as all of them."""
        if category not in self._known:
            self._known[category] = worded(category, self._defined, self._rng)
        return self._known[category]


def _item(
    bank: Bank, case: Case, banks: Sequence[Bank], said: Wordings, rng: np.random.Generator
) -> Item | None:
    categories = bank.pool.taxonomy.categories
    wrong = [key for key in categories if bank.label(case, key) == 0]
    right = [key for key in categories if bank.label(case, key) == 1]
    found = [(said(categories[key]), 1.0) for key in right]
    beside = _beside(case.content, [categories[key] for key in wrong], rng)
    found += [(said(category), 0.0) for category in beside]
    if case.key is not None and beside and rng.random() < SWAPPED:
        mine, other = categories[case.key], beside[0]
        found += [(swapped(mine, other), 0.0), (swapped(other, mine), 1.0)]
    elif case.key is None and rng.random() < FOREIGN:
        found += [(said(category), 0.0) for category in _foreign(bank, case, banks, rng)]
    if not found:
        return None
    rules, labels = zip(*found, strict=True)
    return Item(case.content, rules, labels, bank.pool.taxonomy.name)


def _beside(
    content: Content, wrong: Sequence[Category], rng: np.random.Generator
) -> list[Category]:
    """Rules that a text does not break: the one in whose words it speaks most, and others."""
    if not wrong:
        return []
    said = words(content.text)
    near = [len(said & words(f"{c.names[0]} {c.about}")) for c in wrong]
    first = int(np.argmax(np.array(near) + rng.random(len(near))))
    others = [n for n in rng.permutation(len(wrong)).tolist() if n != first]
    return [wrong[n] for n in (first, *others[: BESIDE - 1])]


def _foreign(
    bank: Bank, case: Case, banks: Sequence[Bank], rng: np.random.Generator
) -> list[Category]:
    """A rule of another policy that shares no word with the text: what nobody would think of."""
    other = banks[int(rng.integers(len(banks)))]
    rules = list(other.pool.taxonomy.categories.values())
    rule = rules[int(rng.integers(len(rules)))]
    alike = words(case.content.text) & words(f"{rule.names[0]} {rule.about}")
    # One question about harm and no more may be anybody's.
    return [] if other is bank or alike or len(rules) == 1 else [rule]


@lru_cache(maxsize=1 << 15)
def words(text: str) -> frozenset[str]:
    """The beginnings of a text's longer words."""
    return frozenset(word[:5] for word in re.findall(r"\w{4,}", text.lower()))
