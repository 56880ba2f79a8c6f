"""What every dialect does: check limits, judge, decide, count."""

import asyncio
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request

from service.disconnect import UntilDisconnect
from service.engine.classifier import Classifier
from service.engine.engine import Engine, Timings
from service.engine.runtime import load_runtime
from service.engine.scheduler import DeadlineError, OverloadedError
from service.engine.warmup import warm_up
from service.errors import RequestError
from service.metrics import Metrics
from service.settings import Settings
from tamis import bundle as bundles
from tamis.content import Content
from tamis.policy import Policy, PolicyError, default_policy, load_policies
from tamis.verdict import Provenance, Verdict, decide

DEADLINE: Final = "x-request-timeout-ms"
ENVOY_DEADLINE: Final = "x-envoy-expected-rq-timeout-ms"
MAX_DEADLINE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts in the order of the items, and how long each stage took."""

    verdicts: list[Verdict]
    timings: Timings


class Moderator:
    """The application's state: settings, policies, metrics, and the engine once it is loaded."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Read the policies.

        Raises:
            PolicyError: where a policy file cannot be used.
        """
        self.settings = settings
        self.metrics = metrics
        shipped = default_policy()
        own = load_policies(settings.policies) if settings.policies else {}
        self.policies: dict[str, Policy] = {shipped.name: shipped} | own
        offered = max(p.deadline_ms or 0 for p in self.policies.values())
        # The longest that a request without a deadline of its own might wait, where over max_wait.
        self._patience = offered / 1e3 if offered > settings.max_wait_ms else None
        self.engine: Engine | None = None

    async def load(self) -> None:
        """Load and warm the engine without holding up the event loop.

        Raises:
            BundleError, ProviderError: where the bundle or the provider is not usable.
        """
        self.engine = await run_in_threadpool(self._load)
        # What is loaded stays: a full collection over it would hold up every request meanwhile.
        gc.collect()
        gc.freeze()

    def _load(self) -> Engine:
        settings = self.settings
        bundle = bundles.load(settings.bundle)
        runtime = load_runtime(bundle.graph, settings.provider, settings.threads)
        classifier = Classifier(bundle, runtime)
        workers = settings.workers or runtime.workers
        engine = Engine(
            classifier,
            warm_up(classifier),
            workers=workers,
            max_queued_tokens=settings.max_queued_tokens,
            max_wait=settings.max_wait_ms / 1e3,
            cache_bytes=settings.cache_bytes,
            events=self.metrics,
        )
        self.metrics.serving(
            {"name": bundle.name, "fingerprint": bundle.fingerprint},
            {
                "provider": runtime.provider,
                "threads": str(runtime.threads),
                "workers": str(workers),
            },
        )
        return engine

    def policy(self, asked: str | Mapping[str, Any] | None) -> Policy:
        """The policy of a request: by name, written out, or the default.

        Raises:
            RequestError: where there is none of that name, or it is not a policy.
        """
        if asked is None:
            return self.policies["default"]
        if isinstance(asked, str):
            try:
                return self.policies[asked]
            except KeyError:
                known = ", ".join(sorted(self.policies))
                raise RequestError(
                    f"policy: there is no policy of that name; known: {known}",
                    param="policy",
                    code="unknown_policy",
                ) from None
        try:
            return Policy.parse(asked)
        except PolicyError as error:
            raise RequestError(str(error), param="policy", code="invalid_policy") from None

    def admit(self, headers: Headers) -> None:
        """Refuse a request unread where no text would be short enough.

        Three times more requests than the machine can do must not take its cores by being parsed.

        Raises:
            RequestError: as ``judge``. A policy's deadline counts where it is offered by name.
        """
        if self.engine is not None:
            deadline = deadline_of(headers, self._patience)
            with self._refusals(deadline):
                self.engine.scheduler.check(deadline)

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
    ) -> Judged:
        """Judge items under a policy; each comes with its name in the request (``input[3]``).

        Raises:
            RequestError: 400 over the text limit or with a deadline under the work, 429 where the
                queue is full or too slow, 503 while loading, 504 past the deadline.
            ClientDisconnect: where the client has left; what waited is dropped.
        """
        self._check_lengths(items)
        own = None if policy.deadline_ms is None else policy.deadline_ms / 1e3
        deadline = deadline_of(request.headers, own)
        engine = self.engine
        if engine is None:
            raise RequestError(
                "the model is still loading", code="not_ready", status=503, headers=_retry(1.0)
            )
        with self._refusals(deadline):
            async with UntilDisconnect(request.receive):
                contents = [c for _, c in items]
                findings, timings = await engine.judge(contents, evidence, deadline)
        bundle = engine.bundle
        provenance = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        verdicts = [decide(found, policy, bundle.thresholds, provenance) for found in findings]
        # Counted once the answer is on its way.
        asyncio.get_running_loop().call_soon(self.metrics.judged, verdicts, timings)
        return Judged(verdicts, timings)

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
                headers=_retry(error.retry_after),
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

    def _check_lengths(self, items: Sequence[tuple[str, Sequence[Content]]]) -> None:
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

    def close(self) -> None:
        """Finish what is queued."""
        self.metrics.ready.set(0)
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def moderator_of(request: Request) -> Moderator:
    """The application's moderator."""
    found = request.app.state.moderator
    assert isinstance(found, Moderator)
    return found


def deadline_of(headers: Headers, default: float | None) -> float | None:
    """Seconds the caller gives: our header, else the one that Envoy adds, else the default.

    Raises:
        RequestError: where ours is not a number of milliseconds.
    """
    given = headers.get(DEADLINE)
    if given is None:
        given = headers.get(ENVOY_DEADLINE)
        if given is None or not given.isdecimal() or not int(given):
            return default
    if not given.isdecimal() or not 1 <= int(given) <= MAX_DEADLINE_MS:
        raise RequestError(
            f"{DEADLINE}: must be a whole number of milliseconds from 1 to {MAX_DEADLINE_MS}",
            param=DEADLINE,
        )
    return int(given) / 1e3


def _retry(seconds: float) -> dict[str, str]:
    """Both spellings: whole seconds for everybody, milliseconds for OpenAI's clients."""
    return {
        "retry-after": str(max(1, round(seconds))),
        "retry-after-ms": str(max(1, round(seconds * 1000))),
    }
