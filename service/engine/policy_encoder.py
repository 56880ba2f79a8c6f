"""A policy's own rules beside a content → calibrated probabilities: pair by pair, each run once."""

import hashlib
import math
import secrets
from array import array
from collections.abc import Collection, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.engine.evidence import logistic
from service.engine.recent import Recent
from service.engine.runtime import cpu_session
from tamis import rules
from tamis.bundle import BundleError
from tamis.content import Content, Question
from tamis.reading import read
from tamis.reasoner.protocol import Guideline
from tamis.rules import Encode, Hints, PairShape, PolicyEncoder, Text
from tamis.tokens import plain_tokenizer
from tamis.verdict import Finding, Second
from tamis.windows import Window

# Rules whose tokens are kept, by what they say: 20 MB where all are as long as may be.
MOST_RULES: Final = 4_096
# Measured with tracemalloc (tests/service/test_rules.py): a logit, its key, its place in the order.
PAIR_BYTES: Final = 210


class Pair(Protocol):
    """A rule beside a window of a text."""

    @property
    def ids(self) -> Sequence[int]:
        """Tokens of both."""

    @property
    def types(self) -> Sequence[int]:
        """Of each token, 1 where it is judged."""


class RuleScore(NamedTuple):
    """How likely a content breaks one rule, and the tokens that were read for that."""

    probability: float
    tokens: int
    known: int
    """How many of them were read before."""


class Encoder:
    """A policy encoder's bundle ready to judge. Thread-safe: what it remembers has a lock.

    It runs on the CPU, whatever the classifier runs on: its graph is made of CPU operators.
    """

    def __init__(self, bundle: PolicyEncoder, cache_bytes: int = 0) -> None:
        """Load the graph; ``cache_bytes`` bounds the memory of pairs that were run, 0 is none.

        Raises:
            BundleError: where the graph has other inputs or outputs.
        """
        self.bundle = bundle
        self._session = self._load()
        thresholds = {name: head.thresholds for name, head in bundle.heads.items()}
        self.who = Second(bundle.name, bundle.fingerprint, thresholds, "rules")
        self._ids: Encode = partial(_ids, plain_tokenizer(bundle.tokenizer))
        self.memory = Logits(cache_bytes)
        # Of no method of its own, by which it would hold itself: one that is replaced was there
        # when the service froze its garbage collector, and would stay for good.
        self.rule = lru_cache(MOST_RULES)(partial(self._rule, self._ids, bundle.shape))

    @property
    def hinted(self) -> bool:
        """Whether it reads what the classifier says of a text, which is then asked first."""
        return self.bundle.shape.hints

    def texts(self, content: Content, found: Finding | None = None) -> list[Text]:
        """A content's tokens as it stands and, where that differs, once decoded; none if empty.

        ``found`` is what the classifier says of it, for an encoder that is ``hinted``.
        """
        hints = self._hints(found)
        said = read(content.text).views
        before = (None,) if content.context is None else read(content.context).views
        told: list[Text] = []
        for view, context in ((said[0], before[0]), (said[-1], before[-1])):
            behind = None if context is None else context.text
            if told and view is said[0] and context is before[0]:
                continue
            asked = Content(content.question, view.text, behind)
            text = rules.read_text(asked, self._ids, self.bundle.shape, hints)
            if text.judged and text not in told:
                told.append(text)
        return told

    def pairs(self, asked: Sequence[Guideline], texts: Sequence[Text]) -> list[Sequence[Pair]]:
        """By rule, its pairs with a content's texts, as inputs of the graph."""
        shape = self.bundle.shape
        return [
            [window for text in texts for window in rules.pairs(self.rule(rule), text, shape)]
            for rule in asked
        ]

    def cost(self, pair: Pair, first: bool, known: bool) -> int:  # noqa: ARG002
        """What a pair takes, in tokens.

        ``first``: of those that are due together. ``known``: its rule was read before.
        """
        return len(pair.ids)

    def knows(self, pair: Pair) -> bool:  # noqa: ARG002
        """Whether a pair's rule was read before; one that is never read alone has been."""
        return True

    def groups(self, places: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """Which pairs to run, each (rule, one of its pairs), as those that are due together."""
        return [[*places]] if places else []

    def read(self, pair: Pair) -> Any:  # noqa: ARG002
        """What is read once for all pairs of a window: nothing."""
        return None

    def score(self, pair: Pair, said: Any = None) -> float:
        """The logit of a pair, which is run, and remembered; ``said``: what was ``read`` for it.

        Raises:
            RuntimeError: as a classifier's ``score``.
        """
        logit = self._run(pair, said)
        if not math.isfinite(logit):
            raise RuntimeError("scores are no numbers")
        self.memory.keep(pair, logit)
        return logit

    def trial(self, tokens: int) -> Pair:
        """A pair to warm up with."""
        shape = self.bundle.shape
        ids = [shape.cls, *[shape.sep] * (tokens - 1)]
        return Window(ids=ids, types=[0] * tokens, lead=1, first=0, count=tokens - 2)

    @property
    def held(self) -> int:
        """Bytes of what rules were read to: none."""
        return 0

    def clear(self) -> None:
        """Forget everything."""
        self.memory.clear()

    def probability(
        self, question: Question, logits: Sequence[float], found: Finding | None = None
    ) -> float:
        """What the logits of a rule's pairs come to: the likeliest window speaks for the content.

        A content without any, which says nothing, breaks nothing. ``found`` as for ``texts``.
        """
        if not logits:
            return 0.0
        scale, bias = self.bundle.odds(question, self._hints(found))
        return logistic(scale * max(logits) + bias)

    def judge(
        self, content: Content, asked: Sequence[Guideline], found: Finding | None = None
    ) -> dict[Guideline, float]:
        """Judge on the calling thread, for files and evaluation; ``found`` as for ``texts``."""
        pairs = self.pairs(asked, self.texts(content, found))
        logits = [self.memory.get(each) for each in pairs]
        missing = [(n, i) for n, each in enumerate(logits) for i, z in enumerate(each) if z is None]
        for group in self.groups(missing):
            n, i = group[0]
            said = self.read(pairs[n][i])
            for n, i in group:
                logits[n][i] = self.score(pairs[n][i], said)
        return {
            rule: self.probability(content.question, [z for z in each if z is not None], found)
            for rule, each in zip(asked, logits, strict=True)
        }

    def _hints(self, found: Finding | None) -> Hints:
        return rules.hints_of(found) if self.hinted and found is not None else ()

    def _run(self, pair: Pair, said: Any) -> float:  # noqa: ARG002
        ids = np.array([pair.ids])
        feed = dict(
            zip(rules.INPUTS, (ids, np.ones_like(ids), np.array([pair.types])), strict=True)
        )
        logits: NDArray[np.float32] = self._session.run([rules.OUTPUT], feed)[0]
        return float(logits[0, 0])

    def _load(self) -> Any:
        return checked_session(self.bundle.graph, [{*rules.INPUTS}], rules.OUTPUT)

    @staticmethod
    def _rule(ids: Encode, shape: PairShape, rule: Guideline) -> tuple[int, ...]:
        return tuple(rules.read_rule(rule, ids, shape))


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    return list(encoding.ids)


def checked_session(graph: Path, inputs: Collection[set[str]], output: str) -> Any:
    """A session on one thread.

    Raises:
        BundleError: where the graph has other inputs, or another output.
    """
    session = cpu_session(graph, 1)
    found = {one.name for one in session.get_inputs()}
    if found not in inputs:
        raise BundleError(f"{graph}: inputs are {sorted(found)}")
    outputs = [one.name for one in session.get_outputs()]
    if outputs != [output]:
        raise BundleError(f"{graph}: outputs are {outputs}")
    return session


class Logits:
    """The logits of pairs that were run, by what the pairs hold; the least recently used go first.

    So nothing is run twice: not for a text that comes again, nor for one that has grown (but its
    end), nor for a rule that two policies share. Names are BLAKE2b under a secret of this process:
    memory tells nothing of a text.
    """

    def __init__(self, max_bytes: int) -> None:
        self._most = max_bytes // PAIR_BYTES
        self._secret = secrets.token_bytes(16)
        self._known: Recent[bytes, float] = Recent(self._most, lambda *_: 1)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, pairs: Sequence[Pair]) -> list[float | None]:
        """What pairs came to; None for those that have to be run."""
        if not self._most:
            return [None] * len(pairs)
        return [self._known.get(self._name(pair)) for pair in pairs]

    def keep(self, pair: Pair, logit: float) -> None:
        """Keep what a pair came to."""
        if self._most:
            self._known.keep(self._name(pair), logit)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    def _name(self, pair: Pair) -> bytes:
        digest = hashlib.blake2b(bytes(pair.types), key=self._secret, digest_size=16)
        digest.update(array("i", pair.ids))
        return digest.digest()
