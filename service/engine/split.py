"""A split policy encoder: rules are read once a policy, texts once a request, pairs by the rest.

Of what rules are read to, the most recently used are kept, within a bound of bytes; of a text no
longer than its pairs wait. Both are float16 from the graph on, so that a pair comes to the same
whether its rule was read just now or an hour ago.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.engine.policy_encoder import Encoder, Pair, checked_session
from service.engine.recent import Recent
from tamis import rules
from tamis.reasoner.protocol import Guideline
from tamis.rules import Encode, PairShape, PolicyEncoder, Text
from tamis.windows import Window

# Measured with tracemalloc (tests/service/test_split.py): a rule's place among those kept, and
# each of its tokens in the name that it is kept by.
RULE_BYTES: Final = 500
TOKEN_BYTES: Final = 36
# What files and commands may keep of rules; the service's own bound is a setting.
KEPT_BYTES: Final = 32 * 1024 * 1024
# (1, tokens, width)
States = NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A rule and a window of a text, each as read alone."""

    rule: tuple[int, ...]
    text: Window
    ids: Sequence[int] = field(init=False)
    """Of both, in a row, as the upper layers read them."""
    types: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", [*self.rule, *self.text.ids])
        object.__setattr__(self, "types", [0] * len(self.rule) + self.text.types)


class SplitEncoder(Encoder):
    """A split encoder's bundle ready to judge. Thread-safe as ``Encoder``."""

    def __init__(self, bundle: PolicyEncoder, cache_bytes: int = 0, states_bytes: int = 0) -> None:
        """Load both graphs; ``states_bytes`` bounds the memory of rules that were read.

        Raises:
            BundleError: where a graph has other inputs or outputs.
        """
        super().__init__(bundle, cache_bytes)
        assert bundle.joint is not None
        self._joint = checked_session(bundle.joint, [{*rules.PARTS}], rules.OUTPUT)
        self._typed = any(one.name == rules.TYPES for one in self._session.get_inputs())
        self.states: Recent[tuple[int, ...], States] = Recent(states_bytes, _size)
        # What a token costs the lower layers, in tokens of the upper ones.
        self.ratio = bundle.split / (bundle.layers - bundle.split)

    def pairs(self, asked: Sequence[Guideline], texts: Sequence[Text]) -> list[Sequence[Pair]]:
        """By rule, its pairs with a content's texts; all rules have the same windows, in order."""
        windows = [one for text in texts for one in rules.texts_alone(text, self.bundle.shape)]
        return [[Parts(self.rule(rule), window) for window in windows] for rule in asked]

    def cost(self, pair: Pair, first: bool, known: bool) -> int:
        """What a pair takes, in tokens of the upper layers, with what is read for it."""
        assert isinstance(pair, Parts)
        alone = len(pair.text.ids) if first else 0
        alone += 0 if known else len(pair.rule)
        return len(pair.ids) + round(self.ratio * alone)

    def knows(self, pair: Pair) -> bool:
        """Whether a pair's rule was read before."""
        assert isinstance(pair, Parts)
        return pair.rule in self.states

    def groups(self, places: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """By windows: a text is read when the first of its pairs is due, for all of them."""
        found: dict[int, list[tuple[int, int]]] = {}
        for n, i in places:
            found.setdefault(i, []).append((n, i))
        return list(found.values())

    def read(self, pair: Pair) -> States | None:
        """What the lower layers make of a pair's text."""
        assert isinstance(pair, Parts)
        return self._alone(pair.text.ids, pair.text.types)

    def trial(self, tokens: int) -> Pair:
        """A pair to warm up with."""
        shape, rule = self.bundle.shape, tokens // 4
        text = [shape.cls, *[shape.sep] * (tokens - rule - 1)]
        window = Window(text, [0, *[1] * (len(text) - 1)], 1, 0, len(text) - 2)
        return Parts((shape.cls, *[shape.sep] * (rule - 1)), window)

    @property
    def held(self) -> int:
        """Bytes of what rules were read to."""
        return self.states.size

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self.states.clear()

    def _run(self, pair: Pair, said: States | None) -> float:
        assert isinstance(pair, Parts)
        text = self.read(pair) if said is None else said
        rule = self.states.get(pair.rule)
        if rule is None:
            # Two may do so at once; both come to the same.
            rule = self._alone(pair.rule, [0] * len(pair.rule))
            self.states.keep(pair.rule, rule)
        judged = np.array([pair.text.types])
        feed = dict(zip(rules.PARTS, (rule, text, judged), strict=True))
        logits: NDArray[np.float32] = self._joint.run([rules.OUTPUT], feed)[0]
        return float(logits[0, 0])

    def _alone(self, ids: Sequence[int], types: Sequence[int]) -> States:
        feed = {rules.IDS: np.array([ids])}
        if self._typed:
            feed[rules.TYPES] = np.array([types])
        states: States = self._session.run([rules.STATES], feed)[0]
        return states

    @staticmethod
    def _rule(ids: Encode, shape: PairShape, rule: Guideline) -> tuple[int, ...]:
        return tuple(rules.rule_alone(Encoder._rule(ids, shape, rule), shape))

    def _load(self) -> Any:
        allowed = [{rules.IDS}, {rules.IDS, rules.TYPES}]
        return checked_session(self.bundle.graph, allowed, rules.STATES)


def encoder_of(bundle: PolicyEncoder, cache_bytes: int = 0, states_bytes: int = 0) -> Encoder:
    """A policy encoder of either kind; raises as they do."""
    if bundle.joint is None:
        return Encoder(bundle, cache_bytes)
    return SplitEncoder(bundle, cache_bytes, states_bytes)


def _size(rule: tuple[int, ...], states: States) -> int:
    return RULE_BYTES + TOKEN_BYTES * len(rule) + states.nbytes
