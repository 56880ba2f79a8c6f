"""The bundles of a process: which one serves, what is asked beside it, and how they come."""

import asyncio
import gc
import logging
from pathlib import Path
from typing import Final

from starlette.concurrency import run_in_threadpool

from service.engine.engine import Engine
from service.engine.loader import Loader, own_cores, workers_of
from service.engine.pairs import Rulings
from service.engine.workers.processes import LostError
from service.errors import RequestError, retry_after
from service.moderation.rules import Rules
from service.moderation.tiers import Tiers, Tongues
from service.observing.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger("tamis.service")

# Seconds between two looks whether all workers live.
TEND: Final = 1.0


class Serving:
    """The engine, once it is loaded, and the bundles that it may ask as well, as they come."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.engine: Engine | None = None
        self.loader = _loader(settings, metrics)
        self.tiers = Tiers(settings, metrics, self.loader)
        self.tongues = Tongues(settings, metrics, self.loader)
        self.rules = Rules(settings, metrics)
        self.leaving = False
        self._started, self._tried = asyncio.Event(), asyncio.Event()

    async def load(self) -> None:
        """Load and warm the engine without holding up the event loop.

        It ends though the accurate tier may have no bundle yet, for ``watch_tiers`` to serve.

        Raises:
            BundleError, ProviderError: where the bundle or the provider is not usable.
        """
        try:
            if self._settings.tier == "accurate":
                await self.tiers.look(self._start)
                return
            await self._start(self._settings.bundle)
            if self._settings.tier == "cascade":
                self.tiers.expect(self.loaded())
        finally:
            self._tried.set()

    async def watch_tiers(self) -> None:
        """Look for the accurate bundle until cancelled, where the tier has one."""
        await self._tried.wait()
        if self._settings.tier == "accurate":
            await self.tiers.alone(self._start)
        elif self._settings.tier == "cascade":
            await self._started.wait()
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
            if not self.leaving:
                self._metrics.ready.set(float(crew.alive > 0))

    async def _start(self, path: Path) -> None:
        """Serve a bundle, and beside it the multilingual one and the encoder that are there."""
        try:
            engine = await run_in_threadpool(self._load, path)
            await self.tongues.join(engine)
            await self.rules.join(engine)
            if self.loader.crew is not None:
                await run_in_threadpool(self.loader.crew.tend)
        except Exception as error:
            self._metrics.failed(error)
            raise
        self.engine, bundle = engine, engine.bundle
        self._metrics.ready.set(1)
        self._started.set()
        logger.info("ready: %s@%s", bundle.name, bundle.fingerprint[:12])
        # What is loaded stays: a full collection over it would hold up every request meanwhile.
        gc.collect()
        gc.freeze()

    def _load(self, path: Path) -> Engine:
        settings = self._settings
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
            events=self._metrics,
        )
        self._metrics.serving(
            {"name": bundle.name, "fingerprint": bundle.fingerprint},
            {
                "provider": running.provider,
                "threads": str(running.threads),
                "workers": str(running.runs),
            },
            "accurate" if settings.tier == "accurate" else "fast",
        )
        return engine

    def loaded(self) -> Engine:
        """The engine.

        Raises:
            RequestError: 503 while it is loading.
        """
        if self.engine is None:
            reason, seconds = self.tiers.wait
            raise RequestError(reason, code="not_ready", status=503, headers=retry_after(seconds))
        return self.engine

    @property
    def rulings(self) -> Rulings | None:
        """Who judges categories that are a policy's own, where somebody does."""
        return None if self.engine is None else self.engine.rules

    @property
    def busy(self) -> bool:
        """Whether texts wait to be judged."""
        return self.engine is not None and self.engine.scheduler.queued_tokens > 0

    def leave(self) -> None:
        """Be not ready, and answer on."""
        self.leaving = True
        self._metrics.ready.set(0)

    def close(self) -> None:
        """Finish what is queued."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
        self.loader.close()


def _loader(settings: Settings, metrics: Metrics) -> Loader:
    workers = workers_of(settings.workers, settings.provider, settings.threads)
    # Several servers' workers would all stay on the same cores.
    cores = own_cores(workers, settings.pin) if settings.processes == 1 else []
    return Loader(
        settings.provider, settings.threads, settings.runs, workers, cores, events=metrics
    )
