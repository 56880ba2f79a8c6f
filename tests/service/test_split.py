"""Rules that are read alone: what is kept of them, and what a pair takes."""

import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from service.engine.pairs import PairTask
from service.engine.recent import Recent
from service.engine.split import RULE_BYTES, Parts, _size
from tamis.windows import Window


def states(tokens: int) -> np.ndarray:
    return np.zeros((1, tokens, 64), np.float16)


def test_the_memory_of_rules_is_as_large_as_it_says_and_forgets_the_oldest():
    rules = [tuple(range(1_000 * n, 1_000 * n + 20)) for n in range(1, 1_001)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    memory = Recent(1 << 20, _size)
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
    memory = Recent(RULE_BYTES, _size)
    memory.keep((1, 2), states(2))
    assert (len(memory), memory.size) == (0, 0)
    assert memory.get((1, 2)) is None


def test_a_pair_is_a_rule_and_a_text_in_a_row():
    pair = Parts((2, 7, 3), Window([2, 8, 9, 3], [0, 1, 1, 1], 1, 0, 2))
    assert pair.ids == [2, 7, 3, 2, 8, 9, 3]
    assert pair.types == [0, 0, 0, 0, 1, 1, 1]


@dataclass
class Opened:
    """A ruling whose pairs are due in groups."""

    encoder: Any
    pairs: list[list[str]]
    logits: list[list[float | None]]
    groups: list[list[tuple[int, int]]]

    def open(self) -> list[list[tuple[int, int]]]:
        return self.groups


def test_windows_of_a_long_text_are_read_one_after_another_for_all_rules():
    class Reader:
        """Reads windows, and says what a pair takes: ten tokens, and five to read its text."""

        def __init__(self) -> None:
            self.reads: list[str] = []

        def cost(self, _: str, first: bool, known: bool) -> int:
            return 10 + 5 * first + 100 * (not known)

        def knows(self, pair: str) -> bool:
            return not pair.startswith("cold")

        def read(self, pair: str) -> str:
            self.reads.append(pair)
            return f"states for {pair}"

        def score(self, pair: str, said: str) -> float:
            return float(said == f"states for warm {pair.split()[-1]}")

    # One pair was judged before.
    ruling: Any = Opened(
        Reader(),
        [[f"{rule} {window}" for window in range(3)] for rule in ("warm", "cold")],
        [[None] * 3, [None] * 3],
        [[(0, 0), (1, 0)], [(0, 1)], [(0, 2), (1, 2)]],
    )
    waiting, most = [PairTask(ruling, 1, 1)], 0
    while waiting:
        task = waiting.pop(0)
        left, estimate = len(ruling.encoder.reads), task.cost
        more = task.open()
        if left == 0:
            # All at once: what is known of the costs before any rule is read.
            assert sum(one.cost for one in (task, *more)) - 100 == 5 * 10 + 3 * 5
            assert estimate == 1
        waiting += more
        most = max(most, sum(one.said is not None for one in (task, *waiting)))
        task.run()
        assert task.said is None
    assert ruling.logits == [[1.0, 1.0, 1.0], [1.0, None, 1.0]]
    assert ruling.encoder.reads == ["warm 0", "warm 1", "warm 2"]
    # Two of a window, and at most the next one's beside its last.
    assert most <= 3


def test_what_is_known_already_takes_nothing():
    known: Any = Opened(None, [["a"]], [[1.0]], [])
    task = PairTask(known, 7, 1)
    assert task.open() == []
    assert task.cost == 0
    task.run()
