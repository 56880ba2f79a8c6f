"""A policy's own rules beside a content → calibrated probabilities: pair by pair, each run once."""

import hashlib
import secrets
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.evidence import logistic
from service.engine.runtime import cpu_session
from tamis import rules
from tamis.bundle import BundleError
from tamis.content import Content, Question
from tamis.reading import read
from tamis.reasoner.protocol import Guideline
from tamis.rules import PolicyEncoder, Text
from tamis.tokens import plain_tokenizer
from tamis.verdict import Second
from tamis.windows import Window

# Rules whose tokens are kept, by what they say: 20 MB where all are as long as may be.
MOST_RULES: Final = 4_096
# Measured with tracemalloc (tests/service/test_rules.py): a logit, its key, its place in the order.
PAIR_BYTES: Final = 210


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
        self._session = cpu_session(bundle.graph, 1)
        inputs = {one.name for one in self._session.get_inputs()}
        if inputs != {*rules.INPUTS}:
            raise BundleError(f"{bundle.graph}: inputs are {sorted(inputs)}")
        outputs = [one.name for one in self._session.get_outputs()]
        if outputs != [rules.OUTPUT]:
            raise BundleError(f"{bundle.graph}: outputs are {outputs}")
        thresholds = {name: head.thresholds for name, head in bundle.heads.items()}
        self.who = Second(bundle.name, bundle.fingerprint, thresholds, "rules")
        self._tokenizer = plain_tokenizer(bundle.tokenizer)
        self.memory = Logits(cache_bytes)
        self.rule = lru_cache(MOST_RULES)(self._rule)

    def texts(self, content: Content) -> list[Text]:
        """A content's tokens as it stands and, where that differs, once decoded; none if empty."""
        said = read(content.text).views
        before = (None,) if content.context is None else read(content.context).views
        found: list[Text] = []
        for view, context in ((said[0], before[0]), (said[-1], before[-1])):
            behind = None if context is None else context.text
            if found and view is said[0] and context is before[0]:
                continue
            asked = Content(content.question, view.text, behind)
            text = rules.read_text(asked, self._ids, self.bundle.shape)
            if text.judged and text not in found:
                found.append(text)
        return found

    def pairs(self, rule: Guideline, texts: Sequence[Text]) -> list[Window]:
        """A rule beside a content's texts, as inputs of the graph."""
        ids, shape = self.rule(rule), self.bundle.shape
        return [window for text in texts for window in rules.pairs(ids, text, shape)]

    def score(self, pair: Window) -> float:
        """The logit of a pair, which is run, and remembered."""
        logit = self._run(pair)
        self.memory.keep(pair, logit)
        return logit

    def probability(self, question: Question, logits: Sequence[float]) -> float:
        """What the logits of a rule's pairs come to: the likeliest window speaks for the content.

        A content without any, which says nothing, breaks nothing.
        """
        if not logits:
            return 0.0
        head = self.bundle.head(question)
        return logistic(head.scale * max(logits) + head.bias)

    def judge(self, content: Content, asked: Sequence[Guideline]) -> dict[Guideline, float]:
        """Judge on the calling thread: for files and for evaluation."""
        texts = self.texts(content)
        found = {}
        for rule in asked:
            pairs = self.pairs(rule, texts)
            known = self.memory.get(pairs)
            logits = [
                self.score(pair) if logit is None else logit
                for pair, logit in zip(pairs, known, strict=True)
            ]
            found[rule] = self.probability(content.question, logits)
        return found

    def _run(self, pair: Window) -> float:
        ids = np.array([pair.ids])
        feed = dict(
            zip(rules.INPUTS, (ids, np.ones_like(ids), np.array([pair.types])), strict=True)
        )
        logits: NDArray[np.float32] = self._session.run([rules.OUTPUT], feed)[0]
        return float(logits[0, 0])

    def _rule(self, rule: Guideline) -> tuple[int, ...]:
        return tuple(rules.read_rule(rule, self._ids, self.bundle.shape))

    def _ids(self, text: str) -> list[int]:
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)


class Logits:
    """The logits of pairs that were run, by what the pairs hold; the least recently used go first.

    So nothing is run twice: not for a text that comes again, nor for one that has grown (but its
    end), nor for a rule that two policies share. Names are BLAKE2b under a secret of this process:
    memory tells nothing of a text.
    """

    def __init__(self, max_bytes: int) -> None:
        self._most = max_bytes // PAIR_BYTES
        self._secret = secrets.token_bytes(16)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, pairs: Sequence[Window]) -> list[float | None]:
        """What pairs came to; None for those that have to be run."""
        if not self._most:
            return [None] * len(pairs)
        names = [self._name(pair) for pair in pairs]
        with self._lock:
            for name in names:
                if name in self._known:
                    self._known.move_to_end(name)
            return [self._known.get(name) for name in names]

    def keep(self, pair: Window, logit: float) -> None:
        """Keep what a pair came to."""
        if not self._most:
            return
        name = self._name(pair)
        with self._lock:
            self._known[name] = logit
            if len(self._known) > self._most:
                self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()

    def _name(self, pair: Window) -> bytes:
        digest = hashlib.blake2b(bytes(pair.types), key=self._secret, digest_size=16)
        digest.update(array("i", pair.ids))
        return digest.digest()
