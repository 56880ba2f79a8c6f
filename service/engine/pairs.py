"""Pairs of rules and texts in the engine's queue: tokenised by a worker, run in even groups."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from service.engine.encoder import Encoder, RuleScore
from tamis.content import Content
from tamis.reasoning import Guideline
from tamis.rules import SPECIAL
from tamis.windows import Window

# Tokens of one run: as many as a classifier's window has, so that whoever waits for a worker waits
# no longer for pairs than for texts.
GROUP_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """One input: the rule it is of by its number, and its number among the rule's."""

    rule: int
    number: int
    window: Window


@dataclass(slots=True, eq=False)
class Ruling:
    """A content beside rules on its way: tokenised by the worker that takes it up.

    ``groups`` is in how many runs at least its pairs go, so that all workers have some.
    """

    encoder: Encoder
    content: Content
    rules: Sequence[Guideline]
    groups: int
    logits: list[list[float | None]] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)
    """By rule: those of its pairs, and of these the ones that were known."""

    def open(self) -> list[list[Pair]]:
        """Tokenise; returns what is to be run, in groups of about equal lengths."""
        texts = self.encoder.texts(self.content)
        missing: list[Pair] = []
        for n, rule in enumerate(self.rules):
            windows = self.encoder.pairs(rule, texts)
            known = self.encoder.memory.get(windows)
            self.logits.append(known)
            sizes = [len(window.ids) for window in windows]
            read = sum(sizes[i] for i, logit in enumerate(known) if logit is not None)
            self.tokens.append((sum(sizes), read))
            missing += [Pair(n, i, windows[i]) for i, logit in enumerate(known) if logit is None]
        return list(_grouped(missing, self.groups))

    def run(self, group: Sequence[Pair]) -> None:
        """Run one group."""
        logits = self.encoder.score([pair.window for pair in group])
        for pair, logit in zip(group, logits, strict=True):
            self.logits[pair.rule][pair.number] = logit

    @property
    def scores(self) -> dict[Guideline, RuleScore]:
        """What it came to, once everything has run."""
        found = {}
        for rule, logits, (tokens, known) in zip(self.rules, self.logits, self.tokens, strict=True):
            scored = [logit for logit in logits if logit is not None]
            assert len(scored) == len(logits)
            probability = self.encoder.probability(self.content.question, scored)
            found[rule] = RuleScore(probability, tokens, known)
        return found


@dataclass(slots=True, eq=False)
class PairTask:
    """A group of a ruling's pairs. Without one it stands for them all, and nobody has opened it."""

    ruling: Ruling
    cost: int
    weight: int
    group: Sequence[Pair] | None = None

    def open(self) -> "list[PairTask]":
        """Become the first group; the tasks of the others are returned."""
        if self.group is not None:
            return []
        first, *more = self.ruling.open() or [[]]
        self.group, self.cost = first, padded(first)
        return [PairTask(self.ruling, padded(group), self.weight, group) for group in more]

    def run(self) -> None:
        """Run the group."""
        if self.group:
            self.ruling.run(self.group)


def task_of(ruling: Ruling, tokens: Callable[[str], int], weight: int) -> PairTask:
    """A task for all of a ruling, with what it is likely to cost by an estimate of tokens."""
    shape, content = ruling.encoder.bundle.shape, ruling.content
    text = tokens(content.text)
    before = 0 if content.context is None else tokens(content.context)
    before = min(before, shape.context_tokens)
    cost = 0
    for rule in ruling.rules:
        lead = min(tokens(rule.name) + tokens(rule.definition or ""), shape.rule_tokens)
        lead += before + SPECIAL
        step = shape.max_tokens - lead - shape.overlap
        cost += text + math.ceil(max(text, 1) / step) * lead
    return PairTask(ruling, cost, weight)


def padded(group: Sequence[Pair]) -> int:
    """Tokens of a run, padding included."""
    return len(group) * max((len(pair.window.ids) for pair in group), default=0)


def _grouped(pairs: Sequence[Pair], least: int) -> Iterator[list[Pair]]:
    """Pairs of about equal length together, in groups of about equal size."""
    ordered = sorted(pairs, key=lambda pair: len(pair.window.ids))
    total = sum(len(pair.window.ids) for pair in ordered)
    wanted = max(math.ceil(total / GROUP_TOKENS), 1)
    # A multiple of the workers: none of them runs while the others have nothing left.
    wanted = min(math.ceil(wanted / least) * least, len(ordered))
    size = total / max(wanted, 1)
    group: list[Pair] = []
    for pair in ordered:
        length = len(pair.window.ids)
        grown = (len(group) + 1) * length
        if group and (grown > GROUP_TOKENS or grown - length / 2 > size):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group
