"""The reasoner as the service offers it: found, loaded beside the classifier, asked, explained."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from starlette.concurrency import run_in_threadpool

from service.engine.reasoner.explanation import Explanation, Given, Reading
from service.engine.reasoner.labels import SameLabelsError
from service.engine.reasoner.queue import Explainer
from service.engine.reasoner.reasoner import Emit, Pause, Policy, Reasoner, TooLongError
from service.engine.runtime import background_threads
from service.errors import RequestError, retry_after
from service.moderation.arrival import LOOK, Arrival, State
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis import policy as policies
from tamis.content import Content
from tamis.deciding import Breach
from tamis.reasoner import bundle as reasoners
from tamis.reasoner.protocol import GuidelineError
from tamis.taxonomy import ATTACK, taxonomy
from tamis.verdict import Verdict

logger = logging.getLogger("tamis.service")

T = TypeVar("T")

# What a build takes on two cores, and what a load takes.
SOON: Final = {"building": 30.0, "loading": 2.0}


@dataclass(frozen=True, slots=True)
class Explained:
    """What is said of one item: of which content, and how long it took in milliseconds."""

    field: str
    explanation: Explanation
    agrees: bool | None
    """Whether the classifier's verdict is the same; None where either has none."""
    ms: float


# Why an item with a verdict has no explanation.
Unexplained = Literal["overloaded", "late"]
NOTHING: Final = dict.fromkeys(
    ("safety", "category", "reason", "agrees", "probability", "fault", "field")
) | {"categories": {}, "tokens": 0, "cached_tokens": 0, "ms": None}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in its form for the reasoner, and where in the request it and the text stand."""

    policy: Policy
    note: str | None
    where: str
    text: str


class Reasoning:
    """The reasoner's state in a process. The classifier never waits for it."""

    def __init__(self, settings: Settings, metrics: Metrics, busy: Callable[[], bool]) -> None:
        self._settings, self._metrics, self._busy = settings, metrics, busy
        self.explainer: Explainer | None = None
        self._arrival = Arrival(settings.reasoner, "the reasoner's bundle")

    @property
    def state(self) -> State:
        """How the bundle stands."""
        return self._arrival.state

    @property
    def failure(self) -> str | None:
        """What is wrong with the latest bundle."""
        return self._arrival.failure

    async def watch(self) -> None:
        """Look for the bundle, which another process may build anew at any time, and load it."""
        await self._arrival.watch(self._take)

    async def _take(self, path: Path) -> None:
        """Load the bundle; what has served until then finishes what it was asked."""
        explainer = await run_in_threadpool(self._load, path)
        old, self.explainer = self.explainer, explainer
        self._metrics.reasoner_ready.set(1)
        bundle = explainer.bundle
        logger.info("reasoner ready: %s@%s", bundle.name, bundle.fingerprint[:12])
        if old is not None:
            while old.waiting:  # nothing new comes, and everything has its deadline
                await asyncio.sleep(LOOK)
            await run_in_threadpool(old.close)

    def _load(self, path: Path) -> Explainer:
        settings = self._settings
        bundle = reasoners.load(path)
        threads = settings.reasoner_threads or settings.threads or background_threads()
        return Explainer(
            lambda: Reasoner(bundle, threads, settings.reasoner_cache_bytes),
            max_waiting=settings.reasoner_max_waiting,
            seconds=settings.reasoner_seconds,
            busy=self._busy,
            events=self._metrics,
        )

    def loaded(self) -> Explainer:
        """The reasoner.

        Raises:
            RequestError: 503 where there is none (yet); with Retry-After where there will be.
        """
        if self.explainer is not None:
            return self.explainer
        said = {
            "off": "this service has no reasoner (TAMIS_REASONER is empty)",
            "absent": "the reasoner's bundle is not there; `tamis export reasoner` makes it",
            "building": "the reasoner's bundle is being built",
            "loading": "the reasoner is still loading",
            "failed": f"the reasoner could not be loaded: {self.failure}",
        }[self.state]
        wait = SOON.get(self.state)
        raise RequestError(
            said,
            code="reasoner_not_ready",
            status=503,
            headers=None if wait is None else retry_after(wait),
        )

    def guidelines(self, policy: policies.Policy) -> Policy:
        """A policy as the reasoner reads it.

        Raises:
            RequestError: 400 where the reasoner cannot answer with its categories.
        """
        try:
            return policy.guidelines
        except GuidelineError as error:
            raise RequestError(f"policy: {error}", param="policy", code="invalid_policy") from None

    def check_items(self, count: int, param: str = "input") -> None:
        """Refuse more items than one request may have explained.

        Raises:
            RequestError: naming the limit.
        """
        if count > (limit := self._settings.reasoner_max_items):
            raise RequestError(
                f"{param}: {count} items are over the limit of {limit} that are explained at once",
                param=param,
                code="too_many_items",
            )

    async def explain(
        self,
        name: str,
        contents: Sequence[Content],
        policy: Policy,
        verdict: Verdict | None,
        seconds: float | None,
        emit: Callable[[str], None] | None = None,
    ) -> Explained | None:
        """Explain one item; None where it holds no content. Attacks are not the reasoner's to find.

        Raises:
            RequestError: 400 where a text is too long, 503 where there is no reasoner.
            OverloadedError, DeadlineError: as ``Explainer.run``.
        """
        explainer = self.loaded()
        judged = [c for c in contents if c.text.strip() and c.question != ATTACK]
        if not judged:
            return None
        asked, most, tell = Asked(policy, None, "policy", name), self._most(True), _on_loop(emit)
        (best, found), waited = await self._run(
            explainer,
            asked,
            lambda model, pause: model.explain(policy, judged, pause, most, tell),
            seconds,
        )
        self._metrics.explained(found, waited)
        agrees = _agrees(found, verdict)
        return Explained(judged[best].field, found, agrees, _ms(found, waited))

    async def word(
        self,
        name: str,
        contents: Sequence[Content],
        policy: Policy,
        broken: Breach | None,
        seconds: float | None,
        emit: Callable[[str], None] | None = None,
    ) -> Explained | None:
        """Put an item's verdict into words; None where there is nothing to speak of.

        Raises:
            RequestError, OverloadedError, DeadlineError: as ``explain``.
        """
        if broken is None:
            return None
        content, decided = contents[broken.at], _decided(broken)
        if broken.broken and broken.category is None:
            # Nothing but the overall question found it: there is no rule to word.
            return Explained(content.field, Explanation(decided, "ok"), None, 0.0)
        asked = Asked(policy, None, "policy", name)
        found, waited = await self.worded(asked, content, decided, seconds, emit=emit)
        return Explained(content.field, found, None, _ms(found, waited))

    async def worded(
        self,
        asked: Asked,
        content: Content,
        decided: Reading,
        seconds: float | None,
        admitted: bool = False,
        emit: Callable[[str], None] | None = None,
    ) -> tuple[Explanation, float]:
        """Words for what was decided, and the seconds waited; ``admitted`` as ``Explainer.run``.

        Raises:
            RequestError, OverloadedError, DeadlineError: as ``explain``.
        """
        most, tell = self._most(True), _on_loop(emit)
        found, waited = await self._run(
            self.loaded(),
            asked,
            lambda model, pause: model.word(
                asked.policy, content, decided, pause, most, tell, asked.note
            ),
            seconds,
            admitted,
        )
        self._metrics.explained(found, waited)
        return found, waited

    async def decide(
        self,
        asked: Asked,
        content: Content,
        reasoned: bool,
        seconds: float | None,
        admitted: bool = False,
    ) -> Explanation:
        """Answer one question about a content; ``admitted`` as in ``Explainer.run``.

        Raises:
            RequestError, OverloadedError, DeadlineError: as ``explain``.
        """
        most, policy, note = self._most(reasoned), asked.policy, asked.note
        (_, found), waited = await self._run(
            self.loaded(),
            asked,
            lambda model, pause: model.explain(policy, [content], pause, most, note=note),
            seconds,
            admitted,
        )
        self._metrics.explained(found, waited)
        return found

    def _most(self, reasoned: bool) -> int:
        return self._settings.reasoner_max_tokens if reasoned else 0

    async def _run(
        self,
        explainer: Explainer,
        asked: Asked,
        work: Callable[[Reasoner, Pause], T],
        seconds: float | None,
        admitted: bool = False,
    ) -> tuple[T, float]:
        try:
            return await explainer.run(work, seconds, admitted)
        except TooLongError as error:
            raise _too_long(asked, error) from None
        except SameLabelsError:
            raise RequestError(
                f"{asked.where}: two categories are the same to the reasoner",
                param=asked.where,
                code="invalid_policy",
            ) from None

    def close(self) -> None:
        """Stop the reasoner's thread."""
        self._metrics.reasoner_ready.set(0)
        if self.explainer is not None:
            self.explainer.close()
            self.explainer = None


def explanation_json(explained: Explained | Unexplained | None) -> dict[str, Any] | None:
    """An explanation in the native contract; null for an item without text.

    What the model did not write in the agreed form is null, and ``status`` says why; a verdict that
    it was given stands whatever it wrote.
    """
    if explained is None:
        return None
    if isinstance(explained, str):
        return NOTHING | {"status": explained}
    found = explained.explanation
    reading = found.reading
    stands = found.status != "malformed" or reading.given is not None
    return {
        "status": found.status,
        "safety": reading.safety if stands else None,
        "category": reading.category if stands else None,
        "reason": found.reason,
        "agrees": explained.agrees,
        "probability": round(reading.unsafe, 4),
        "categories": {name: round(p, 4) for name, p in reading.categories.items()},
        "fault": found.fault,
        "field": explained.field,
        "tokens": reading.tokens + found.written,
        "cached_tokens": reading.cached,
        "ms": explained.ms,
    }


def _decided(broken: Breach) -> Reading:
    """What the reasoner is to word."""
    given = Given("unsafe" if broken.broken else "safe", broken.category)
    return Reading(broken.probability, dict(broken.scores), None, given=given)


def _on_loop(emit: Callable[[str], None] | None) -> Emit:
    """Hand on to the loop that runs now what the reasoner's thread writes."""
    loop = asyncio.get_running_loop()

    def tell(piece: str) -> None:
        if emit is not None:
            loop.call_soon_threadsafe(emit, piece)

    return tell


def _ms(found: Explanation, waited: float) -> float:
    return round((waited + found.verdict_seconds + found.reason_seconds) * 1e3, 2)


def _too_long(asked: Asked, error: TooLongError) -> RequestError:
    if not error.limit:
        return RequestError(
            f"{asked.where}: its categories leave the reasoner no room for a text",
            param=asked.where,
            code="invalid_policy",
        )
    return RequestError(
        f"{asked.text}: {error.tokens} tokens are over the limit of {error.limit} that the "
        "reasoner reads beside this policy",
        param=asked.text,
        code="text_too_long",
    )


def _agrees(found: Explanation, verdict: Verdict | None) -> bool | None:
    """Whether both say the same of what both were asked; None where that is nothing."""
    if verdict is None or found.status == "malformed":
        return None
    if not verdict.categories and verdict.threshold is None:
        return None  # categories of the caller's own alone
    category = found.reading.category
    if category is not None and category not in taxonomy().categories:
        return None  # for one of them
    # Attacks are the classifier's to find, and no answer of the reasoner's.
    overall = verdict.threshold is not None and verdict.score >= verdict.threshold
    flagged = overall or any(score.flagged for score in verdict.categories.values())
    return (category is not None) == flagged
