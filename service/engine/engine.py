"""The asynchronous engine: contents in, findings and stage times out."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.engine.classifier import Classifier, Encoded, Scored
from service.engine.scheduler import Scheduler
from tamis.bundle import Bundle
from tamis.content import Content
from tamis.verdict import Finding
from tamis.windows import Window

# Shorter requests are tokenised on the event loop, sooner done than handed to a thread.
INLINE_CHARACTERS: Final = 4_000


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds by stage. ``queue`` is the wait of the first window, ``infer`` what follows."""

    tokenize: float
    queue: float
    infer: float
    total: float


class Engine:
    """A classifier behind a fair queue."""

    def __init__(self, classifier: Classifier, workers: int, max_queued_tokens: int) -> None:
        self.classifier = classifier
        self.scheduler: Scheduler[Window, Scored] = Scheduler(
            classifier.score, workers, max_queued_tokens
        )

    @property
    def bundle(self) -> Bundle:
        """The bundle that is served."""
        return self.classifier.bundle

    async def judge(
        self, items: Sequence[Sequence[Content]], evidence: bool = False
    ) -> tuple[list[list[Finding]], Timings]:
        """Findings for each content of each item, in order.

        Raises:
            OverloadedError: where the queue has no room.
        """
        began = time.perf_counter()
        contents = [content for item in items for content in item]
        if sum(len(c.text) + len(c.context or "") for c in contents) <= INLINE_CHARACTERS:
            encoded = self._encode(contents, evidence)
        else:
            encoded = await asyncio.to_thread(self._encode, contents, evidence)
        tokenized = time.perf_counter()
        jobs = [(window, len(window.ids)) for e in encoded for window in e.windows]
        scored, queued = await self.scheduler.submit(jobs)
        results = iter(scored)
        findings = iter(
            [self.classifier.finding(e, [next(results) for _ in e.windows]) for e in encoded]
        )
        grouped = [[next(findings) for _ in item] for item in items]
        ended = time.perf_counter()
        return grouped, Timings(
            tokenize=(tokenized - began) * 1e3,
            queue=queued * 1e3,
            infer=(ended - tokenized - queued) * 1e3,
            total=(ended - began) * 1e3,
        )

    def close(self) -> None:
        """Finish what is queued and stop the workers."""
        self.scheduler.close()

    def _encode(self, contents: Sequence[Content], evidence: bool) -> list[Encoded]:
        return [self.classifier.encode(content, evidence) for content in contents]
