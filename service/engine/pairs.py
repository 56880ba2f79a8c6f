"""Pairs of rules and texts in the engine's queue: tokenised by a worker, run one by one.

One by one, as windows are on a CPU: whoever waits for a worker waits for no more than a pair, and a
score depends on no company. Two pairs of 80 tokens in one run would take 8 % less time, of 128 two
per cent and of 250 none, and move probabilities in the sixth digit.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from service.engine.policy_encoder import Encoder, Pair, RuleScore
from service.engine.scheduler import DeadlineError, Scheduler
from service.engine.split import SplitEncoder
from tamis.content import Content
from tamis.reasoner.protocol import Guideline
from tamis.rules import SPECIAL
from tamis.taxonomy import ATTACK
from tamis.verdict import Finding, Ruled


@dataclass(slots=True, eq=False)
class Ruling:
    """A content beside rules on its way; by rule, its pairs and what they came to."""

    encoder: Encoder
    content: Content
    rules: Sequence[Guideline]
    found: Finding | None = None
    """What the classifier says of it."""
    pairs: list[Sequence[Pair]] = field(default_factory=list)
    logits: list[list[float | None]] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    """By rule: tokens of pairs that did not have to be run."""

    def open(self) -> "Sequence[Group]":
        """Tokenise; returns which pairs are to be run, those together that are due together."""
        self.pairs = self.encoder.pairs(self.rules, self.encoder.texts(self.content, self.found))
        self.logits = [self.encoder.memory.get(pairs) for pairs in self.pairs]
        missing = []
        for n, (pairs, logits) in enumerate(zip(self.pairs, self.logits, strict=True)):
            run = [i for i, logit in enumerate(logits) if logit is None]
            self.known.append(sum(len(pair.ids) for pair in pairs))
            self.known[n] -= sum(len(pairs[i].ids) for i in run)
            missing += [(n, i) for i in run]
        return self.encoder.groups(missing)

    @property
    def scores(self) -> dict[Guideline, RuleScore]:
        """What it came to, once everything has run."""
        found = {}
        for n, rule in enumerate(self.rules):
            logits = [logit for logit in self.logits[n] if logit is not None]
            assert len(logits) == len(self.pairs[n])
            probability = self.encoder.probability(self.content.question, logits, self.found)
            tokens = sum(len(pair.ids) for pair in self.pairs[n])
            found[rule] = RuleScore(probability, tokens, self.known[n])
        return found


# Pairs, each by the place of its rule and its own.
Group = Sequence[tuple[int, int]]


@dataclass(slots=True, eq=False)
class PairTask:
    """One pair of a ruling. Until it is opened it stands for all, or for those of some groups."""

    ruling: Ruling
    cost: int
    weight: int
    place: tuple[int, int] | None = None
    """Of which rule, and which of its pairs."""
    said: Any = None
    """What the encoder has read for all pairs of a group. It goes with the last of them."""
    groups: deque[Group] | None = None
    """Those it stands for; None before anything was tokenised."""

    def open(self) -> "list[PairTask]":
        """Become the first pair; the tasks of the others are returned.

        Groups follow one by one, so that little is held of a long text.
        """
        if self.place is not None:
            return []
        if self.groups is None:
            self.groups = deque(self.ruling.open())
            self.cost = sum(self._cost(group) for group in self.groups)
        if not self.groups:
            return []
        group = self.groups.popleft()
        left = self.cost - self._cost(group)
        pairs, encoder = self.ruling.pairs, self.ruling.encoder
        read = encoder.read(pairs[group[0][0]][group[0][1]])
        tasks = []
        for k, (n, i) in enumerate(group):
            cost = encoder.cost(pairs[n][i], k == 0, encoder.knows(pairs[n][i]))
            tasks.append(PairTask(self.ruling, cost, self.weight, (n, i), read))
        if self.groups:
            tasks.append(PairTask(self.ruling, left, self.weight, groups=self.groups))
        self.place, self.cost, self.said = tasks[0].place, tasks[0].cost, read
        return tasks[1:]

    def _cost(self, group: Group) -> int:
        """Of a group whose rules were read before, as most have been when it is their turn."""
        pairs, cost = self.ruling.pairs, self.ruling.encoder.cost
        return sum(cost(pairs[n][i], k == 0, True) for k, (n, i) in enumerate(group))

    def run(self) -> None:
        """Run the pair, if there is one."""
        if self.place is not None:
            n, i = self.place
            pair, said = self.ruling.pairs[n][i], self.said
            self.said = None
            self.ruling.logits[n][i] = self.ruling.encoder.score(pair, said)


class Rulings:
    """Judges rules that no classifier knows, on the cores that the classifier runs on."""

    def __init__(
        self,
        encoder: Encoder,
        scheduler: Scheduler[PairTask],
        *,
        weight: int,
        tokens: Callable[[str], int],
        tell: Callable[[Sequence[RuleScore], float, int], None],
    ) -> None:
        """Nothing runs yet.

        Args:
            encoder: who judges.
            scheduler: where its pairs wait; it takes other tasks, too.
            weight: what a token costs in the scheduler's own.
            tokens: estimates how many a text has.
            tell: hears of scores, the seconds they took, and the bytes of rules that are kept.
        """
        self.encoder, self.scheduler = encoder, scheduler
        self._weight, self._tokens, self._tell = weight, tokens, tell

    async def judge(
        self,
        contents: Sequence[Content],
        rules: Sequence[Guideline],
        deadline: float | None = None,
        findings: Sequence[Finding] = (),
    ) -> list[dict[Guideline, RuleScore]]:
        """How likely each content breaks each rule; ``deadline`` in seconds from now.

        ``findings`` are what the classifier says of the contents. A score depends on its content,
        its finding, its rule, and nothing else. Cancelling the caller drops what has not started.

        Raises:
            OverloadedError, DeadlineError: as ``Scheduler.submit``.
        """
        began = time.perf_counter()
        rulings = [
            Ruling(self.encoder, content, rules, found)
            for content, found in zip_longest(contents, findings)
        ]
        tasks = [task_of(ruling, self._tokens, self._weight) for ruling in rulings]
        await self.scheduler.submit(tasks, deadline)
        found = [ruling.scores for ruling in rulings]
        scores = [score for one in found for score in one.values()]
        self._tell(scores, time.perf_counter() - began, self.encoder.held)
        return found

    async def add(
        self,
        findings: list[Finding],
        contents: Sequence[Content],
        rules: Sequence[Guideline],
        began: float,
        deadline: float | None = None,
        waited: float = 0.0,
    ) -> None:
        """Put into findings what is to be said of rules; ``deadline`` in seconds from ``began``.

        Documents are nobody's request and nobody's answer: they are not asked about.

        Raises:
            OverloadedError, DeadlineError: as ``judge``; what went before counts as needed, but
                for the seconds of it that others' work took (``waited``).
        """
        asked = [n for n, content in enumerate(contents) if content.question != ATTACK]
        if not rules or not asked:
            return
        spent = time.perf_counter() - began
        if deadline is not None and spent >= deadline:
            raise DeadlineError
        left = None if deadline is None else deadline - spent
        try:
            some = [contents[n] for n in asked]
            found = await self.judge(some, rules, left, [findings[n] for n in asked])
        except DeadlineError as error:
            raise error.within(deadline, before=spent - waited) from None
        for n, scores in zip(asked, found, strict=True):
            probabilities = {rule: score.probability for rule, score in scores.items()}
            findings[n] = replace(findings[n], ruled=Ruled(self.encoder.who, probabilities))


def task_of(ruling: Ruling, tokens: Callable[[str], int], weight: int) -> PairTask:
    """A task for all of a ruling, with what it is likely to cost by an estimate of tokens.

    As if all rules had been read before, where that is done apart: most have.
    """
    shape, content = ruling.encoder.bundle.shape, ruling.content
    text = tokens(content.text)
    before = 0 if content.context is None else tokens(content.context)
    before = min(before, shape.context_tokens)
    cost = 0
    for rule in ruling.rules:
        lead = min(tokens(rule.name) + tokens(rule.definition or ""), shape.rule_tokens)
        lead += before + SPECIAL
        step = shape.max_tokens - lead - shape.overlap
        cost += text + math.ceil(text / step) * lead
    if ruling.rules and isinstance(ruling.encoder, SplitEncoder):
        cost += round(ruling.encoder.ratio * (text + before + SPECIAL))
    return PairTask(ruling, cost, weight)


def run_pairs(tasks: Sequence[PairTask], _: bool) -> None:
    """What a queue of pairs alone does with them."""
    for task in tasks:
        task.run()
