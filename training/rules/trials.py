"""Texts under whole policies, with what is known of every rule: what calibrates and stops training.

A text is unsafe where it breaks any rule; its category is the rule that it breaks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tamis.content import Content, Question
from tamis.reasoner.protocol import Guideline
from training.reasoner.cases import Case
from training.reasoner.policies import usual_view
from training.rules.banks import Bank
from training.rules.organisations import ORGANISATIONS

# Rules of one policy, as for the reasoner.
MOST_RULES: Final = 14


@dataclass(frozen=True, slots=True)
class Trial:
    """A text under a policy; of each rule 1 (broken), 0, or None (not known)."""

    content: Content
    rules: tuple[Guideline, ...]
    labels: tuple[float | None, ...]
    policy: str
    written: bool
    """Whether the policy was written by an organisation that was not trained on."""

    @property
    def question(self) -> Question:
        """What is judged; a document counts as a post."""
        return self.content.question

    @property
    def broken(self) -> frozenset[int]:
        """Places of the rules that are broken."""
        return frozenset(n for n, label in enumerate(self.labels) if label == 1)


def trials(banks: Iterable[Bank], most: int, defined: bool, seed: int) -> list[Trial]:
    """Up to ``most`` unsafe and as many safe texts of every bank, under its authors' policy."""
    found: list[Trial] = []
    for bank in banks:
        pool = bank.pool
        by_size = sorted(pool.taxonomy.categories, key=lambda k: -len(pool.unsafe.get(k, ())))
        shown = set(by_size[: min(pool.taxonomy.most, MOST_RULES)])
        keys = [key for key in pool.taxonomy.categories if key in shown]
        rng = np.random.default_rng(seed)
        unsafe = _in_turns([pool.unsafe[key] for key in keys if key in pool.unsafe], most, rng)
        safe = _in_turns(list(pool.safe.values()), most, rng)
        policy = usual_view(pool.taxonomy, defined, keys).policy
        found += [
            Trial(
                case.content,
                policy,
                tuple(bank.label(case, key) for key in keys),
                pool.taxonomy.name,
                bank.kind == ORGANISATIONS,
            )
            for case in (*unsafe, *safe)
        ]
    return found


def _in_turns(piles: Sequence[Sequence[Case]], most: int, rng: np.random.Generator) -> list[Case]:
    """One from each pile in turns; no text twice, though it may break two rules."""
    waiting = [[pile[int(n)] for n in rng.permutation(len(pile))] for pile in piles]
    chosen: dict[str, Case] = {}
    while len(chosen) < most and any(waiting):
        for pile in waiting:
            if pile and len(chosen) < most:
                case = pile.pop()
                chosen.setdefault(f"{case.source}/{case.id}", case)
    return list(chosen.values())
