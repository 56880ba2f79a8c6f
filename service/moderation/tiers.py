"""Bundles beside the fast one in a service: on their way, loaded, asked alone or beside it."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from starlette.concurrency import run_in_threadpool

from service.engine.engine import Engine
from service.engine.judging import Served
from service.engine.loader import Loader
from service.moderation.arrival import Arrival, Joining, State
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis.bundle import BundleError
from tamis.tiers import Bands, load_bands

logger = logging.getLogger("tamis.service")

# Why the accurate tier does not answer yet; None where its failure says so.
WAITING: Final[dict[State, str]] = {
    "absent": "the accurate bundle is not there; `tamis export accurate` makes it",
    "building": "the accurate bundle is being built",
    "loading": "the accurate bundle is still loading",
}
# What a build and a load take on two cores, in seconds.
SOON: Final[dict[State, float]] = {"building": 60.0, "loading": 5.0}


class Tiers:
    """The accurate bundle's state in a process. The fast tier needs nothing of it."""

    def __init__(self, settings: Settings, metrics: Metrics, loader: Loader) -> None:
        self._loader, self._metrics = loader, metrics
        self.tier = settings.tier
        wanted = settings.tier != "fast"
        self._arrival = Arrival(settings.accurate if wanted else None, "the accurate bundle")
        self._served = False
        self.trouble: str | None = None
        """Why a cascade asks nobody twice."""

    @property
    def state(self) -> State:
        """How the bundle stands."""
        return self._arrival.state

    @property
    def reason(self) -> str | None:
        """Why the accurate bundle does not answer; None where it does, or nobody wants it to."""
        if self._arrival.state == "failed":
            return f"the accurate bundle could not be loaded: {self._arrival.failure}"
        return WAITING.get(self._arrival.state) or self.trouble

    @property
    def wait(self) -> tuple[str, float]:
        """While nothing answers: what is waited for, and in how many seconds to ask again."""
        if self.tier == "accurate" and self.reason is not None:
            return self.reason, SOON.get(self.state, 1.0)
        # Of a cascade, too: its fast bundle waits for no other.
        return "the model is still loading", 1.0

    async def look(self, take: Callable[[Path], Awaitable[None]]) -> None:
        """Serve the bundle where it is there already."""
        await self._arrival.look(partial(self._first, take))

    async def alone(self, take: Callable[[Path], Awaitable[None]]) -> None:
        """Look for the bundle until cancelled, and serve it when it comes; later ones wait."""
        await self._arrival.watch(partial(self._first, take))

    def expect(self, engine: Engine) -> None:
        """Have an engine find what it is unsure of, before there is anybody else to ask."""
        engine.consult(self._bands(engine))

    async def beside(self, engine: Engine) -> None:
        """Look for the bundle until cancelled, and have the engine ask it when it is unsure."""

        async def take(path: Path) -> None:
            classifier, pace = await run_in_threadpool(self._loader.load, path, "accurate")
            # A build brings the bands that were chosen for what it builds.
            engine.consult(self._bands(engine, classifier), classifier, pace)
            self._metrics.unasked("accurate")
            if self.trouble is None:
                bundle = classifier.bundle
                self._metrics.beside("accurate", bundle.name, bundle.fingerprint)
                logger.info("asking twice: %s@%s", bundle.name, bundle.fingerprint[:12])

        await self._arrival.watch(take)

    async def _first(self, take: Callable[[Path], Awaitable[None]], path: Path) -> None:
        if self._served:
            logger.warning("the accurate bundle is a new one: restart to serve it")
            return
        await take(path)
        self._served = True

    def _bands(self, engine: Engine, accurate: Served | None = None) -> Bands | None:
        """The bands, where there are any for these bundles; else why not, for all to see."""
        assert self._arrival.path is not None
        try:
            bands = load_bands(self._arrival.path)
            bands.check(engine.bundle, None if accurate is None else accurate.bundle)
        except BundleError as error:
            self.trouble = f"no second opinions: {error}"
            logger.warning("%s", self.trouble)
            return None
        self.trouble = None
        return bands


class Tongues(Joining):
    """The multilingual bundle's state in a process: it judges what the tier's own cannot read."""

    def __init__(self, settings: Settings, metrics: Metrics, loader: Loader) -> None:
        name = "the multilingual bundle"
        super().__init__(settings.multilingual, name, name)
        self._loader, self._metrics = loader, metrics

    async def _take(self, engine: Engine, path: Path) -> None:
        classifier, pace = await run_in_threadpool(self._loader.load, path, "multilingual")
        engine.read_by(classifier, pace)
        bundle = classifier.bundle
        self._metrics.beside("multilingual", bundle.name, bundle.fingerprint)
        logger.info("other languages: %s@%s", bundle.name, bundle.fingerprint[:12])
