"""A policy encoder behind a queue: contents and rules in, probabilities out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from service.engine.encoder import Encoder, RuleScore
from service.engine.pairs import PairTask, Ruling, task_of
from service.engine.scheduler import DeadlineError, Scheduler
from tamis.content import Content
from tamis.reasoning import Guideline
from tamis.taxonomy import ATTACK
from tamis.verdict import Finding, Ruled


class Rulings:
    """Judges rules that no classifier knows, on the cores that the classifier runs on."""

    def __init__(
        self,
        encoder: Encoder,
        scheduler: Scheduler[PairTask],
        *,
        weight: int,
        tokens: Callable[[str], int],
        tell: Callable[[Sequence[RuleScore], float], None],
    ) -> None:
        """Nothing runs yet.

        Args:
            encoder: who judges.
            scheduler: where its pairs wait; it takes other tasks, too.
            weight: what a token costs in the scheduler's own.
            tokens: estimates how many a text has.
            tell: hears of scores, and the seconds they took.
        """
        self.encoder, self.scheduler = encoder, scheduler
        self._weight, self._tokens, self._tell = weight, tokens, tell

    async def judge(
        self,
        contents: Sequence[Content],
        rules: Sequence[Guideline],
        deadline: float | None = None,
    ) -> list[dict[Guideline, RuleScore]]:
        """How likely each content breaks each rule; ``deadline`` in seconds from now.

        A score depends on its content, its rule, and nothing else. Cancelling the caller drops what
        has not started.

        Raises:
            OverloadedError, DeadlineError: as ``Scheduler.submit``.
        """
        began = time.perf_counter()
        rulings = [Ruling(self.encoder, content, rules) for content in contents]
        tasks = [task_of(ruling, self._tokens, self._weight) for ruling in rulings]
        await self.scheduler.submit(tasks, deadline)
        found = [ruling.scores for ruling in rulings]
        scores = [score for one in found for score in one.values()]
        self._tell(scores, time.perf_counter() - began)
        return found

    async def add(
        self,
        findings: list[Finding],
        contents: Sequence[Content],
        rules: Sequence[Guideline],
        began: float,
        deadline: float | None = None,
    ) -> None:
        """Put into findings what is to be said of rules; ``deadline`` in seconds from ``began``.

        Documents are nobody's request and nobody's answer: they are not asked about.

        Raises:
            OverloadedError, DeadlineError: as ``judge``; what went before counts as needed.
        """
        asked = [n for n, content in enumerate(contents) if content.question != ATTACK]
        if not rules or not asked:
            return
        spent = time.perf_counter() - began
        if deadline is not None and spent >= deadline:
            raise DeadlineError
        left = None if deadline is None else deadline - spent
        try:
            found = await self.judge([contents[n] for n in asked], rules, left)
        except DeadlineError as error:
            needed = error.needed
            raise DeadlineError(None if needed is None else spent + needed) from None
        for n, scores in zip(asked, found, strict=True):
            probabilities = {rule: score.probability for rule, score in scores.items()}
            findings[n] = replace(findings[n], ruled=Ruled(self.encoder.who, probabilities))


def run_pairs(tasks: Sequence[PairTask], _: bool) -> None:
    """What a queue of pairs alone does with them."""
    for task in tasks:
        task.run()
