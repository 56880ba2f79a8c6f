"""The asynchronous engine: contents in, findings and stage times out."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias, TypeVar, cast

from service.engine.cache import Cache
from service.engine.estimate import TokenRate
from service.engine.flights import Flights, Lookup
from service.engine.judging import Hands, InProcess, Model, Reading, Served, WindowTask
from service.engine.memory import Memory, Work
from service.engine.opinions import Found, Opinions
from service.engine.pairs import PairTask, Rulings, run_pairs
from service.engine.policy_encoder import Encoder, RuleScore
from service.engine.priority import PATIENT, stand_back
from service.engine.queue import work
from service.engine.runtime import available_threads, has_quota
from service.engine.scheduler import DeadlineError, Events, Scheduler
from service.engine.timings import Timings
from service.engine.warmup import Pace
from tamis.bundle import Bundle
from tamis.content import Content
from tamis.reasoner.protocol import Guideline
from tamis.tiers import Bands, second_of
from tamis.verdict import Finding, Role

SPECIAL_TOKENS: Final = 3
# Up to so many tokens, two full windows, a request is prompt work: what people wait for.
PROMPT: Final = 512

R = TypeVar("R")


class EngineEvents(Events):
    """What an engine tells of itself."""

    def looked_up(self, result: Lookup) -> None:
        """A content was sought in the cache and among those being judged."""

    def ruled(self, scores: Sequence[RuleScore], seconds: float, held: int) -> None:
        """Contents were judged by rules, in so much time; ``held`` bytes of rules are kept."""


Task: TypeAlias = WindowTask | PairTask


class Engine:
    """A classifier behind fair queues, and a memory of what it said.

    Behind the same queues, on the same cores, may be others: one that is asked of texts in other
    languages (``read_by``), one of what the first one is unsure of (``consult``), and one of rules
    that are a policy's own (``rule_by``).
    """

    rules: Rulings | None = None
    """Who judges rules that are a policy's own; None while nobody does."""

    def __init__(
        self,
        classifier: Served,
        pace: Pace,
        *,
        workers: int,
        max_queued_tokens: int,
        max_wait: float,
        cache_bytes: int = 0,
        hands: Hands | None = None,
        events: EngineEvents | None = None,
    ) -> None:
        """Start the workers.

        ``pace`` is what warm-up measured; ``cache_bytes`` 0 judges every text anew; ``hands`` do
        the work, by default those of this process. For the rest see ``Scheduler``.
        """
        self.classifier = classifier
        self._first = Model(classifier, pace.wide_from)
        self._speed = pace.speed
        self._opinions = Opinions(self._judged, classifier)
        self._other: Model | None = None
        self.cache = Cache(cache_bytes) if cache_bytes else None
        self._events = events or EngineEvents()
        self._flights = Flights(self._read, self._is_patient, self._events.looked_up)
        self._hands = hands or InProcess()
        self._mine = threading.local()
        self._rate = TokenRate()
        self._limits = max_queued_tokens, max_wait
        self.scheduler: Scheduler[Task] = Scheduler(
            self._open,
            self._run,
            workers=workers,
            max_tokens=max_queued_tokens,
            max_wait=max_wait,
            batch_tokens=classifier.batch_tokens,
            speed=pace.speed * workers,
            # A GPU knows no priorities, and its batches are the better the more there is.
            prompt=None if classifier.batch_tokens else PROMPT,
            quota=has_quota(),
            begin=self._begin,
            events=self._events,
        )

    @property
    def bundle(self) -> Bundle:
        """The bundle that is served."""
        return self.classifier.bundle

    def consult(
        self, bands: Bands | None, second: Served | None = None, pace: Pace | None = None
    ) -> None:
        """From now on ask a second classifier of contents within these bands.

        While there are bands and no classifier, the first one answers, and its findings say so.
        """
        model = None
        if second is not None and pace is not None:
            model = self._model(second, pace, "accurate")
        self._opinions.bands, self._opinions.model = bands, model

    def read_by(self, other: Served, pace: Pace) -> None:
        """From now on have another classifier judge what the first one cannot read.

        A text that holds sentences of both is judged by both, and its finding holds both.
        Who reads a text depends on nothing but the text.
        """
        self._other = self._model(other, pace, "multilingual")

    def rule_by(self, encoder: Encoder, speed: float) -> None:
        """From now on judge rules by an encoder of so many tokens a second on a core.

        It runs in this process, whoever's hands do the rest, in the turns of the scheduler's
        threads. Where the classifier has a GPU, it has the cores, and a queue of its own.
        """
        scheduler, weight = cast("Scheduler[PairTask]", self.scheduler), 1
        if not self.classifier.batch_tokens:
            weight = max(1, round(self._speed / speed))
        elif self.rules is not None:
            scheduler = self.rules.scheduler
        else:
            (tokens, wait), cores = self._limits, available_threads()
            scheduler = Scheduler(
                PairTask.open,
                run_pairs,
                workers=cores,
                max_tokens=tokens,
                max_wait=wait,
                speed=speed * cores,
            )
        self.rules = Rulings(
            encoder, scheduler, weight=weight, tokens=self._estimate, tell=self._events.ruled
        )

    def _model(self, classifier: Served, pace: Pace, role: Role) -> Model:
        weight = max(1, round(self._speed / pace.speed))
        return Model(classifier, pace.wide_from, weight, second_of(classifier.bundle, role))

    async def judge(
        self,
        items: Sequence[Sequence[Content]],
        evidence: bool = False,
        deadline: float | None = None,
        rules: Sequence[Guideline] = (),
        alone: bool = False,
    ) -> tuple[list[list[Finding]], Timings]:
        """Findings for each content of each item, in order; ``deadline`` in seconds from now.

        ``rules`` are judged, too, where there is somebody to judge them. ``alone``: by the first
        bundle, in whatever language and without second opinions, for whoever reads its scores on a
        scale of its own.

        Cancelling the caller drops what has not started.

        Raises:
            OverloadedError: where the queue has no room, or would take too long.
            DeadlineError: where the deadline is too short for the work, or has passed.
        """
        began = time.perf_counter()
        contents = [content for item in items for content in item]
        other = None if alone else self._other
        readings = [Reading(self._first, other, one, evidence, once=alone) for one in contents]
        found = await self._judged(readings, deadline)
        # Rules first: they have to be judged, and a second opinion may take all the time there is.
        await self._ruled(found, contents, rules, began, deadline)
        if not alone:
            await self._opinions.add(found, contents, evidence, began, deadline)
        findings = iter(found.findings)
        return [[next(findings) for _ in item] for item in items], found.timings(began)

    async def rule(
        self, content: Content, rules: Sequence[Guideline], deadline: float | None = None
    ) -> dict[Guideline, RuleScore]:
        """How likely a content breaks rules, and nothing else; by ``self.rules``, which is there.

        An encoder that reads hints has the first bundle asked before.

        Raises:
            OverloadedError, DeadlineError: as ``judge``.
        """
        assert self.rules is not None
        findings: Sequence[Finding] = ()
        if self.rules.encoder.hinted:
            began = time.perf_counter()
            reading = Reading(self._first, self._other, content, False)
            findings = (await self._judged([reading], deadline)).findings
            if deadline is not None and (deadline := deadline + began - time.perf_counter()) <= 0:
                raise DeadlineError
        (scores,) = await self.rules.judge([content], rules, deadline, findings)
        return scores

    async def judge_growing(
        self,
        texts: Sequence[tuple[Content, Memory]],
        deadline: float | None = None,
        whole: bool = False,
        rules: Sequence[Guideline] = (),
    ) -> tuple[list[Finding], Timings, list[Work]]:
        """Findings of texts that may have been seen shorter, each with its memory.

        Told with them: the work of those who read them first. ``whole``: a text may not grow any
        more, and may be asked for again. Only then is a second opinion asked, without a memory.

        Raises:
            OverloadedError, DeadlineError: as ``judge``.
        """
        began = time.perf_counter()
        contents = [content for content, _ in texts]
        readings = [
            Reading(self._first, self._other, content, False, memory, once=not whole)
            for content, memory in texts
        ]
        found = self._recalled(readings) if whole else {}
        fresh = {n: reading for n, reading in enumerate(readings) if n not in found}
        queued = await self._read(list(fresh.values()), deadline, extra=False)
        for n, reading in fresh.items():
            found[n] = reading.finding
            if whole and self.cache is not None:
                key = self.cache.key(reading.content, False, reading.asked)
                self.cache.put(key, found[n])
            length, memory = len(reading.content.text), texts[n][1]
            if length >= memory.characters:
                assert reading.read is not None
                memory.keep(reading.read.scores, length)
        judged = Found.by(readings, [found[n] for n in range(len(texts))], queued)
        await self._ruled(judged, contents, rules, began, deadline)
        if whole:
            await self._opinions.add(judged, contents, False, began, deadline)
        work = [
            Work(found[n].windows) if reading.read is None else reading.read.work
            for n, reading in enumerate(readings)
        ]
        return judged.findings, judged.timings(began), work

    def close(self) -> None:
        """Finish what is queued and stop the workers."""
        self.scheduler.close()
        if self.rules is not None:
            self.rules.scheduler.close()
        self._hands.close()

    async def _ruled(
        self,
        found: Found,
        contents: Sequence[Content],
        rules: Sequence[Guideline],
        began: float,
        deadline: float | None,
    ) -> None:
        """Add what is to be said of rules."""
        if self.rules is not None and rules:
            await self.rules.add(found.findings, contents, rules, began, deadline, found.queued)
            found.known = time.perf_counter()

    def _estimate(self, text: str) -> int:
        """How many tokens a text has, by those that were tokenised."""
        return 1 + self._rate.tokens(len(text))

    def _recalled(self, readings: Sequence[Reading]) -> dict[int, Finding]:
        """By place, what those who are asked are remembered to have said."""
        if self.cache is None:
            return {}
        found = {}
        for n, reading in enumerate(readings):
            key = self.cache.key(reading.content, False, reading.asked)
            if hit := self.cache.get(key, reading.content):
                found[n] = hit
            self._events.looked_up("hit" if hit else "miss")
        return found

    async def _judged(
        self, readings: Sequence[Reading], deadline: float | None, extra: bool = False
    ) -> Found:
        """What those say who are asked first; ``extra`` as for the scheduler."""
        if self.cache is None:
            queued = await self._read(readings, deadline, extra)
            found = [reading.finding for reading in readings]
        else:
            found, queued = await self._flights.judge(readings, deadline, self.cache, extra)
        return Found.by(readings, found, queued)

    async def _read(
        self, readings: Sequence[Reading], deadline: float | None, extra: bool
    ) -> float:
        """Run what is asked."""
        tasks = [self._task(reading) for reading in readings]
        more = sum(task.cost for task in tasks if not task.reading.once)
        second = self._opinions.model
        if second is not None and deadline is None and more and not extra:
            # Nothing will cut a second opinion short, so there must be room for one.
            self.scheduler.check_patience(second.weight * more)
        return await self.scheduler.submit(tasks, deadline, extra=extra)

    def _task(self, reading: Reading) -> WindowTask:
        """A text that nobody has opened yet, with an estimate of its tokens."""
        tokens, shape = self._rate.tokens, reading.model.classifier.bundle.shape
        context = reading.content.context
        cost = SPECIAL_TOKENS + tokens(len(reading.content.text))
        if (memory := reading.memory) is not None:
            # What is new, and the last window, which has moved.
            new = len(reading.content.text) - memory.characters
            cost = min(cost, shape.max_tokens + tokens(max(new, 0)))
        if context is not None:
            cost += min(tokens(len(context)), shape.context_tokens)
        return WindowTask(reading, cost, reading.model.weight)

    def _is_patient(self, readings: Sequence[Reading]) -> bool:
        """Whether texts are too much, together, to be prompt work."""
        return sum(work(self._task(reading)) for reading in readings) > PROMPT

    def _begin(self, number: int, patient: bool) -> None:
        """A thread of the scheduler begins."""
        self._hands.begin(number, patient)
        if patient and not isinstance(self._hands, InProcess):
            # Pairs are run in this process all the same, by a thread that stands back. This one
            # must not: it holds Python's lock to hand things over, and everybody would wait for
            # it while workers have all cores.
            self._mine.aside = ThreadPoolExecutor(1, "tamis-pairs", stand_back, (PATIENT,))

    def _run(self, tasks: Sequence[Task], alone: bool) -> None:
        """Have windows scored, and run pairs."""
        windows = []
        for task in tasks:
            if isinstance(task, PairTask):
                self._here(task.run)
            else:
                windows.append(task)
        if windows:
            self._hands.run(windows, alone)

    def _here(self, work: Callable[[], R]) -> R:
        """Do something for a pair, in this process; ``_begin`` says on which thread."""
        aside: ThreadPoolExecutor | None = getattr(self._mine, "aside", None)
        return work() if aside is None else aside.submit(work).result()

    def _open(self, task: Task) -> Sequence[Task]:
        """Have a text opened, and learn how many tokens its characters make."""
        if isinstance(task, PairTask):
            return self._here(task.open)
        if task.place is not None:
            return ()
        more, tokens = self._hands.open(task)
        self._rate.learn(len(task.reading.content.text), tokens)
        return more
