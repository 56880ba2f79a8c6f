"""What every dialect does: check limits, judge, decide, count."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from service.access import credentials
from service.configuration import Configuration
from service.engine.engine import Engine, Timings
from service.engine.loader import Loader, own_cores, workers_of
from service.engine.memory import Memory, Work
from service.engine.pairs import Rulings
from service.engine.reasoner.reasoner import Explanation
from service.engine.scheduler import DeadlineError, OverloadedError
from service.engine.workers.crew import LostError, WorkerLostError
from service.errors import RequestError, frames, retry_after
from service.moderation.disconnect import UntilDisconnect
from service.moderation.explaining import Asked, Explained, Reasoning, Unexplained
from service.moderation.judged import Judged
from service.moderation.masking import Masked, mask, missing
from service.moderation.questions import answered, rules_of
from service.moderation.rules import Rules
from service.moderation.streams import Streams
from service.moderation.tiers import Tiers, Tongues
from service.observing.answered import Digest, Judgement
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis.content import Content, NotThereError, Side, judged
from tamis.policy import MAX_DEADLINE_MS, MaskRule, Policy
from tamis.reasoner.protocol import Guideline
from tamis.verdict import Evidence, Finding, Provenance, Verdict, breach, decide, withhold

logger = logging.getLogger("tamis.service")

DEADLINE: Final = "x-request-timeout-ms"
POLICY: Final = "x-tamis-policy"
ENVOY_DEADLINE: Final = "x-envoy-expected-rq-timeout-ms"
MOST_DIGITS: Final = len(str(MAX_DEADLINE_MS)) + 1
# Characters from which on masking would hold up the event loop: some five milliseconds.
MASK_ASIDE: Final = 4_000
# Seconds between two looks whether all workers live.
TEND: Final = 1.0
REFUSALS: Final = {"invalid_api_key": "key", "missing_scope": "scope", "rate_limited": "rate"}


# Codes of refusals that leave an item without an explanation, but with its verdict.
UNEXPLAINED: Final[Mapping[str | None, Unexplained]] = {
    "overloaded": "overloaded",
    "deadline_exceeded": "late",
}


class Moderator:
    """The application's state: settings, configuration, metrics, and the engine once loaded."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Read policies and keys.

        Raises:
            PolicyError, KeysError: where a file cannot be used.
        """
        self.settings = settings
        self.metrics = metrics
        self.configuration = Configuration(settings, metrics)
        self.engine: Engine | None = None
        self.loader = _loader(settings, metrics)
        self.tiers = Tiers(settings, metrics, self.loader)
        self.tongues = Tongues(settings, metrics, self.loader)
        self.rules = Rules(settings, metrics)
        self._trials: set[asyncio.Task[None]] = set()
        self._started = asyncio.Event()
        self.reasoning = Reasoning(settings, metrics, self._busy)
        self.streams = Streams(self, settings, metrics)
        secret = settings.audit_secret
        self._digest = Digest(secret.get_secret_value() if secret else None)

    async def load(self) -> None:
        """Load and warm the engine without holding up the event loop.

        Where the tier has an accurate bundle, go on to look for that one until cancelled.

        Raises:
            BundleError, ProviderError: where the bundle or the provider is not usable.
        """
        if self.settings.tier == "accurate":
            await self.tiers.alone(self._start)
            return
        await self._start(self.settings.bundle)
        if self.settings.tier == "cascade":
            await self.tiers.beside(self.loaded())

    async def watch(self) -> None:
        """Look for the multilingual bundle until cancelled, once anything is judged."""
        await self._started.wait()
        await self.tongues.watch(self.loaded())

    async def watch_rules(self) -> None:
        """Look for the policy encoder until cancelled, once anything is judged."""
        await self._started.wait()
        await self.rules.watch(self.loaded())

    async def tend(self) -> None:
        """Replace workers that have ended until cancelled, whether or not anything is asked."""
        await self._started.wait()
        while (crew := self.loader.crew) is not None:
            await asyncio.sleep(TEND)
            try:
                await run_in_threadpool(crew.tend)
            except (OSError, LostError) as error:
                logger.error("no inference worker can be made: %s", error)

    async def _start(self, path: Path) -> None:
        """Serve a bundle, and beside it the multilingual one and the encoder that are there."""
        try:
            engine = await run_in_threadpool(self._load, path)
        except Exception as error:
            self.metrics.failed(error)
            raise
        await self.tongues.join(engine)
        await self.rules.join(engine)
        if self.loader.crew is not None:
            await run_in_threadpool(self.loader.crew.tend)
        self.engine, bundle = engine, engine.bundle
        self.metrics.ready.set(1)
        self._started.set()
        logger.info("ready: %s@%s", bundle.name, bundle.fingerprint[:12])
        # What is loaded stays: a full collection over it would hold up every request meanwhile.
        gc.collect()
        gc.freeze()

    def _load(self, path: Path) -> Engine:
        settings = self.settings
        classifier, pace = self.loader.load(path)
        bundle, running = classifier.bundle, self.loader.running
        engine = Engine(
            classifier,
            pace,
            workers=running.runs,
            max_queued_tokens=settings.max_queued_tokens,
            max_wait=settings.max_wait_ms / 1e3,
            cache_bytes=settings.cache_bytes,
            hands=self.loader.hands,
            events=self.metrics,
        )
        self.metrics.serving(
            {"name": bundle.name, "fingerprint": bundle.fingerprint},
            {
                "provider": running.provider,
                "threads": str(running.threads),
                "workers": str(running.runs),
            },
            "accurate" if settings.tier == "accurate" else "fast",
        )
        return engine

    def policy(
        self,
        request: Request,
        asked: str | Mapping[str, Any] | None = None,
        reasoned: bool = False,
    ) -> Policy:
        """The policy of a request: as asked for, in the body or a header, its key's, the default.

        Raises:
            RequestError: where there is none of that name, or it is not a policy; or where it has
                categories of its own, and there is neither a policy encoder nor is the reasoner
                asked (``reasoned``).
        """
        if asked is None:
            asked = request.headers.get(POLICY)
        policy = self.configuration.policy(asked, request.state.caller)
        # While the model is loading, what is asked of it is not refused for good.
        judged = self.engine is None or self.rulings is not None
        self.rules.check(policy, judged, reasoned)
        for kind in () if policy.mask is None else policy.mask.pii:
            if (package := missing(kind)) is not None:
                raise RequestError(
                    f"policy: 'mask' cannot find {kind!r} here: the package {package} is missing "
                    "(pip install 'tamis[pii]')",
                    param="policy",
                    code="invalid_policy",
                )
        return policy

    @property
    def rulings(self) -> Rulings | None:
        """Who judges categories that are a policy's own, where somebody does."""
        return None if self.engine is None else self.engine.rules

    def _rules_of(
        self, policy: Policy, items: Sequence[tuple[str, Sequence[Content]]]
    ) -> tuple[Guideline, ...]:
        """The rules to judge beside items; none where nobody could.

        Raises:
            RequestError: where they are too much to read.
        """
        if self.rulings is None or not policy.own:
            return ()
        self.rules.check_work(items, policy.rules)
        return policy.rules

    def offered(self, model: str | None) -> str | None:
        """A model's name that is a policy's: where a contract has no other place for it."""
        return model if model in self.configuration.policies else None

    def select(
        self,
        items: Sequence[tuple[str, Sequence[Content]]],
        policy: Policy,
        asked: Collection[Side] | None = None,
    ) -> Sequence[tuple[str, Sequence[Content]]]:
        """Items with those contents alone that the request, else the policy, wants judged.

        Raises:
            RequestError: naming the item that lacks one of them; or as ``check_lengths``, since
                what is not judged is read as context.
        """
        sides = policy.judge if asked is None else asked
        if sides is None:
            return items
        self.check_lengths(items)
        found = []
        for name, contents in items:
            try:
                found.append((name, judged(contents, sides)))
            except NotThereError as error:
                who = "the policy's 'judge'" if asked is None else "'judge'"
                raise RequestError(
                    f"{name}: {error}, which {who} asks for", param=name, code="nothing_to_judge"
                ) from None
        return found

    def _busy(self) -> bool:
        return self.engine is not None and self.engine.scheduler.queued_tokens > 0

    def enter(self, scope: Scope) -> None:
        """Let a request in before its body is read, or refuse it.

        Three times more requests than the machine can do must not take its cores by being parsed.

        Raises:
            RequestError: without a key that may; and as ``judge``, where no text would be short
                enough. A policy's deadline counts where it is offered by name.
        """
        headers, path, state = Headers(scope=scope), scope["path"], scope["state"]
        try:
            state["caller"] = self.configuration.access.enter(path, credentials(scope))
        except RequestError as error:
            self.metrics.refused.labels(REFUSALS[error.code]).inc()
            raise
        if state["judging"]:
            self.check_room(headers)

    def check_room(self, headers: Headers) -> None:
        """Refuse a request that would be refused however short its texts are.

        Raises:
            RequestError: as ``judge``.
        """
        if self.engine is not None:
            deadline = deadline_of(headers, self.configuration.patience)
            with self._refusals(deadline):
                self.engine.scheduler.check(deadline)

    def loaded(self) -> Engine:
        """The engine.

        Raises:
            RequestError: 503 while it is loading.
        """
        if self.engine is None:
            reason, seconds = self.tiers.wait
            raise RequestError(reason, code="not_ready", status=503, headers=retry_after(seconds))
        return self.engine

    def check_items(self, count: int, param: str = "input") -> None:
        """Refuse an empty or too long batch.

        Raises:
            RequestError: naming the limit.
        """
        if not count:
            raise RequestError(f"{param}: must hold at least one item", param=param)
        if count > self.settings.max_items:
            raise RequestError(
                f"{param}: {count} items are over the limit of {self.settings.max_items}",
                param=param,
                code="too_many_items",
            )

    async def judge(
        self,
        request: Request,
        items: Sequence[tuple[str, Sequence[Content]]],
        policy: Policy,
        evidence: bool = False,
        alone: bool = False,
    ) -> Judged:
        """Judge items under a policy; each comes with its name in the request (``input[3]``).

        ``alone`` asks the first bundle and no other, as the engine does.

        Raises:
            RequestError: 400 over the text limit or with a deadline under the work, 429 where the
                queue is full or too slow, 503 while loading, 504 past the deadline.
            ClientDisconnect: where the client has left; what waited is dropped.
        """
        self.check_lengths(items)
        own = None if policy.deadline_ms is None else policy.deadline_ms / 1e3
        deadline = deadline_of(request.headers, own)
        engine = self.loaded()
        rules = self._rules_of(policy, items)
        evidence = evidence or (policy.mask is not None and policy.mask.evidence)
        with self._refusals(deadline):
            async with UntilDisconnect(request.receive):
                contents = [c for _, c in items]
                findings, timings = await engine.judge(contents, evidence, deadline, rules, alone)
        return self._judged(request, contents, policy, findings, timings, evidence)

    async def mask(
        self,
        items: Sequence[Sequence[Content]],
        rule: MaskRule,
        evidence: Sequence[Sequence[Evidence]],
    ) -> list[list[Masked]]:
        """The contents of items as a policy wants them shown, with the evidence of each item."""

        def masked() -> list[list[Masked]]:
            pairs = zip(items, map(_by_field, evidence), strict=True)
            return [
                [mask(content, rule, found.get(content.field, ())) for content in item]
                for item, found in pairs
            ]

        length = sum(len(content.text) for item in items for content in item)
        return await run_in_threadpool(masked) if length > MASK_ASIDE else masked()

    async def judge_growing(
        self,
        request: Request,
        texts: Sequence[tuple[Content, Memory]],
        policy: Policy,
        whole: bool,
    ) -> tuple[Judged, list[Work]]:
        """Judge one item's texts so far, of which only what is not in their memory is run.

        Raises:
            RequestError: as ``judge``.
        """
        contents = [content for content, _ in texts]
        own = None if policy.deadline_ms is None else policy.deadline_ms / 1e3
        deadline = deadline_of(request.headers, own)
        engine = self.loaded()
        rules = self._rules_of(policy, [("text", contents)])
        with self._refusals(deadline):
            findings, timings, work = await engine.judge_growing(texts, deadline, whole, rules)
        judged = self._judged(request, [contents], policy, [findings], timings, evidence=False)
        return judged, work

    def decide_on(self, findings: Sequence[Finding], policy: Policy) -> Verdict:
        """What a policy makes of one item's findings, as a caller is told it."""
        bundle = self.loaded().bundle
        provenance = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        verdict = decide(findings, policy, bundle.thresholds, provenance)
        return withhold(verdict) if policy.mode == "score" else verdict

    def _judged(
        self,
        request: Request,
        contents: Sequence[Sequence[Content]],
        policy: Policy,
        findings: list[list[Finding]],
        timings: Timings,
        evidence: bool,
    ) -> Judged:
        """Decide, charge the caller, and leave word for those who observe."""
        bundle = self.loaded().bundle
        provenance = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        verdicts = [decide(found, policy, bundle.thresholds, provenance) for found in findings]
        self.configuration.access.charge(request.state.caller, len(contents))
        # Told to the observers, and judged on trial, once the answer is on its way.
        request.state.judgement = Judgement(
            at=time.time(),
            bundle=bundle,
            policy=policy,
            inline=self.configuration.policies.get(policy.name) is not policy,
            evidence=evidence,
            timings=timings,
            digest=self._digest,
            items=contents,
            findings=findings,
            verdicts=verdicts,
        )
        if (shadow := self.configuration.shadow(policy)) is not None:
            self._try(shadow, contents, findings, verdicts)
        if policy.mode == "score":
            return Judged([withhold(verdict) for verdict in verdicts], timings, findings)
        return Judged(verdicts, timings, findings)

    async def explain(
        self,
        request: Request,
        items: Sequence[tuple[str, Sequence[Content]]],
        policy: Policy,
        judged: Judged,
        emit: Callable[[str], None] | None = None,
    ) -> list[Explained | Unexplained | None]:
        """Explain items one after the other; judging them has cost their deadline its time already.

        Where there is a policy encoder, the verdicts stand, and the reasoner is given them to word;
        else it judges by itself.

        ``emit`` is given the reasons as they are written, in pieces, on the event loop. Without it
        the verdicts are still to be answered, and are not lost because there is no time or room to
        explain them.

        Raises:
            RequestError: 400 where a text or the policy is too long, 503 where there is no
                reasoner; with ``emit`` 429 where too many wait, 504 past the deadline.
            ClientDisconnect: where the client has left; the work ends at its next pause.
        """
        own = None if policy.deadline_ms is None else policy.deadline_ms / 1e3
        deadline = deadline_of(request.headers, own)
        guidelines = self.reasoning.guidelines(policy)
        began = time.perf_counter() - judged.timings.total / 1e3
        found: list[Explained | Unexplained | None] = []
        async with UntilDisconnect(request.receive):
            for n, (name, contents) in enumerate(items):
                left = None if deadline is None else deadline + began - time.perf_counter()
                asked = name, contents, guidelines
                if self.rulings is None:
                    explain = self.reasoning.explain(*asked, judged.verdicts[n], left, emit)
                else:
                    thresholds = self.loaded().bundle.thresholds
                    broken = breach(judged.findings[n], policy, thresholds)
                    explain = self.reasoning.word(*asked, broken, left, emit)
                try:
                    with self._refusals(deadline):
                        found.append(await explain)
                except RequestError as error:
                    if emit is not None or error.code not in UNEXPLAINED:
                        raise
                    found.append(UNEXPLAINED[error.code])
        return found

    async def decide(
        self, request: Request, asked: Sequence[Asked], content: Content, reasoned: bool
    ) -> list[Explanation]:
        """Answer questions about one content, one after the other, so that others come between.

        By the policy encoder, where there is one, which answers them all at once; the reasoner then
        says why, where that is wanted (``reasoned``).

        Raises:
            RequestError, ClientDisconnect: as ``explain``; 400 where they are too much to read.
        """
        deadline = deadline_of(request.headers, None)
        began = time.perf_counter()
        found: list[Explanation] = []
        rulings = self.rulings
        rules: tuple[Guideline, ...] = ()
        if rulings is not None:
            rules = tuple(dict.fromkeys(rule for one in asked for rule in rules_of(one)))
            self.rules.check_work([("input", [content])], rules)

        def left() -> float | None:
            return None if deadline is None else deadline + began - time.perf_counter()

        with self._refusals(deadline):
            async with UntilDisconnect(request.receive):
                # Let in with its first question: the others' answers are not thrown away.
                if rulings is None:
                    for n, one in enumerate(asked):
                        run = self.reasoning.decide(one, content, reasoned, left(), n > 0)
                        found.append(await run)
                else:
                    (scores,) = await rulings.judge([content], rules, deadline)
                    found = [answered(one, scores) for one in asked]
                    for n, one in enumerate(asked if reasoned else ()):
                        said = self.reasoning.worded(one, content, found[n].reading, left(), n > 0)
                        found[n] = (await said)[0]
        self.configuration.access.charge(request.state.caller, len(asked))
        return found

    def _try(
        self,
        shadow: Policy,
        contents: Sequence[Sequence[Content]],
        findings: Sequence[list[Finding]],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Judge on trial, once the answer is on its way."""
        if not shadow.own:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._tried, shadow, findings, verdicts)
            return
        trial = asyncio.create_task(self._try_rules(shadow, contents, findings, verdicts))
        self._trials.add(trial)
        trial.add_done_callback(self._trials.discard)

    async def _try_rules(
        self,
        shadow: Policy,
        contents: Sequence[Sequence[Content]],
        findings: Sequence[list[Finding]],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Judge on trial by rules, which has to be run, and waits its turn like any request."""
        flat = [content for item in contents for content in item]
        found = [finding for item in findings for finding in item]
        who = verdicts[0].provenance.policy, shadow.name, len(verdicts)
        rulings = self.rulings
        if rulings is None or not self.rules.fits(flat, shadow.rules):
            self.metrics.untried(*who)
            return
        try:
            await rulings.add(found, flat, shadow.rules, time.perf_counter())
        except OverloadedError:
            self.metrics.untried(*who)
            return
        except Exception as error:
            # Not left to the loop, whose report would quote the arguments.
            where = type(error).__name__, frames(error)
            logger.error("the trial of %s: %s\n%s", shadow.name, *where)
            return
        ruled = iter(found)
        self._tried(shadow, [[next(ruled) for _ in item] for item in findings], verdicts)

    def _tried(
        self, shadow: Policy, findings: Sequence[Sequence[Finding]], verdicts: Sequence[Verdict]
    ) -> None:
        own = verdicts[0].provenance
        provenance = replace(own, policy=shadow.name, policy_version=shadow.version)
        if self.engine is None:
            return
        thresholds = self.engine.bundle.thresholds
        trial = [decide(found, shadow, thresholds, provenance) for found in findings]
        self.metrics.shadowed(verdicts, trial)

    @contextmanager
    def _refusals(self, deadline: float | None) -> Iterator[None]:
        """What the engine refuses, as errors for the caller."""
        try:
            yield
        except OverloadedError as error:
            self.metrics.refused.labels(error.reason).inc()
            raise RequestError(
                "the service is at capacity",
                code="overloaded",
                status=429,
                headers=retry_after(error.retry_after),
            ) from None
        except WorkerLostError:
            raise RequestError(
                "the worker that judged this has ended, and the next one, too",
                code="worker_lost",
                status=503,
                headers=retry_after(1.0),
            ) from None
        except DeadlineError as error:
            if error.needed is None:
                raise RequestError(
                    "the deadline passed before the work was done",
                    code="deadline_exceeded",
                    status=504,
                ) from None
            self.metrics.refused.labels("too_short").inc()
            raise RequestError(
                f"{DEADLINE}: the texts take about {error.needed * 1e3:.0f} ms, the deadline is "
                f"{(deadline or 0) * 1e3:.0f} ms",
                param=DEADLINE,
                code="deadline_too_short",
            ) from None

    def check_lengths(self, items: Sequence[tuple[str, Sequence[Content]]]) -> None:
        """Refuse too long a text.

        Raises:
            RequestError: naming the field and the limit.
        """
        limit = self.settings.max_text_characters
        for name, contents in items:
            for content in contents:
                if len(content.text) > limit:
                    param = name if content.field == "text" else f"{name}.{content.field}"
                    raise RequestError(
                        f"{param}: {len(content.text)} characters are over the limit of {limit}",
                        param=param,
                        code="text_too_long",
                    )
                if content.context is not None and len(content.context) > limit:
                    # Read, too, and not always judged as well.
                    raise RequestError(
                        f"{name}: what comes before {content.field} has {len(content.context)} "
                        f"characters, over the limit of {limit}",
                        param=name,
                        code="text_too_long",
                    )

    def leave(self) -> None:
        """Be not ready, and answer on."""
        self.metrics.ready.set(0)

    def close(self) -> None:
        """Finish what is queued."""
        self.leave()
        self.reasoning.close()
        if self.engine is not None:
            self.engine.close()
            self.engine = None
        self.loader.close()


def _by_field(evidence: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    """Each content is masked by its own: of many, none is asked of the others'."""
    found: dict[str, list[Evidence]] = {}
    for one in evidence:
        found.setdefault(one.field, []).append(one)
    return found


def moderator_of(request: Request) -> Moderator:
    """The application's moderator."""
    found = request.app.state.moderator
    assert isinstance(found, Moderator)
    return found


def _loader(settings: Settings, metrics: Metrics) -> Loader:
    workers = workers_of(settings.workers, settings.provider, settings.threads)
    # Several servers' workers would all stay on the same cores.
    cores = own_cores(workers, settings.pin) if settings.processes == 1 else []
    return Loader(
        settings.provider, settings.threads, settings.runs, workers, cores, events=metrics
    )


def deadline_of(headers: Headers, default: float | None) -> float | None:
    """Seconds the caller gives: our header, else the one that Envoy adds, else the default.

    Raises:
        RequestError: where ours is not a number of milliseconds.
    """
    if (given := headers.get(DEADLINE)) is None:
        # A route's time is its operator's, and callers never see the header: more than an hour is
        # an hour.
        found = min(_milliseconds(headers.get(ENVOY_DEADLINE, "")), MAX_DEADLINE_MS)
        return found / 1e3 if found else default
    if not 1 <= (found := _milliseconds(given)) <= MAX_DEADLINE_MS:
        raise RequestError(
            f"{DEADLINE}: must be a whole number of milliseconds from 1 to {MAX_DEADLINE_MS}",
            param=DEADLINE,
        )
    return found / 1e3


def _milliseconds(given: str) -> int:
    """A header's number, or another one over the limit; 0 where it is none."""
    # Python refuses to read thousands of digits.
    return int(given.lstrip("0")[:MOST_DIGITS] or 0) if given.isdecimal() else 0
