"""Rules that are read alone: what is kept of them, and what a pair takes."""

import tracemalloc

import numpy as np
import pytest

from service.engine.split import RULE_BYTES, Parts, RuleStates
from tamis.windows import Window


def states(tokens: int) -> np.ndarray:
    return np.zeros((1, tokens, 64), np.float16)


def test_the_memory_of_rules_is_as_large_as_it_says_and_forgets_the_oldest():
    rules = [tuple(range(1_000 * n, 1_000 * n + 20)) for n in range(1, 1_001)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    memory = RuleStates(1 << 20)
    for rule in rules:
        # Whose tokens nobody else has.
        memory.keep(tuple(token + 0 for token in rule), states(20))
        assert memory.get(rules[0]) is not None
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(memory) < 1_000
    assert memory.size <= 1 << 20
    assert grown == pytest.approx(memory.size, rel=0.25)
    # What is asked for stays; of the others the oldest have gone.
    assert rules[0] in memory
    assert rules[1] not in memory
    assert rules[-1] in memory
    memory.clear()
    assert (len(memory), memory.size) == (0, 0)


def test_no_memory_keeps_nothing():
    memory = RuleStates(RULE_BYTES)
    memory.keep((1, 2), states(2))
    assert (len(memory), memory.size) == (0, 0)
    assert memory.get((1, 2)) is None


def test_a_pair_is_a_rule_and_a_text_in_a_row():
    pair = Parts((2, 7, 3), Window([2, 8, 9, 3], [0, 1, 1, 1], 1, 0, 2))
    assert pair.ids == [2, 7, 3, 2, 8, 9, 3]
    assert pair.types == [0, 0, 0, 0, 1, 1, 1]
