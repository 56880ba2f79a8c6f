"""How a rule may be written: by its name alone, with a definition, under a number.

Customers write rules in all these ways, and a definition says what a rule is whatever it is called.
"""

from typing import Final

import numpy as np

from tamis.reasoner.protocol import Guideline
from training.reasoner.policies import Category

# How often a rule is shown without its definition. An organisation's exceptions stand there, so
# that by the name alone many of its labels would be wrong.
NAMES_ONLY: Final = 0.35
NAMES_ONLY_WRITTEN: Final = 0.12
RENAMED: Final = 0.35
DISGUISED: Final = 0.12
NUMBERS: Final = ("Rule {}", "S{}", "R-{}", "{}", "Policy {}", "Category {}")


def worded(category: Category, defined: bool, rng: np.random.Generator) -> Guideline:
    """A rule under one of its names, now and then in another dress."""
    others = category.names[1:]
    name = category.names[0]
    if others and rng.random() < RENAMED:
        name = others[int(rng.integers(len(others)))]
    dress = rng.random() / DISGUISED
    if defined and dress < 0.5:
        # What the rule is about stands in its definition alone.
        name = NUMBERS[int(rng.integers(len(NUMBERS)))].format(int(rng.integers(1, 25)))
    elif dress < 0.75:
        name = name.lower().replace(" ", "_")
    elif dress < 1:
        name = name.lower()
    return Guideline(name, category.about if defined else None)


def swapped(named: Category, about: Category) -> Guideline:
    """One rule's name over another's definition: it is what the definition says."""
    return Guideline(named.names[0], about.about)
